"""Generate a data set: draw problems of a PDE, solve them, check them, store them."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from pdediff import config as configs
from pdediff.errors import RejectedError
from pdediff.pdes import PDE, check
from pdediff.runtime import Runtime
from pdediff.stages.configs import GenerateConfig
from pdediff.stages.folders import VERSION, output_folder, rejected_of
from pdediff.store import ArraySpec, Receipt, Schema, Writer, create, is_complete, write_shard
from pdediff.types import Purpose, derive, derive_many

ATTEMPTS = 3
"""How often a sample that fails its checks is drawn again, each time from a seed of its own."""


@dataclass(frozen=True)
class ShardTask:
    """One unit of work: the rows of one shard; plain data that travels to a worker."""

    path: Path
    shard: int
    rows: tuple[int, int]
    identity: dict[str, Any]


def generate(config: GenerateConfig, root: Path, runtime: Runtime) -> Path:
    """The folder of the data set that `config` describes: made, completed, or returned as it is.

    Raises RejectedError when more than `max_rejected` of the samples were rejected; the store is complete even so.
    """
    pde: PDE = configs.build("pde", config.pde)
    identity = {"stage": "generate", "config": config.model_dump(exclude={"name", "max_rejected"})}
    path = output_folder(root, "sets", config.name or pde.name, identity)
    if not is_complete(path):
        create(path, schema_of(pde, config), identity)
        with Writer(path) as writer:
            tasks = [task_of(path, shard, identity, writer.schema) for shard in writer.missing()]
            failures = runtime.map(
                compute_shard,
                tasks,
                label="generate",
                on_result=lambda _, receipts: writer.accept(receipts),
                size=_size,
                rejected=_rejected,
            )
            for failure in failures:
                writer.accept(_refuse(failure.item, failure.reason))
            writer.finish({"max_rejected": config.max_rejected})
    _judge(path, rejected_of(path), config)
    return path


def task_of(path: Path, shard: int, identity: dict[str, Any], schema: Schema) -> ShardTask:
    """The work order of one shard."""
    rows = schema.rows(shard)
    return ShardTask(path, shard, (rows.start, rows.stop), identity)


def schema_of(pde: PDE, config: GenerateConfig) -> Schema:
    """The layout of the set: one array for each variable, the split, coordinates, and what the PDE says of itself."""
    coords = pde.coordinates(config.grid)
    specs = [
        ArraySpec(
            v.name,
            ("sample", *v.dims),
            "float32",
            tuple(len(coords[d]) for d in v.dims),
            {"units": v.units, "long_name": v.long_name, "role": v.role},
        )
        for v in pde.variables()
    ]
    meaning = {"long_name": "split", "flag_values": [0, 1, 2], "flag_meanings": "train valid test", "units": "1"}
    attrs = {
        "pde": pde.name,
        "formula": pde.formula,
        "boundary": pde.boundary,
        "symmetries": pde.symmetries,
        "method": pde.inner_description(config.grid),
        "pdediff_version": VERSION,
    }
    return Schema(
        unit="sample",
        size=config.samples,
        arrays=(*specs, ArraySpec("split", ("sample",), "int8", (), meaning)),
        coords={name: (values, {"units": "1", "long_name": name}) for name, values in coords.items()},
        attrs=attrs,
        shard=config.shard,
        chunk=1,
    )


def compute_shard(task: ShardTask) -> list[Receipt]:
    """Solve and write one shard; runs in a worker and returns receipts only."""
    begun = time.perf_counter()
    config = GenerateConfig.model_validate(task.identity["config"])
    pde: PDE = configs.build("pde", config.pde)
    first, stop = task.rows
    names = [v.name for v in pde.variables()]
    parts: list[dict[str, np.ndarray]] = []
    keys: list[int] = []
    rejected: dict[int, str] = {}
    for start in range(first, stop, config.tile):
        # A full tile always: the bits of a row may depend on the batch size, and on nothing else.
        fields, seeds, reasons = _tile(pde, config, start)
        keep = min(start + config.tile, stop) - start
        parts.append({name: fields[name][:keep] for name in names})
        keys += seeds[:keep]
        rejected |= {start + i: reason for i, reason in reasons.items() if i < keep}
    data = {name: np.concatenate([part[name] for part in parts]) for name in names}
    data["split"] = split_of(config, range(first, stop))
    seconds = time.perf_counter() - begun
    return write_shard(task.path, task.shard, data, keys, rejected, VERSION, seconds)


def split_of(config: GenerateConfig, rows: Sequence[int]) -> np.ndarray:
    """0 train, 1 valid, 2 test: consecutive blocks, which are as good as random ones for independent samples."""
    train = round(config.split.train * config.samples)
    valid = train + round(config.split.valid * config.samples)
    return np.searchsorted([train, valid], np.asarray(rows), side="right").astype("int8")


def _tile(pde: PDE, config: GenerateConfig, start: int) -> tuple[dict[str, np.ndarray], list[int], dict[int, str]]:
    seeds = list(derive_many(config.seed, Purpose.PROBLEM, range(start, start + config.tile)))
    fields, reasons = _solve(pde, seeds, config.grid)
    for attempt in range(1, ATTEMPTS):
        failed = [i for i, reason in enumerate(reasons) if reason is not None]
        if not failed:
            break
        for i in failed:
            seeds[i] = derive(config.seed, Purpose.PROBLEM, start + i, attempt)
        again, found = _solve(pde, seeds, config.grid)
        for i in failed:
            reasons[i] = found[i]
            for name in fields:
                fields[name][i] = again[name][i]
    return fields, seeds, {i: reason for i, reason in enumerate(reasons) if reason is not None}


def _solve(pde: PDE, seeds: Sequence[int], grid: int) -> tuple[dict[str, np.ndarray], list[str | None]]:
    fields = pde.solve(pde.draw(seeds, grid))
    return {name: values.detach().cpu().numpy().copy() for name, values in fields.items()}, check(pde, fields)


def _size(task: ShardTask) -> int:
    return task.rows[1] - task.rows[0]


def _rejected(receipts: list[Receipt]) -> int:
    return sum(receipt.status != "ok" for receipt in receipts)


def _refuse(task: ShardTask, reason: str) -> list[Receipt]:
    """Receipts of a shard whose computation kills its worker: every sample rejected, with the reason."""
    config = GenerateConfig.model_validate(task.identity["config"])
    pde: PDE = configs.build("pde", config.pde)
    coords = pde.coordinates(config.grid)
    rows = range(*task.rows)
    data = {v.name: np.zeros((len(rows), *(len(coords[d]) for d in v.dims))) for v in pde.variables()}
    data["split"] = split_of(config, rows)
    keys = derive_many(config.seed, Purpose.PROBLEM, rows)
    return write_shard(task.path, task.shard, data, keys, dict.fromkeys(rows, reason), VERSION, 0.0)


def _judge(path: Path, rejected: dict[int, str], config: GenerateConfig) -> None:
    if len(rejected) > config.max_rejected * config.samples:
        index, reason = next(iter(rejected.items()))
        raise RejectedError(
            f"{len(rejected)} of {config.samples} samples were rejected, "
            f"more than max_rejected={config.max_rejected:g}; sample {index}: {reason}",
            hint=f"the others are in {path}" if len(rejected) < config.samples else "does a larger grid resolve it?",
        )
