"""What a data set holds and says of itself: its arrays, coordinates and attributes."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

from pdediff import config as configs
from pdediff.pdes import PDE
from pdediff.pdes.accuracy import inner_step
from pdediff.stages.folders import VERSION
from pdediff.stages.generation_config import GenerateConfig
from pdediff.stages.generation_layout import chunk_of, sizes_of
from pdediff.stages.generation_plan import WHOLE, Level, Plan
from pdediff.store import ArraySpec, Schema


def schema_of(config: GenerateConfig, plan: Plan) -> Schema:
    """The layout of the set: one array for each variable, labels, columns, and what the PDE and the plan say."""
    pde: PDE = configs.build("pde", config.pde)
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
    return Schema(
        unit="sample",
        size=plan.samples,
        arrays=(*specs, *_labels(config, pde)),
        coords={name: (values, {"units": "1", "long_name": name}) for name, values in coords.items()},
        attrs=attributes(config, plan, pde),
        shard=plan.shard,
        chunk=chunk_of(sizes_of(pde, config.grid), plan.shard),
        told=("cost", "attempts"),
    )


def _labels(config: GenerateConfig, pde: PDE) -> tuple[ArraySpec, ArraySpec]:
    split = {"long_name": "split", "flag_values": [0, 1, 2], "flag_meanings": "train valid test", "units": "1"}
    names = list(pde.levels) if config.difficulty else [WHOLE]
    meaning = {"flag_values": list(range(len(names))), "flag_meanings": " ".join(names), "units": "1"}
    return (
        ArraySpec("split", ("sample",), "int8", (), split),
        ArraySpec("difficulty", ("sample",), "int8", (), {"long_name": "difficulty level", **meaning}, kept=True),
    )


def attributes(config: GenerateConfig, plan: Plan, pde: PDE) -> dict[str, Any]:
    """Equation, method, plan and what is known of the accuracy; of each level where the set has levels."""
    of_each = partial(_of_each, plan, config)
    built: dict[str, PDE] = {level.name: configs.build("pde", level.node) for level in plan.levels}
    told = {
        "pde": pde.name,
        "formula": pde.formula,
        "boundary": pde.boundary,
        "symmetries": pde.symmetries,
        "parameters": config.pde,
        "method": of_each(lambda level: built[level.name].inner_description(config.grid)),
        "root_seed": config.seed,
        "tile": plan.tile,
        "shard": plan.shard,
        "pdediff_version": VERSION,
    }
    if pde.clock is not None:
        told["step"] = of_each(lambda level: inner_step(built[level.name], config.grid))
    if config.difficulty:
        told["levels"] = {
            level.name: {"share": config.difficulty[level.name], "tiles": level.tiles, "parameters": level.node}
            for level in plan.levels
        }
    if config.budget is not None:
        told["budget_seconds"], told["budget_workers"] = config.budget, plan.workers
        told["pilot_seconds_per_sample"] = of_each(lambda level: level.seconds)
    return told | accuracy_attributes(config, plan)


def accuracy_attributes(config: GenerateConfig, plan: Plan) -> dict[str, Any]:
    """How far the solutions can be trusted; nothing before every level was measured."""
    if any(level.tail is None for level in plan.levels):
        return {}
    told = {"space_tail_ratio": _of_each(plan, config, lambda level: level.tail)}
    if all(level.time_error is None for level in plan.levels):  # steady
        return told
    return told | {"time_error_estimate": _of_each(plan, config, lambda level: level.time_error)}


def _of_each(plan: Plan, config: GenerateConfig, say: Callable[[Level], Any]) -> Any:
    said = {level.name: say(level) for level in plan.levels}
    return said if config.difficulty else said[WHOLE]
