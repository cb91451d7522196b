"""Search of the noise levels of a plan."""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np

from pdediff.errors import ConfigError
from pdediff.samplers.plan import Plan, Sampler, check_levels
from pdediff.samplers.tuning.engine import Descent, Tuned, told
from pdediff.samplers.tuning.parameters import Fields
from pdediff.samplers.tuning.pilots import Pilots

KNOTS = 16
"""Free numbers of a grid at most: 8 knots gave away a factor of 4 at 40 steps, more only cost."""


@dataclass(frozen=True)
class Nodes:
    """A sampler on levels between fixed ends: the steps of lambda = -log sigma are a softmax of the free numbers.

    h_i = L exp(a_i) / sum_j exp(a_j), a_i = log of the first step i + theta interpolated between at most `knots` knots;
    numbers of the fields `names` follow, as in `Fields`.
    """

    sampler: Sampler
    levels: Sequence[float]
    names: tuple[str, ...] = ()
    knots: int = KNOTS

    @cached_property
    def fields(self) -> Fields:
        """The part of the numbers that belongs to the sampler."""
        return Fields(self.sampler, self.levels, self.names)

    @cached_property
    def _basis(self) -> np.ndarray:
        """Hat functions of the knots at the steps, (steps, knots)."""
        steps = len(self.levels) - 1
        knots = min(self.knots, steps)
        place = np.linspace(0.0, knots - 1.0, steps)
        return np.maximum(0.0, 1.0 - np.abs(place[:, None] - np.arange(knots)))

    @property
    def size(self) -> int:
        """Number of free numbers; adding one to all knots changes nothing."""
        return self._basis.shape[1] + self.fields.size

    def moved(self, theta: np.ndarray) -> Sampler:
        """The sampler with its own numbers changed."""
        return self.fields.moved(theta[self._basis.shape[1] :])

    def grid(self, theta: np.ndarray) -> list[float]:
        """The moved levels."""
        first = np.array([math.log(a / b) for a, b in itertools.pairwise(self.levels)])
        shift = self._basis @ theta[: self._basis.shape[1]]
        h = first * np.exp(shift - shift.max())
        passed = np.cumsum(h)[:-1] * (first.sum() / h.sum())
        return [self.levels[0], *(self.levels[0] * np.exp(-passed)).tolist(), self.levels[-1]]

    def plan(self, theta: np.ndarray) -> Plan:
        """The moved sampler on the moved levels."""
        return self.moved(theta).plan(self.grid(theta))


def search_nodes(
    pilots: Pilots,
    sampler: Sampler,
    levels: Sequence[float],
    *,
    names: Sequence[str] = (),
    knots: int = KNOTS,
    budget: int = 4000,
) -> Tuned:
    """The sampler on searched levels, for about `budget` evaluations; `names` are fields to tune with them.

    The continuous form of the searches over solvers and schedules (USF, Liu et al. 2023; AutoDiffusion, Li et al.
    2023): the error is smooth in the nodes, so that a few Gauss-Newton steps replace thousands of candidates. An
    iteration costs about (knots + 3) steps evaluations. `ConfigError` for levels that do not join those of the pilots,
    for a last level of 0 and for a start that diverges.

    Good values: `names=("s",)` for fields v and F.
    """
    family = Nodes(sampler, joined(pilots, levels), tuple(names), knots)
    first = pilots.evaluations
    descent = Descent(pilots, family)
    descent.spend(budget - (pilots.evaluations - first))
    return descent.tuned(told(family.moved(descent.best[3])), pilots.evaluations - first)


def joined(pilots: Pilots, levels: Sequence[float]) -> tuple[float, ...]:
    """The levels, checked to begin and end where the pilots do."""
    checked = check_levels(levels)
    if (checked[0], checked[-1]) != (pilots.sigma_max, pilots.sigma_min):
        raise ConfigError(
            f"levels to tune must run from {pilots.sigma_max:g} to {pilots.sigma_min:g} as the pilots do, "
            f"got {checked[0]:g} to {checked[-1]:g}"
        )
    return checked
