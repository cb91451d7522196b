"""PNDM and iPNDM: linear multistep of the flow with the classical weights of equal steps."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

from pdediff.samplers.ab_pc import Order
from pdediff.samplers.deis import NoiseInRho
from pdediff.samplers.field import Parameterisation
from pdediff.samplers.grids import edm_grid
from pdediff.samplers.plan import STATE, Plan, check_levels
from pdediff.samplers.steps import Eval, Lin

CLASSICAL: tuple[tuple[float, ...], ...] = (
    (1.0,),
    (3 / 2, -1 / 2),
    (23 / 12, -16 / 12, 5 / 12),
    (55 / 24, -59 / 24, 37 / 24, -9 / 24),
)
"""Adams-Bashforth weights of orders 1 to 4 on equal steps, newest evaluation first."""


@dataclass(frozen=True)
class IPNDM:
    """iPNDM of Zhang & Chen (2023) after Liu et al. (2022): classical weights, started by lower orders.

        x' = x + (t - sigma) e_bar,    e_bar = (55 e_0 - 59 e_1 + 37 e_2 - 9 e_3) / 24,    e = (x - D) / sigma

    (order 4; (23, -16, 5) / 12 at 3, (3, -1) / 2 at 2). The weights presume equal steps in sigma, which no useful
    grid has: beyond order 2 the error falls as steps^-2 all the same. One evaluation per step; the step to sigma = 0
    is of order 1. `DEIS` with variable rho has the weights of the actual levels, at the same cost.

    Good values: order 4 (for comparison with published results).
    """

    source: ClassVar[str] = "Zhang & Chen 2023 (DEIS), iPNDM; Liu et al. 2022 (PNDM)"

    order: Order = 4

    @property
    def evaluations(self) -> float:
        """Denoiser evaluations of a step."""
        return 1.0

    @property
    def slope(self) -> int:
        """Promised order of convergence: 2 at most on a grid of unequal steps."""
        return min(self.order, 2)

    def integrator(self, steps: int) -> tuple[Parameterisation, int]:
        """Noise prediction in rho and the order that the steps reach."""
        return NoiseInRho(), self.slope

    def grid(self, steps: int, sigma_max: float, sigma_min: float) -> list[float]:
        """Equal in sigma^(1/7)."""
        return edm_grid(sigma_max, sigma_min, steps)

    def plan(self, sigmas: Sequence[float]) -> Plan:
        """The compiled steps; `ConfigError` if the levels do not decrease or are too few for the order."""
        levels = check_levels(sigmas, self.order)
        ops: list[Eval | Lin] = []
        for i in range(len(levels) - 1):
            ops += _evaluate(i, STATE, levels[i], self.order)
            ops.append(_advance(levels, i, self.order))
        return Plan(tuple(ops), levels)


@dataclass(frozen=True)
class PNDM:
    """F-PNDM (Liu et al. 2022): three pseudo-Runge-Kutta steps, then `IPNDM` of order 4.

    A pseudo-Runge-Kutta step evaluates e at the start, twice at half way, at the end, and moves by
    (1, 2, 2, 1) / 6 of them. Half way is half the step in sigma, where it is the classical method of order 4. It costs
    4 evaluations: n steps cost n + 9. The error falls as steps^-2, as that of `IPNDM`.

    Good values: as published; at most 20 evaluations are better spent by `DEIS`.
    """

    source: ClassVar[str] = "Liu et al. 2022 (PNDM), F-PNDM"
    order: ClassVar[int] = 4
    slope: ClassVar[int] = 2

    @property
    def evaluations(self) -> float:
        """Denoiser evaluations of a step."""
        return 1.0

    def integrator(self, steps: int) -> tuple[Parameterisation, int]:
        """Noise prediction in rho and the order that the steps reach."""
        return NoiseInRho(), self.slope

    def grid(self, steps: int, sigma_max: float, sigma_min: float) -> list[float]:
        """Equal in sigma^(1/7)."""
        return edm_grid(sigma_max, sigma_min, steps)

    def plan(self, sigmas: Sequence[float]) -> Plan:
        """The compiled steps; `ConfigError` if the levels do not decrease or are fewer than 5."""
        levels = check_levels(sigmas, self.order)
        ops: list[Eval | Lin] = []
        for i, (sigma, after) in enumerate(itertools.pairwise(levels)):
            ops += _evaluate(i, STATE, sigma, self.order)
            ops += _runge_kutta(i, sigma, after) if i < 3 else [_advance(levels, i, self.order)]
        return Plan(tuple(ops), levels)


def _evaluate(slot: int, src: str, sigma: float, order: int) -> list[Eval | Lin]:
    """x - D = sigma e into the ring of `order` slots."""
    return [Eval("denoised", src, sigma), Lin(f"e{slot % order}", ((src, 1.0), ("denoised", -1.0)))]


def _advance(levels: Sequence[float], i: int, order: int) -> Lin:
    if levels[i + 1] == 0.0:
        return Lin(STATE, (("denoised", 1.0),))
    step = levels[i + 1] - levels[i]
    known = CLASSICAL[min(order, i + 1) - 1]
    terms = ((f"e{(i - j) % order}", step * c / levels[i - j]) for j, c in enumerate(known))
    return Lin(STATE, ((STATE, 1.0), *terms))


def _runge_kutta(i: int, start: float, stop: float) -> list[Eval | Lin]:
    """Three more evaluations on a stage, beside slot i that holds the first; the sum of slopes grows in `slope`."""
    half, step = 0.5 * (start + stop), stop - start
    ops: list[Eval | Lin] = [
        Lin("stage", ((STATE, 1.0), (f"e{i}", 0.5 * step / start))),
        Lin("slope", ((f"e{i}", 1.0 / (6.0 * start)),)),
    ]
    for level, reach, share in ((half, 0.5, 1 / 3), (half, 1.0, 1 / 3), (stop, 0.0, 1 / 6)):
        ops += [Eval("denoised", "stage", level), Lin("e", (("stage", 1.0), ("denoised", -1.0)))]
        ops.append(Lin("slope", (("slope", 1.0), ("e", share / level))))
        if reach > 0.0:
            ops.append(Lin("stage", ((STATE, 1.0), ("e", reach * step / level))))
    return [*ops, Lin(STATE, ((STATE, 1.0), ("slope", step)))]
