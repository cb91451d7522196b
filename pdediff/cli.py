"""The command line: `pdediff COMMAND [key=value ...]`. Results go to stdout, errors and progress to stderr."""

from __future__ import annotations

import json
import sys
from collections.abc import Sequence
from enum import StrEnum
from pathlib import Path
from typing import Annotated, Any

import typer

from pdediff import __version__
from pdediff.environment import set_environment
from pdediff.errors import ConfigError, IntegrityError
from pdediff.terminal import guard, say

app = typer.Typer(
    name="pdediff",
    help="Posterior samples of fields and parameters of PDEs from a few sensors.\n\n"
    "Example:  pdediff generate pde=darcy samples=2048 grid=32",
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
    context_settings={"help_option_names": ["-h", "--help"]},
)


class Device(StrEnum):
    """Where networks and solvers run."""

    auto = "auto"
    cpu = "cpu"
    cuda = "cuda"


Words = Annotated[
    list[str] | None,
    typer.Argument(metavar="KEY=VALUE", help="such as pde=ks1d or pde.alpha=3", show_default=False),
]
Root = Annotated[Path, typer.Option("--data-root", help="folder of all results")]
AsJson = Annotated[bool, typer.Option("--json", help="one JSON object per event on stdout")]
Quiet = Annotated[bool, typer.Option("--quiet", "-q", help="no progress")]
Debug = Annotated[bool, typer.Option("--debug", help="show the traceback of an error")]
Workers = Annotated[int | None, typer.Option("--workers", help="worker processes", show_default="2")]
OnDevice = Annotated[Device | None, typer.Option("--device", help="device of the workers", show_default="auto")]
DryRun = Annotated[bool, typer.Option("--dry-run", help="print what would be done")]
Prefect = Annotated[bool, typer.Option("--prefect/--no-prefect", help="run as a Prefect flow")]
Paths = Annotated[list[str], typer.Argument(help="path or name of a result", show_default=False)]
ROOT = Path("data")


def _stage(name: str, example: str, summary: str, *, prefect: bool = False, dry: bool = True) -> None:
    """Register a stage command; all have the same options."""

    def run(
        words: Words = None,
        data_root: Root = ROOT,
        as_json: AsJson = False,
        quiet: Quiet = False,
        debug: Debug = False,
        workers: Workers = None,
        device: OnDevice = None,
        use_prefect: Prefect = prefect,
        dry_run: DryRun = False,
    ) -> None:
        from pdediff.launch import Options, plan, prepare

        chosen = device.value if device else None
        options = Options(data_root, as_json, quiet, workers, chosen, use_prefect)
        job = prepare(name, words or [], options)
        if dry_run:
            _emit(plan(job), as_json)
        else:
            _finish(job.run(), as_json)

    run.__doc__ = f"{summary}\n\nExample:  {example}"
    if not dry:
        run.__annotations__["dry_run"] = Annotated[bool, typer.Option("--dry-run", hidden=True)]
    app.command(name)(run)


_stage("demo", "pdediff demo", "The whole job on Darcy flow: data, prior, posteriors, report.", prefect=True, dry=False)
_stage("generate", "pdediff generate pde=darcy samples=2048 grid=32", "Solve a PDE for random inputs, into a data set.")
_stage("train", "pdediff train data=darcy network=unet fit.steps=2000", "Train a diffusion prior on a data set.")
_stage("sample", "pdediff sample prior=darcy n=64 sampler=ddim", "Draw fields from a prior.", dry=False)
_stage(
    "reconstruct",
    "pdediff reconstruct prior=darcy data=darcy posterior=calibrated observations=sensors.csv",
    "Draw fields from the posterior given sensors.",
)
_stage(
    "evaluate", "pdediff evaluate calibrated dps levels=[0.5,0.9]", "Score reconstructions, write a report.", dry=False
)


@app.command()
def report(run: str, data_root: Root = ROOT, as_json: AsJson = False, debug: Debug = False) -> None:
    """Scores and HTML report of one reconstruction.

    Example:  pdediff report calibrated
    """
    from pdediff.launch import Options, prepare

    _finish(prepare("evaluate", [run], Options(data_root, as_json, quiet=True)).run(), as_json)


@app.command()
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
        _emit({"path": str(path), "damages": len(found)}, as_json)
        for damage in found:
            _emit({"kind": damage.kind, "message": damage.message}, as_json)
    if damages:
        more = f" (and {len(damages) - 1} more)" if len(damages) > 1 else ""
        raise IntegrityError(damages[0].message + more, hint=remedies[0])


@app.command()
def repair(paths: Paths, data_root: Root = ROOT, as_json: AsJson = False, debug: Debug = False) -> None:
    """Compute the damaged parts of results again, bit for bit.

    Example:  pdediff repair data/sets/darcy-0123456789ab
    """
    from pdediff import stages
    from pdediff.locate import locate_any
    from pdediff.runtime import Runtime

    set_environment(data_root)
    for path in [locate_any(data_root, text) for text in paths]:
        _emit({"path": str(path), "repaired": stages.repair(path, data_root, Runtime(cluster="inline"))}, as_json)


