"""Mend a damaged store: the parts that are not what was written are computed again, bit for bit."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

from pdediff.errors import IntegrityError
from pdediff.locate import locate
from pdediff.runtime import Runtime
from pdediff.stages import generation, reconstruction, sampling
from pdediff.store import Receipt, read_identity, read_schema
from pdediff.store import repair as repair_store

Compute = Callable[[Any], list[Receipt]]


def repair(path: Path, root: Path, runtime: Runtime) -> list[int]:
    """Numbers of the shards that were computed again; the content hash is the old one.

    Raises IntegrityError where the result comes out different or the folder holds no store, ConfigError where the
    prior or the data set it was made from is gone.
    """
    identity = read_identity(path)
    compute, order = _maker(path, identity, root, runtime)

    def again(shard: int) -> list[Receipt]:
        found: list[Receipt] = []
        runtime.map(compute, [order(shard)], label="repair", on_result=lambda _, receipts: found.extend(receipts))
        return found

    return repair_store(path, again)


def _maker(path: Path, identity: dict[str, Any], root: Path, runtime: Runtime) -> tuple[Compute, Callable[[int], Any]]:
    """The function that computes a work order, and the one that makes the order of a shard."""
    stage, schema = identity.get("stage"), read_schema(path)
    if stage == "generate":
        return generation.compute_shard, lambda shard: generation.task_of(path, shard, identity, schema)
    if stage not in ("sample", "reconstruct"):
        raise IntegrityError(f"{path} was made by stage {stage!r}, which keeps nothing that can be computed again")
    prior = locate(root, "prior", identity["prior"]["folder"])
    if stage == "sample":
        device = runtime.device
        return sampling.compute_tile, lambda shard: sampling.task_of(path, shard, identity, schema, prior, device)
    data = locate(root, "data", identity["data"]["folder"]) if identity["data"] else None
    readings = reconstruction.stored_cases(path, identity, prior, data)
    return reconstruction.compute_case, lambda case: reconstruction.CaseTask(
        path, case, identity, readings[case], prior, data, runtime.device
    )
