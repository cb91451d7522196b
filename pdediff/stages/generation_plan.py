"""The plan of a data set, made once: levels, their inner step and accuracy, what a sample costs, how many there are."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, replace
from typing import Any

import numpy as np

from pdediff import config as configs
from pdediff.errors import ConfigError, MatchError, NumericalError, ResourceError
from pdediff.pdes import PDE
from pdediff.pdes.accuracy import assess
from pdediff.runtime import Device, Runtime, resolve_device
from pdediff.stages.generation_config import GenerateConfig, SplitConfig, changed
from pdediff.stages.generation_layout import apportioned, interleaved, resolved, shard_of, sizes_of
from pdediff.stages.generation_tile import solve_tile
from pdediff.types import Purpose, derive, derive_many

WHOLE = "config"
"""Name of the one level of a set without difficulty levels: the equation as the config has it."""

PILOTS = 4
"""Samples, of seeds of their own, on which accuracy is measured."""


PROBE = 128
"""Largest grid that an outlook solves; for larger ones it scales by the number of points, which is a lower bound."""


@dataclass(frozen=True)
class Level:
    """One difficulty level of a set.

    `code` is its place among the levels of the PDE and the value of `difficulty`, `node` its PDE with the chosen inner
    step, `tiles` how many tiles it has. `time_error` (None: steady) and `tail` are those of `pdediff.pdes.accuracy`;
    `tail` is None where they are not measured yet. `seconds` is what a sample cost in the pilot run of a set with a
    budget.
    """

    name: str
    code: int
    node: dict[str, Any]
    time_error: float | None = None
    tail: dict[str, float] | None = None
    seconds: float | None = None
    tiles: int = 0


@dataclass(frozen=True)
class Plan:
    """What is made: `samples` in tiles and shards, the levels, and the `workers` that a budget was meant for."""

    samples: int
    tile: int
    shard: int
    workers: int
    levels: tuple[Level, ...]

    @staticmethod
    def of(identity: Mapping[str, Any]) -> Plan:
        """The plan that a set was made by. Raises MatchError for a set of a version without plans."""
        try:
            plan = dict(identity["plan"])
            levels = tuple(Level(**level) for level in plan.pop("levels"))
            return Plan(**plan, levels=levels)
        except (KeyError, TypeError) as error:
            raise MatchError("this set was made by another version of pdediff", hint="generate it again") from error

    def to_json(self) -> dict[str, Any]:
        """Plain data that `of` reads as `identity["plan"]`."""
        return {**asdict(self), "levels": [asdict(level) for level in self.levels]}

    def codes(self) -> np.ndarray:
        """Code of the level of every sample, int8 `(samples,)`: one level a tile, evenly spread over the set."""
        tiles = interleaved({level.code: level.tiles for level in self.levels})
        return np.repeat(tiles, self.tile)[: self.samples].astype("int8")

    def split(self, shares: SplitConfig) -> np.ndarray:
        """0 train, 1 valid, 2 test, int8 `(samples,)`: consecutive blocks of the samples of each level.

        Blocks are as good as random choices for independent samples; every part has every level that has a sample for
        it.
        """
        parts = {part: share for part, share in enumerate((shares.train, shares.valid, shares.test)) if share > 0}
        codes, split = self.codes(), np.zeros(self.samples, dtype="int8")
        for level in self.levels:
            rows = np.flatnonzero(codes == level.code)
            counts = apportioned(len(rows), parts)
            split[rows] = np.repeat(list(counts), list(counts.values()))
        return split

    def level(self, code: int) -> Level:
        """The level with a code."""
        return next(level for level in self.levels if level.code == code)

    def measured(self, levels: Iterable[Level]) -> Plan:
        """The plan with what was measured of some of its levels."""
        found = {level.name: level for level in levels}
        return replace(self, levels=tuple(found.get(level.name, level) for level in self.levels))

    def trials(self, config: GenerateConfig, device: Device) -> list[Trial]:
        """What is left to measure of the accuracy of its levels: it decides nothing of the samples."""
        return [Trial(v, config.grid, config.seed, None, 0, device) for v in self.levels if v.tail is None]


@dataclass(frozen=True)
class Trial:
    """One level to be measured; plain data that travels to a worker. `tile` is 0 where its cost is not wanted."""

    level: Level
    grid: int
    seed: int
    tolerance: float | None
    tile: int
    device: Device


def make_plan(config: GenerateConfig, runtime: Runtime) -> Plan:
    """Decides on steps and counts of a config whose open numbers are resolved.

    A tolerance or a budget needs the levels measured first, on the workers; else they can be together with the samples.
    Raises ConfigError for levels that cannot share a set, for fewer tiles than levels and for a tolerance that is not
    reached, NumericalError where an equation has no finite solution.
    """
    levels, tile = levels_of(config), config.tile or 1
    _require_one_layout(levels, config)
    if config.samples is not None and -(-config.samples // tile) < len(levels):
        raise ConfigError(
            f"samples={config.samples} are {-(-config.samples // tile)} tiles of {tile}, fewer than the levels: "
            f"{', '.join(level.name for level in levels)}",
            hint="a tile has one level: more samples, or a smaller tile",
        )
    if config.budget is None and config.tolerance is None:
        return _counted(config, tile, levels, runtime.lanes)
    timed = tile if config.budget is not None else 0
    trials = [Trial(level, config.grid, config.seed, config.tolerance, timed, runtime.device) for level in levels]
    found: dict[str, Level] = {}
    failures = runtime.map(
        measured, trials, label="plan", on_result=lambda trial, level: found.update({trial.level.name: level})
    )
    for failure in failures:
        raise unmeasured(failure.item, failure.reason)
    return _counted(config, tile, [found[level.name] for level in levels], runtime.lanes)


def unmeasured(trial: Trial, reason: str) -> ResourceError:
    """What is said of a level whose trial kills its worker."""
    return ResourceError(f"level {trial.level.name} could not be measured: {reason}")


def levels_of(config: GenerateConfig) -> list[Level]:
    """The levels that the config asks for, in the order of the PDE, not measured yet."""
    if not config.difficulty:
        return [Level(WHOLE, 0, configs.to_dict(configs.build("pde", config.pde)))]
    known = configs.build("pde", config.pde).levels
    return [
        Level(name, code, configs.to_dict(configs.build("pde", changed(config.pde, known[name]))))
        for code, name in enumerate(known)
        if name in config.difficulty
    ]


def measured(trial: Trial) -> Level:
    """The level with its inner step chosen, its accuracy and, where asked for, the seconds of a sample."""
    device, level = resolve_device(trial.device), trial.level
    pde: PDE = configs.build("pde", level.node)
    try:
        found = assess(pde, derive_many(trial.seed, Purpose.PILOT, range(PILOTS)), trial.grid, trial.tolerance, device)
    except (ConfigError, NumericalError) as problem:
        where = "" if level.name == WHOLE else f"level {level.name}: "
        raise type(problem)(f"{where}{problem.message}", hint=problem.hint) from None
    seconds = _seconds(found.pde, trial, device) if trial.tile else None
    return replace(
        level, node=configs.to_dict(found.pde), time_error=found.time_error, tail=found.tail, seconds=seconds
    )


def _seconds(pde: PDE, trial: Trial, device: str) -> float:
    """Time of a sample: one tile, after another one that warms up libraries and caches."""
    root = derive(trial.seed, Purpose.PILOT, PILOTS)
    rows = range(trial.tile)
    solve_tile(pde, root, rows, trial.grid, device)
    return max(1e-9, solve_tile(pde, root, rows, trial.grid, device).seconds)


def _counted(config: GenerateConfig, tile: int, levels: list[Level], workers: int) -> Plan:
    """The plan: tiles by shares of the samples or, with a budget, by shares of solver time on all workers."""
    shares = config.difficulty or {WHOLE: 1.0}
    if config.budget is None:
        samples = config.samples or tile
        tiles = apportioned(-(-samples // tile), shares)
    else:
        purse = config.budget * workers
        tiles = {v.name: max(1, int(purse * shares[v.name] / ((v.seconds or 1.0) * tile))) for v in levels}
        samples = tile * sum(tiles.values())
    sizes = sizes_of(configs.build("pde", config.pde), config.grid)
    shard = config.shard or shard_of(sizes, tile, samples)
    return Plan(samples, tile, shard, workers, tuple(replace(v, tiles=tiles[v.name]) for v in levels))


def _require_one_layout(levels: list[Level], config: GenerateConfig) -> None:
    """ConfigError unless all levels have the variables and coordinates of the config's own equation."""
    pde: PDE = configs.build("pde", config.pde)
    names, coordinates = [(v.name, v.dims, v.units) for v in pde.variables()], pde.coordinates(config.grid)
    free = {"x", "y", "z"} if any(name == "domain_length" for name, _, _ in names) else set()
    for level in levels:
        other: PDE = configs.build("pde", level.node)
        places = other.coordinates(config.grid)
        wrong = [] if [(v.name, v.dims, v.units) for v in other.variables()] == names else ["variables"]
        wrong += [
            dim
            for dim, values in coordinates.items()
            if dim not in places
            or len(places[dim]) != len(values)
            or not (dim in free or np.array_equal(places[dim], values))
        ]
        if wrong:
            raise ConfigError(f"difficulty: level {level.name} has other {', '.join(wrong)} than the equation itself")


