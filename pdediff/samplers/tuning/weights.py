"""Least squares for the weights of a plan."""

from __future__ import annotations

import dataclasses
import math
from dataclasses import dataclass
from functools import cached_property

import numpy as np

from pdediff.errors import ConfigError
from pdediff.samplers.plan import STATE, Plan
from pdediff.samplers.steps import Eval, Lin
from pdediff.samplers.tuning.engine import Descent, Told, Tuned
from pdediff.samplers.tuning.nodes import joined
from pdediff.samplers.tuning.pilots import Pilots


@dataclass(frozen=True)
class Weights:
    """A plan whose numbers are free: w -> w (1 + theta) for each weight of a step, sigma -> sigma exp(theta) of a call.

    Free are the weights of every `Lin` that makes a state, which is the result or what a denoiser is called on; what is
    only stored for later is left as it is, for the later weights span it. With `levels` so is the level told to the
    denoiser in every call but the first.
    """

    start: Plan
    levels: bool = True

    @cached_property
    def _free(self) -> list[tuple[int, int]]:
        """(step, term) of each free weight; term -1 is the level of an `Eval`."""
        found: list[tuple[int, int]] = []
        states = {STATE, *(step.src for step in self.start.steps if isinstance(step, Eval))}
        evals = [i for i, step in enumerate(self.start.steps) if isinstance(step, Eval)]
        for i, step in enumerate(self.start.steps):
            if isinstance(step, Lin) and step.dst in states:
                found += [(i, j) for j, (_, c) in enumerate(step.terms) if c != 0.0]
            elif self.levels and i in evals[1:]:
                found.append((i, -1))
        return found

    @property
    def size(self) -> int:
        """Number of free numbers."""
        return len(self._free)

    def plan(self, theta: np.ndarray) -> Plan:
        """The plan with these changes."""
        steps = list(self.start.steps)
        for (i, j), change in zip(self._free, theta.tolist(), strict=True):
            step = steps[i]
            if isinstance(step, Eval):
                steps[i] = dataclasses.replace(step, level=step.level * math.exp(change))
            elif isinstance(step, Lin):
                (name, c), terms = step.terms[j], list(step.terms)
                terms[j] = (name, c * (1.0 + change))
                steps[i] = dataclasses.replace(step, terms=tuple(terms))
        return Plan(tuple(steps), self.start.levels, self.start.inputs)


def fit_weights(
    pilots: Pilots,
    plan: Plan,
    sampler: Told,
    *,
    levels: bool = True,
    ridge: float = 1e-3,
    budget: int = 4000,
) -> Tuned:
    """The plan with all its weights fitted at once, for about `budget` evaluations; `sampler` is what made it.

    What S4S (Frankel et al. 2025) learns by gradient descent, and with `levels` the shifted calls of EPD-Solver (Zhu
    et al. 2025), by Gauss-Newton against the end of the flow: better than one step after the other, because later
    steps undo what earlier ones missed. An iteration costs (weights + 3) evaluations of the plan: worth it up to about
    20 steps; where not one fits into the budget the plan is returned as it is. `ridge` pulls towards the weights of
    the plan, and the held-out noises end the fit where it only learns its noises by heart.

    `ConfigError` for a plan with noise, of other levels than the pilots, or that diverges.
    """
    joined(pilots, plan.levels)
    if plan.inputs != (STATE,):
        raise ConfigError(f"a plan to fit starts from a state, got inputs {plan.inputs}")
    first = pilots.evaluations
    descent = Descent(pilots, Weights(plan, levels), ridge=ridge)
    descent.spend(budget - (pilots.evaluations - first))
    return descent.tuned(sampler, pilots.evaluations - first)
