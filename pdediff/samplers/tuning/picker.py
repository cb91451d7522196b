"""The best of the plans that need no search."""

from __future__ import annotations

import math
from dataclasses import dataclass
from itertools import product
from typing import get_args

from pdediff.errors import ConfigError
from pdediff.samplers.ab_pc import PC
from pdediff.samplers.default import Default
from pdediff.samplers.field import FieldName
from pdediff.samplers.grids import edm_grid, uniform_lambda, uniform_u
from pdediff.samplers.tuning.engine import Tuned, told
from pdediff.samplers.tuning.pilots import Pilots


@dataclass(frozen=True)
class Candidate:
    """A sampler on the levels of a grid, and its error on the training noises; infinite if it diverges."""

    error: float
    sampler: PC
    grid: str
    levels: tuple[float, ...]


def candidates(pilots: Pilots, steps: int) -> list[Candidate]:
    """`PC` of 6 parameterisations and orders 2 to 4 on 5 grids, the best first; about 90 steps evaluations.

    Parameterisations: eps, x0, and v and F with once and twice s, the standard deviation of the training samples.
    Grids: uniform lambda, EDM, uniform u, the one of `Default`, and `pilot_grid`. `ConfigError` for no steps or if
    every plan diverges.
    """
    if steps < 1:
        raise ConfigError(f"a plan needs at least one step, got {steps}")
    orders = [order for order in (2, 3, 4) if order <= steps] or [1]
    scales = [*product(get_args(FieldName), (1.0,)), *product(("v", "F"), (2.0,))]
    samplers = [PC(field, order, scale * pilots.s) for (field, scale), order in product(scales, orders)]  # type: ignore[arg-type]
    ends = (pilots.sigma_max, pilots.sigma_min, steps)
    own = Default(pilots.s).grid(steps, *ends[:2])
    fixed = {"lambda": uniform_lambda(*ends), "edm": edm_grid(*ends), "u": uniform_u(*ends, pilots.s), "default": own}
    found = []
    for sampler, fitted in zip(samplers, pilots.grids(samplers, steps), strict=True):
        for grid, levels in {**fixed, "pilot": fitted}.items():
            found.append(Candidate(pilots.error(sampler.plan(levels)), sampler, grid, tuple(levels)))
    ranked = sorted(found, key=lambda candidate: candidate.error)
    if math.isinf(ranked[0].error):
        raise ConfigError(
            f"all {len(found)} plans of {steps} steps diverge on the pilot noises", hint="take more steps"
        )
    return ranked


def pick(pilots: Pilots, steps: int) -> Tuned:
    """The best of 90 plans on the training noises; about 90 steps evaluations and, once, those of one fine run.

    Counted from `Default` on its own grid, which is one of the 90. Good values: worth it for every prior that is
    sampled more than a few times; `tune` goes on from here. `ConfigError` for no steps or if every plan diverges.
    """
    before = pilots.evaluations
    return best_of(pilots, candidates(pilots, steps), before)


def best_of(pilots: Pilots, ranked: list[Candidate], before: int) -> Tuned:
    """The first of the candidates, counted from the default rule; `before` is what the pilots had spent."""
    best, steps = ranked[0], len(ranked[0].levels) - 1
    rule = Default(pilots.s).method(steps)
    first = next(one for one in ranked if one.grid == "default" and one.sampler == rule)
    plans = [one.sampler.plan(one.levels) for one in (first, best)]
    held_out = (pilots.error(plans[0], "held-out"), pilots.error(plans[1], "held-out"))
    spent = pilots.evaluations - before
    return Tuned(plans[1], told(best.sampler), pilots.objective, (first.error, best.error), held_out, spent)