@app.command("ls")
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
            _emit({k: str(getattr(entry, k)) for k in ("kind", "name", "hash", "status", "size", "path")}, as_json)
        else:
            _print(f"{entry.kind:8} {entry.status:9} {entry.size / 1e6:9.1f} MB  {entry.name}-{entry.hash}")


@app.command()
def show(run: str, data_root: Root = ROOT, as_json: AsJson = False, debug: Debug = False) -> None:
    """Config and provenance of one result.

    Example:  pdediff show darcy
    """
    from pdediff.locate import locate_any

    path = locate_any(data_root, run)
    told: dict[str, Any] = {"path": str(path)}
    for name in ("config", "manifest"):
        if (path / f"{name}.json").is_file():
            told[name] = _read_json(path / f"{name}.json")
    _print(json.dumps(told) if as_json else _yaml(told))


@app.command("list")
def list_options(group: Annotated[str | None, typer.Argument()] = None, debug: Debug = False) -> None:
    """The ready-made configs: all groups, or one.

    Example:  pdediff list posterior
    """
    from pdediff.flows import compose

    found = compose.groups()
    if group is None:
        for name, options in found.items():
            _print(f"{name:12} {', '.join(options)}")
        return
    if group not in found:
        compose.node(group, "")
    for option in found[group]:
        _print(f"{option}: {json.dumps(compose.node(group, option))}")


@app.command()
def config(
    command: str,
    words: Words = None,
    schema: Annotated[bool, typer.Option("--schema", help="JSON schema of the config, for editors")] = False,
    as_json: AsJson = False,
    debug: Debug = False,
) -> None:
    """The checked config of a stage, every option written out.

    Example:  pdediff config generate pde=ks1d samples=4096
    """
    from pdediff.launch import checked, model_of

    if schema:
        _print(json.dumps(model_of(command).model_json_schema(), indent=2))
        return
    told = checked(command, words or []).model_dump(mode="json")
    _print(json.dumps(told) if as_json else _yaml(told))


@app.command()
def doctor(data_root: Root = ROOT, as_json: AsJson = False, debug: Debug = False) -> None:
    """Check the installation, with a small run.

    Example:  pdediff doctor
    """
    from pdediff import doctor as checks

    def tell(told: dict[str, Any]) -> None:
        _print(
            json.dumps(told) if as_json else f"{'ok' if told['ok'] else 'FAIL':5} {told['check']:9} {told['detail']}"
        )

    checks.run(data_root, tell)


def main(argv: Sequence[str] | None = None) -> None:
    """Entry point of the `pdediff` command."""
    sys.exit(run(sys.argv[1:] if argv is None else argv))


def run(argv: Sequence[str]) -> int:
    """Run one command line in this process; its exit code."""
    set_environment()  # before numpy is loaded: work in this process and in workers has to give the same bits
    return guard(lambda: _invoke(list(argv)), argv, debug="--debug" in argv)


def _invoke(argv: list[str]) -> None:
    usage_error: type[Exception] = typer.BadParameter.__bases__[0]
    try:
        if argv == ["--version"]:
            _print(__version__)
        else:
            app(argv or ["--help"], standalone_mode=False, prog_name="pdediff")
    except usage_error as error:
        message = " ".join(error.format_message().split())  # type: ignore[attr-defined]
        command = next((word for word in argv if not word.startswith("-")), "")
        known = command in {one.name or getattr(one.callback, "__name__", "") for one in app.registered_commands}
        asked = f"pdediff {command} --help` shows its options" if known else "pdediff --help` shows the commands"
        raise ConfigError(message, hint=f"`{asked}") from None


def _finish(path: Path, as_json: bool) -> None:
    """Tell the result: the table of scores if there is one, and on the last line the path."""
    shown = path / "report.html" if (path / "report.html").is_file() else path
    if as_json:
        _emit({"event": "result", "path": str(shown)}, as_json)
        return
    if (path / "scores.txt").is_file():
        _print((path / "scores.txt").read_text())
    _print(str(shown))


def _emit(told: dict[str, Any], as_json: bool) -> None:
    _print(json.dumps(told) if as_json else ", ".join(f"{key}: {value}" for key, value in told.items()))


def _print(text: str) -> None:
    sys.stdout.write(f"{text}\n")
    sys.stdout.flush()


def _read_json(path: Path) -> Any:
    try:
        return json.loads(path.read_text())
    except ValueError:
        raise IntegrityError(f"{path} is damaged", hint="`pdediff repair` may restore it") from None


def _yaml(data: Any) -> str:
    import yaml

    return yaml.safe_dump(data, sort_keys=False).rstrip()
