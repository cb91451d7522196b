"""BDIA: DDIM with a memory of one state, which can be run backwards exactly."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Annotated, ClassVar

from annotated_types import Gt, Le

from pdediff.samplers.field import NoisePrediction, Parameterisation
from pdediff.samplers.grids import uniform_lambda
from pdediff.samplers.plan import STATE, Plan, check_levels
from pdediff.samplers.steps import Eval, Lin

BEFORE = "before"
"""Slot that holds the state one step before the last (at the end of `plan`) or one after the first (of `inverse`)."""


@dataclass(frozen=True)
class BDIA:
    """Bi-directional integration approximation of DDIM (Zhang et al. 2023), for exact inversion.

    With e_i = (x_i - D_i) / sigma_i and the move d(i -> j) = (sigma_j - sigma_i) e_i,

        x_(i+1) = gamma x_(i-1) + (1 - gamma) x_i - gamma d(i -> i-1) + d(i -> i+1),

    the first step being DDIM. gamma = 1 is the leapfrog method, of order 2; gamma -> 0 is DDIM, and between them the
    order is 1 with the error of DDIM times (1 - gamma) / (1 + gamma). Solved for x_(i-1) it runs backwards with the
    same evaluation: `inverse` recovers the start from the last two states to rounding, which grows by 1 / gamma per
    step. One evaluation per step; gamma = 1 rings where steps are too long, having no damping of its own.

    Good values: gamma 1, or at least 0.8, in float64.
    """

    source: ClassVar[str] = "Zhang et al. 2023 (BDIA)"

    gamma: Annotated[float, Gt(0.0), Le(1.0)] = 1.0

    @property
    def evaluations(self) -> float:
        """Denoiser evaluations of a step."""
        return 1.0

    @property
    def order(self) -> int:
        """Steps a grid needs at least."""
        return 1

    @property
    def slope(self) -> int:
        """Promised order of convergence."""
        return 2 if self.gamma == 1.0 else 1

    def integrator(self, steps: int) -> tuple[Parameterisation, int]:
        """Noise prediction and the order."""
        return NoisePrediction(), self.slope

    def grid(self, steps: int, sigma_max: float, sigma_min: float) -> list[float]:
        """Uniform in log sigma."""
        return uniform_lambda(sigma_max, sigma_min, steps)

    def plan(self, sigmas: Sequence[float]) -> Plan:
        """The compiled steps; slot `before` ends as the last state but one. `ConfigError` for wrong levels."""
        levels = check_levels(sigmas)
        n = len(levels) - 1
        ops: list[Eval | Lin] = [] if n % 2 == 0 else [Lin(BEFORE, ((STATE, 1.0),))]
        for i in range(n):
            here, other = _slot(i, n), _slot(i + 1, n)
            ops.append(Eval("denoised", here, levels[i]))
            if i == 0:
                ratio = levels[1] / levels[0]
                ops.append(Lin(other, ((here, ratio), ("denoised", 1.0 - ratio))))
            else:
                c_x, c_denoised = self._forward(*levels[i - 1 : i + 2])
                ops.append(Lin(other, ((other, self.gamma), (here, c_x), ("denoised", c_denoised))))
        return Plan(tuple(ops), levels)

    def inverse(self, sigmas: Sequence[float]) -> Plan:
        """The same steps backwards: from the last two states, slots `x` and `before`, to the first two.

        `levels` of the plan increase. Like `plan` it takes the decreasing levels; a step to 0 is inverted as well.
        """
        levels = check_levels(sigmas)
        n = len(levels) - 1
        ops: list[Eval | Lin] = []
        for i in range(n - 1, 0, -1):
            here, other = _slot(i, n), _slot(i + 1, n)
            c_x, c_denoised = self._forward(*levels[i - 1 : i + 2])
            ops.append(Eval("denoised", here, levels[i]))
            solved = ((other, 1.0 / self.gamma), (here, -c_x / self.gamma), ("denoised", -c_denoised / self.gamma))
            ops.append(Lin(other, solved))
        if n % 2 == 1:
            swap = (("swap", STATE), (STATE, BEFORE), (BEFORE, "swap"))
            ops += [Lin(dst, ((src, 1.0),)) for dst, src in swap]
        return Plan(tuple(ops), levels[::-1], (STATE, BEFORE))

    def _forward(self, before: float, here: float, after: float) -> tuple[float, float]:
        """(c_x, c_denoised) of x_i and D_i in the step from `here` to `after`."""
        move = ((after - here) + self.gamma * (here - before)) / here
        return 1.0 - self.gamma + move, -move


def _slot(state: int, n: int) -> str:
    """Two slots in turn, so that the last state of n steps is in the slot of the result."""
    return STATE if (n - state) % 2 == 0 else BEFORE
