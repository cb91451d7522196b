"""UniPC: the unified predictor-corrector, with the simplified low-order weights it was published with."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Annotated, ClassVar, Literal

from annotated_types import Interval

from pdediff.samplers.ab_pc import Weigh, multistep
from pdediff.samplers.field import DataPrediction, Parameterisation, weights
from pdediff.samplers.grids import uniform_lambda
from pdediff.samplers.plan import Plan, check_levels

Variant = Literal["bh1", "bh2"]


@dataclass(frozen=True)
class UniPC:
    """UniP-p with UniC-p in data prediction (Zhao et al. 2023, sec. 3).

    With h = log(sigma / t) > 0, hh = -h, D_j = D(j-th other node) - D_0 at r_j = (lambda_j - lambda_0) / h,

        x' = (t / sigma) x - (e^hh - 1) D_0 - B(h) sum_j a_j D_j / r_j,    sum_j a_j r_j^(k-1) = b_k,

    b_k = k! phi_(k+1)(hh) hh / B(h); B(h) = hh (bh1) or e^hh - 1 (bh2). The corrector adds the node of the prediction,
    r = 1, and costs no evaluation. B(h) cancels wherever the system is solved, so the weights are those of `PC` with
    field x0; it matters in the simplified a = 1/2 of UniP-2 and UniC-1 only, at order 3 hence in the first two steps.
    The last step is predicted only, and one to sigma = 0 takes the denoised state (bh1 has no limit there).

    Good values: order 3, bh2; order 2 with strong guidance, bh1 from about 10 steps on.
    """

    source: ClassVar[str] = "Zhao et al. 2023 (UniPC), sec. 3"

    order: Annotated[int, Interval(ge=1, le=3)] = 3
    variant: Variant = "bh2"
    corrector: bool = True

    @property
    def evaluations(self) -> float:
        """Denoiser evaluations of a step."""
        return 1.0

    @property
    def slope(self) -> int:
        """Promised order of convergence."""
        return self.order + self.corrector

    def integrator(self, steps: int) -> tuple[Parameterisation, int]:
        """Data prediction and the order of the predictor."""
        return DataPrediction(), self.order

    def grid(self, steps: int, sigma_max: float, sigma_min: float) -> list[float]:
        """Uniform in log sigma."""
        return uniform_lambda(sigma_max, sigma_min, steps)

    def plan(self, sigmas: Sequence[float]) -> Plan:
        """The compiled steps; `ConfigError` if the levels do not decrease or are too few for the order."""
        levels = check_levels(sigmas, self.order)
        return multistep(levels, DataPrediction(), self.order, corrector=self.corrector, weigh=_WEIGH[self.variant])


def _unified(variant: Variant) -> Weigh:
    def weigh(of: Parameterisation, nodes: Sequence[float], start: float, stop: float) -> list[float]:
        if len(nodes) != 2:
            return weights(of, nodes, start, stop)
        hh = math.log(stop / start)
        b = hh if variant == "bh1" else math.expm1(hh)
        # UniP-2 and UniC-1: two nodes, one of them the start, a = 1/2 instead of b_1.
        other = next(sigma for sigma in nodes if sigma != start)
        r = math.log(start / other) / -hh
        bend = -0.5 * b / r
        return [bend if sigma == other else -math.expm1(hh) - bend for sigma in nodes]

    return weigh


_WEIGH: dict[str, Weigh] = {"bh1": _unified("bh1"), "bh2": _unified("bh2")}
