"""Generate a data set: draw problems of a PDE, solve them, check them, store them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from pdediff import config as configs
from pdediff.errors import RejectedError
from pdediff.pdes import PDE
from pdediff.runtime import Device, Runtime, resolve_device
from pdediff.stages.folders import VERSION, output_folder, rejected_of
from pdediff.stages.generation_config import GenerateConfig
from pdediff.stages.generation_layout import resolved
from pdediff.stages.generation_plan import Level, Plan, Trial, make_plan, measured, unmeasured
from pdediff.stages.generation_schema import accuracy_attributes, schema_of
from pdediff.stages.generation_tile import duplicates, solve_tile
from pdediff.store import (
    Receipt,
    Schema,
    Writer,
    create,
    create_first,
    is_complete,
    is_described,
    read_identity,
    read_schema,
    require_place,
    write_shard,
)
from pdediff.types import Purpose, derive_many

_REPEATS = "the same outputs as sample "


@dataclass(frozen=True)
class ShardTask:
    """One unit of work: the rows of one shard; plain data that travels to a worker.

    `refused` are rows that are rejected whatever comes out, with the reason.
    """

    path: Path
    shard: int
    rows: tuple[int, int]
    identity: dict[str, Any]
    device: Device = "cpu"
    refused: dict[int, str] = field(default_factory=dict)


Work = ShardTask | Trial


def generate(config: GenerateConfig, root: Path, runtime: Runtime) -> Path:
    """The folder of the data set that `config` describes: made, completed, or returned as it is.

    Raises RejectedError when more than `max_rejected` of the samples were rejected; the store is complete even so.
    """
    config = resolved(config)
    pde: PDE = configs.build("pde", config.pde)
    identity = {"stage": "generate", "config": config.model_dump(exclude={"name", "max_rejected"})}
    path = output_folder(root, "sets", config.name or pde.name, identity)
    if not is_complete(path):
        with runtime.open():
            _make(path, config, identity, runtime)
    _judge(path, rejected_of(path), config)
    return path


def _make(path: Path, config: GenerateConfig, identity: dict[str, Any], runtime: Runtime) -> None:
    if not is_described(path):
        require_place(path)
        planned = make_plan(config, runtime)
        create_first(path, schema_of(config, planned), {**identity, "plan": planned.to_json()})
    # The first plan stays, whoever made it: a run that was killed goes on with the counts and steps it began with.
    plan = Plan.of(read_identity(path))
    identity = {**identity, "plan": plan.to_json()}
    create(path, schema_of(config, plan), identity)
    with Writer(path) as writer:
        trials = plan.trials(config, runtime.device)
        levels = _fill(writer, writer.missing(), {}, identity, runtime, trials)
        found, known = _repeated(writer)
        if found:  # rare: their shards are written again without them
            shards = sorted({index // writer.schema.shard for index in found})
            _fill(writer, shards, known | found, identity, runtime)
        redrawn = sum(receipt.attempts > 1 for receipt in writer.receipts.values())
        repeated = {str(index): reason for index, reason in sorted((known | found).items())}
        told = accuracy_attributes(config, plan.measured(levels))
        writer.finish({**told, "max_rejected": config.max_rejected, "redrawn": redrawn, "duplicates": repeated})


def _fill(
    writer: Writer,
    shards: list[int],
    refused: dict[int, str],
    identity: dict[str, Any],
    runtime: Runtime,
    trials: Sequence[Trial] = (),
) -> list[Level]:
    """Compute shards on the workers and take their receipts; return the levels that were measured meanwhile."""
    levels: list[Level] = []

    def take(_: Work, result: list[Receipt] | Level) -> None:
        levels.append(result) if isinstance(result, Level) else writer.accept(result)

    tasks = [task_of(writer.path, shard, identity, writer.schema, runtime.device, refused) for shard in shards]
    # An equation that has no solution is found out first.
    work: list[Work] = [*trials, *tasks]
    failures = runtime.map(compute, work, label="generate", on_result=take, size=_size, rejected=_rejected)
    for failure in failures:
        if isinstance(failure.item, Trial):
            raise unmeasured(failure.item, failure.reason)
        writer.accept(_refuse(failure.item, failure.reason))
    return levels


def compute(work: Work) -> list[Receipt] | Level:
    """What a worker is asked for: the receipts of a shard, or a level with its accuracy."""
    return measured(work) if isinstance(work, Trial) else compute_shard(work)


def task_of(
    path: Path,
    shard: int,
    identity: dict[str, Any],
    schema: Schema,
    device: Device = "cpu",
    refused: dict[int, str] | None = None,
) -> ShardTask:
    """The work order of one shard."""
    rows = schema.rows(shard)
    here = {index: reason for index, reason in (refused or {}).items() if index in rows}
    return ShardTask(path, shard, (rows.start, rows.stop), identity, device, here)


def duplicates_of(attrs: dict[str, Any]) -> dict[int, str]:
    """The samples of a finished set that were rejected because they repeat an earlier one, with the reason."""
    return {int(index): str(reason) for index, reason in attrs.get("duplicates", {}).items()}


def compute_shard(task: ShardTask) -> list[Receipt]:
    """Solve and write one shard; runs in a worker and returns receipts only."""
    config = GenerateConfig.model_validate(task.identity["config"])
    plan, device = Plan.of(task.identity), resolve_device(task.device)
    (first, stop), codes = task.rows, plan.codes()
    built: dict[int, PDE] = {}
    parts: list[dict[str, np.ndarray]] = []
    keys: list[int] = []
    seconds: list[float] = []
    attempts: list[int] = []
    rejected: dict[int, str] = {}
    for start in range(first, stop, plan.tile):
        # A full tile always: the bits of a row may depend on the batch size, and on nothing else.
        code = int(codes[start])
        pde = built.setdefault(code, configs.build("pde", plan.level(code).node))
        tile = solve_tile(pde, config.seed, range(start, start + plan.tile), config.grid, device)
        keep = min(start + plan.tile, stop) - start
        parts.append({name: values[:keep] for name, values in tile.fields.items()})
        keys += tile.seeds[:keep]
        attempts += tile.attempts[:keep]
        seconds += [tile.seconds] * keep
        rejected |= {start + i: reason for i, reason in enumerate(tile.reasons[:keep]) if reason is not None}
    data = {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}
    data |= _labels(config, plan, task)
    rejected |= task.refused
    return write_shard(task.path, task.shard, data, keys, rejected, VERSION, seconds, attempts)


def _labels(config: GenerateConfig, plan: Plan, task: ShardTask) -> dict[str, np.ndarray]:
    rows = slice(*task.rows)
    return {"split": plan.split(config.split)[rows], "difficulty": plan.codes()[rows]}


def _repeated(writer: Writer) -> tuple[dict[int, str], dict[int, str]]:
    """Samples that repeat an earlier one, with the reason; and those that were rejected for it before."""
    known = {i: why for i, why in writer.rejected.items() if why.startswith(_REPEATS)}
    outputs = [spec.path for spec in writer.schema.arrays if spec.attrs.get("role") == "output"]
    found = duplicates(writer.receipts, outputs)
    return {index: f"{_REPEATS}{earlier}" for index, earlier in found.items()}, known


def _size(work: Work) -> int:
    return 0 if isinstance(work, Trial) else work.rows[1] - work.rows[0]


def _rejected(result: list[Receipt] | Level) -> int:
    return 0 if isinstance(result, Level) else sum(receipt.status != "ok" for receipt in result)


def _refuse(task: ShardTask, reason: str) -> list[Receipt]:
    """Receipts of a shard whose computation kills its worker: every sample rejected, with the reason."""
    config = GenerateConfig.model_validate(task.identity["config"])
    pde: PDE = configs.build("pde", config.pde)
    coords = pde.coordinates(config.grid)
    rows = range(*task.rows)
    data = {v.name: np.zeros((len(rows), *(len(coords[d]) for d in v.dims))) for v in pde.variables()}
    data |= _labels(config, Plan.of(task.identity), task)
    keys = derive_many(config.seed, Purpose.PROBLEM, rows)
    return write_shard(task.path, task.shard, data, keys, dict.fromkeys(rows, reason), VERSION, 0.0)


def _judge(path: Path, rejected: dict[int, str], config: GenerateConfig) -> None:
    if rejected and len(rejected) > config.max_rejected * (samples := read_schema(path).size):
        index, reason = next(iter(rejected.items()))
        raise RejectedError(
            f"{len(rejected)} of {samples} samples were rejected, "
            f"more than max_rejected={config.max_rejected:g}; sample {index}: {reason}",
            hint=f"the others are in {path}" if len(rejected) < samples else "does a larger grid resolve it?",
        )
