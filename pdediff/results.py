"""Commands about stored results: check, mend, list, show, export, import."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated, Any

import typer

from pdediff.console import ROOT, AsJson, Debug, Layout, Paths, Quiet, Root, emit, finish, read_json, to_yaml, write
from pdediff.environment import set_environment
from pdediff.errors import IntegrityError
from pdediff.terminal import say


def verify(paths: Paths, data_root: Root = ROOT, as_json: AsJson = False, debug: Debug = False) -> None:
    """Check every stored byte of results.

    Example:  pdediff verify data/sets/darcy-0123456789ab
    """
    from pdediff.locate import locate_any
    from pdediff.stages import repairs

    damages, remedies = [], []
    for path in [locate_any(data_root, text) for text in paths]:
        found = repairs.verify(path)
        damages += found
        remedies += [repairs.remedy(path)] if found else []
        emit({"path": str(path), "damages": len(found)}, as_json)
        for damage in found:
            emit({"kind": damage.kind, "message": damage.message}, as_json)
    if damages:
        more = f" (and {len(damages) - 1} more)" if len(damages) > 1 else ""
        raise IntegrityError(damages[0].message + more, hint=remedies[0])


def repair(paths: Paths, data_root: Root = ROOT, as_json: AsJson = False, debug: Debug = False) -> None:
    """Compute the damaged parts of results again, bit for bit.

    Example:  pdediff repair data/sets/darcy-0123456789ab
    """
    from pdediff import stages
    from pdediff.locate import locate_any
    from pdediff.runtime import Runtime

    set_environment(data_root)
    for path in [locate_any(data_root, text) for text in paths]:
        emit({"path": str(path), "repaired": stages.repair(path, data_root, Runtime(cluster="inline"))}, as_json)


def export_set(
    data: str,
    out: Path,
    layout: Annotated[Layout, typer.Option("--format", help="layout of the file")] = Layout.well,
    split: Annotated[str | None, typer.Option("--split", help="train, valid or test", show_default="all")] = None,
    data_root: Root = ROOT,
    as_json: AsJson = False,
    debug: Debug = False,
) -> None:
    """Write a data set as an HDF5 file of The Well or of PDEBench.

    Example:  pdediff export darcy darcy.hdf5 --format pdebench --split test
    """
    from pdediff.locate import locate
    from pdediff.stages import exchange

    finish(exchange.export(locate(data_root, "data", data), out, layout.value, split), as_json)


def import_set(
    file: Path,
    name: Annotated[str | None, typer.Option("--name", help="name of the set", show_default="that of the file")] = None,
    pde: Annotated[str | None, typer.Option("--pde", help="equation whose names and bounds are checked")] = None,
    rename: Annotated[list[str] | None, typer.Option("--rename", metavar="THERE=HERE", help="name of a field")] = None,
    max_rejected: Annotated[float, typer.Option("--max-rejected", help="largest share of rejected samples")] = 0.01,
    data_root: Root = ROOT,
    as_json: AsJson = False,
    quiet: Quiet = False,
    debug: Debug = False,
) -> None:
    """Check an HDF5 file of The Well or of PDEBench and store it as a data set.

    Example:  pdediff import 2D_DarcyFlow_beta1.0_Train.hdf5 --rename nu=permeability --rename tensor=pressure
    """
    from pdediff.flows import compose
    from pdediff.progress import choose
    from pdediff.stages import exchange

    set_environment(data_root)
    node = compose.node("pde", pde) if pde else None
    told = exchange.settings(name, node, rename or [], max_rejected)
    finish(exchange.import_file(told, file, data_root, choose(as_json=as_json, quiet=quiet)), as_json)


def list_results(data_root: Root = ROOT, as_json: AsJson = False, debug: Debug = False) -> None:
    """What is stored under the data root.

    Example:  pdediff ls --data-root data
    """
    from pdediff.store import catalogue

    found = catalogue(data_root)
    if not found and not as_json:
        say(f"nothing is stored under {data_root} yet; `pdediff generate` makes a data set")
    for entry in found:
        if as_json:
            emit({k: str(getattr(entry, k)) for k in ("kind", "name", "hash", "status", "size", "path")}, as_json)
        else:
            write(f"{entry.kind:8} {entry.status:9} {entry.size / 1e6:9.1f} MB  {entry.name}-{entry.hash}")


def show(run: str, data_root: Root = ROOT, as_json: AsJson = False, debug: Debug = False) -> None:
    """Config and provenance of one result.

    Example:  pdediff show darcy
    """
    from pdediff.locate import locate_any

    path = locate_any(data_root, run)
    told: dict[str, Any] = {"path": str(path)}
    for name in ("config", "manifest"):
        if (path / f"{name}.json").is_file():
            told[name] = read_json(path / f"{name}.json")
    write(json.dumps(told) if as_json else to_yaml(told))
