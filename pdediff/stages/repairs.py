"""Check results byte by byte, and mend a damaged store: what is not what was written is computed again."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

from pdediff import checkpoint
from pdediff.errors import IntegrityError
from pdediff.locate import locate
from pdediff.runtime import Runtime
from pdediff.stages import forecasting, generation, reconstruction, sampling, surrogates
from pdediff.stages.folders import damaged_files
from pdediff.store import Damage, Receipt, read_identity, read_manifest, read_schema
from pdediff.store import repair as repair_store
from pdediff.store import verify as verify_store

Compute = Callable[[Any], list[Receipt]]


def verify(path: Path) -> list[Damage]:
    """Everything that keeps a result from being complete and exactly what was written; empty when it is."""
    if not _is_run(path) and not _is_report(path):
        return verify_store(path)
    try:
        manifest = read_manifest(path)
    except IntegrityError as error:
        return [Damage("manifest", error.message)]
    if manifest is None:
        return [Damage("incomplete", f"{path} is not complete")]
    if _is_report(path):
        return [Damage("content", f"{path / name} is damaged") for name in damaged_files(path, manifest)]
    found = [Damage("checksum", message) for message in checkpoint.damages(path)]
    finals = sorted((path / checkpoint.FOLDER).glob("final-*"))
    if not found and (not finals or checkpoint.digest(finals[-1]) != manifest["content"]):
        found.append(Damage("missing", f"the final checkpoint of {path.name} is not the one of its manifest"))
    return found


def remedy(path: Path) -> str:
    """What to do about a damaged result."""
    if _is_run(path):
        return "run the training again; it continues from the checkpoints that are left"
    if _is_report(path):
        if path.resolve().parent.name == "plans":
            return "run tune again; it writes the plan again"
        stage = "benchmark" if path.name.startswith("benchmark-") else "evaluate"
        return f"run {stage} again; it writes the report again"
    return f"`pdediff repair {path.name}` computes the damaged parts again"


def repair(path: Path, root: Path, runtime: Runtime) -> list[int]:
    """Numbers of the shards that were computed again; the content hash is the old one.

    Raises IntegrityError where the result comes out different and for damaged runs and reports, which their stages
    make again; ConfigError where the prior or the data set it was made from is gone.
    """
    if _is_run(path) or _is_report(path):
        for damage in verify(path):
            raise IntegrityError(damage.message, hint=remedy(path))
        return []

    def again(shard: int) -> list[Receipt]:
        # only here, where a damaged config is restored already
        compute, order = _maker(path, read_identity(path), root, runtime)
        found: list[Receipt] = []
        runtime.map(compute, [order(shard)], label="repair", on_result=lambda _, receipts: found.extend(receipts))
        return found

    return repair_store(path, again)


def _is_run(path: Path) -> bool:
    return (path / checkpoint.FOLDER).is_dir()


def _is_report(path: Path) -> bool:
    others = any((path / name).exists() for name in ("data.zarr", "config.json", checkpoint.FOLDER))
    return not others and any((path / name).exists() for name in ("manifest.json", "report.html"))


def _maker(path: Path, identity: dict[str, Any], root: Path, runtime: Runtime) -> tuple[Compute, Callable[[int], Any]]:
    """The function that computes a work order, and the one that makes the order of a shard."""
    stage, schema = identity.get("stage"), read_schema(path)
    if stage == "generate":
        refused = generation.duplicates_of((read_manifest(path) or {}).get("attrs", {}))
        return generation.compute_shard, lambda shard: generation.task_of(
            path, shard, identity, schema, runtime.device, refused
        )
    if stage == "forecast":
        model, read = (locate(root, what, identity[what]["folder"]) for what in ("model", "data"))
        return surrogates.computing(model), lambda shard: forecasting.task_of(
            path, shard, identity, schema, model, read, runtime.device
        )
    if stage not in ("sample", "reconstruct"):
        raise IntegrityError(f"{path} was made by stage {stage!r}, which keeps nothing that can be computed again")
    if stage == "sample":
        run, device = locate(root, "prior", identity["prior"]["folder"]), runtime.device
        return sampling.compute_tile, lambda shard: sampling.task_of(path, shard, identity, schema, run, device)
    prior = locate(root, "prior", identity["prior"]["folder"]) if identity["prior"] else None
    data = locate(root, "data", identity["data"]["folder"]) if identity["data"] else None
    readings = reconstruction.stored_cases(path, identity, prior, data)
    return reconstruction.compute_cases, lambda shard: reconstruction.task_of(
        path, shard, schema, readings, (identity, prior, data), runtime.device
    )
