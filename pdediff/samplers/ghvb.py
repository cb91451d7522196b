"""GHVB: linear multistep of the flow with a momentum on the noise prediction."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Annotated, ClassVar

from annotated_types import Gt, Le

from pdediff.samplers.ab_pc import Order
from pdediff.samplers.deis import NoiseInRho
from pdediff.samplers.field import Parameterisation
from pdediff.samplers.grids import edm_grid
from pdediff.samplers.plan import STATE, Plan, check_levels
from pdediff.samplers.steps import Eval, Lin


@dataclass(frozen=True)
class GHVB:
    """Generalised heavy ball of Wizadwongsa et al. (2023), for guidance that makes steps stiff.

        v <- (1 - b) v + b e,    x' = x + (t - sigma) / b sum_j c_j v_j,    e = (x - D) / sigma,

    with v = e at the start and c = (b); (2 + b, b - 2) / 2; (18 + 5 b, 8 b - 24, 6 - b) / 12;
    (46 + 9 b, 19 b - 78, 42 - 5 b, b - 10) / 24 for orders 1 to 4. `beta` = 1 is `IPNDM` of that order; a
    smaller one widens the region of stability at the price of a larger error. Steps of unequal length and the start
    hold the error at steps^-2 beyond order 2. One evaluation per step; the step to sigma = 0 is of order 1.

    Good values: order 2 with beta 0.8 (the paper's order 1.8), or order 4 with beta 0.9.
    """

    source: ClassVar[str] = "Wizadwongsa et al. 2023 (GHVB)"

    order: Order = 2
    beta: Annotated[float, Gt(0.0), Le(1.0)] = 0.8

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
            share = self.beta if i > 0 else 1.0
            fresh = ((STATE, share / levels[i]), ("denoised", -share / levels[i]))
            kept = ((f"v{(i - 1) % self.order}", 1.0 - share),) if share < 1.0 else ()
            ops += [Eval("denoised", STATE, levels[i]), Lin(f"v{i % self.order}", (*fresh, *kept))]
            ops.append(self._advance(levels, i))
        return Plan(tuple(ops), levels)

    def _advance(self, levels: Sequence[float], i: int) -> Lin:
        if levels[i + 1] == 0.0:
            return Lin(STATE, (("denoised", 1.0),))
        step = (levels[i + 1] - levels[i]) / self.beta
        known = momentum_weights(min(self.order, i + 1), self.beta)
        return Lin(STATE, ((STATE, 1.0), *((f"v{(i - j) % self.order}", step * c) for j, c in enumerate(known))))


def momentum_weights(order: int, b: float) -> tuple[float, ...]:
    """Weights of v, v_(-1), ... in an equal step, times b; those of Adams-Bashforth for b = 1."""
    known = (
        (b,),
        ((2 + b) / 2, (b - 2) / 2),
        ((18 + 5 * b) / 12, (8 * b - 24) / 12, (6 - b) / 12),
        ((46 + 9 * b) / 24, (19 * b - 78) / 24, (42 - 5 * b) / 24, (b - 10) / 24),
    )
    return known[order - 1]