def equation_of(identity: Mapping[str, Any]) -> dict[str, Any]:
    """The node of the equation a set was made from: with the chosen step, or the config's where it has levels."""
    levels = Plan.of(identity).levels if "plan" in identity else ()  # imported sets have none
    return levels[0].node if len(levels) == 1 else identity["config"]["pde"]


def outlook(config: GenerateConfig, workers: int) -> dict[str, Any]:
    """What a set would be, from one sample on a grid of at most `PROBE` points a side; nothing is written."""
    config = resolved(config)
    levels, small = levels_of(config), min(config.grid, PROBE)
    shares = config.difficulty or {WHOLE: 1.0}
    cost = {}
    for level in levels:
        pde: PDE = configs.build("pde", level.node)
        scale = sizes_of(pde, config.grid).points / sizes_of(pde, small).points
        cost[level.name] = scale * solve_tile(pde, config.seed, range(1), small, "cpu").seconds
    sizes = sizes_of(configs.build("pde", config.pde), config.grid)
    if config.budget is None:
        samples = config.samples or 0
        seconds = sum(cost[name] * share * samples for name, share in shares.items()) / workers
    else:
        seconds = config.budget
        samples = sum(max(1, int(seconds * workers * share / cost[name])) for name, share in shares.items())
    shard = config.shard or shard_of(sizes, config.tile or 1, samples)
    told = {"pde": config.pde["kind"], "samples": samples, "tile": config.tile, "shards": -(-samples // shard)}
    told |= {"levels": ", ".join(shares)} if config.difficulty else {}
    told |= {"megabytes": round(4e-6 * sizes.values * samples, 1), "estimated seconds": round(seconds, 1)}
    return told | {"workers": workers}
