"""Predictor-corrector sampling of the reverse SDE: the first-order steps of Song et al. and Langevin correctors."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import ClassVar, Literal

from pdediff.samplers.ddim import DDIM
from pdediff.samplers.field import DataPrediction, Parameterisation
from pdediff.samplers.grids import uniform_lambda
from pdediff.samplers.plan import STATE, Plan, check_levels
from pdediff.samplers.steps import Eval, Kick, Lin, Step
from pdediff.types import NonNegative, NonNegativeInt, Positive

PredictorName = Literal["ancestral", "reverse_diffusion", "euler_maruyama"]


Numbers = tuple[float, float, float]
"""(c_x, c_denoised, variance) of a step x' = c_x x + c_denoised D + sqrt(variance) z."""


def _reverse_diffusion(sigma: float, after: float) -> Numbers:
    c_x, c_denoised, _ = _ANCESTRAL.coefficients(sigma, after)
    return c_x, c_denoised, (sigma - after) * (sigma + after)


def _euler_maruyama(sigma: float, after: float) -> Numbers:
    h = math.log(sigma / after)
    return 1.0 - 2.0 * h, 2.0 * h, 2.0 * h * sigma**2


_ANCESTRAL = DDIM(1.0)
_PREDICTORS: Mapping[PredictorName, Callable[[float, float], Numbers]] = {
    "ancestral": _ANCESTRAL.coefficients,
    "reverse_diffusion": _reverse_diffusion,
    "euler_maruyama": _euler_maruyama,
}


def langevin_steps(level: float, r: float, repeats: int, key: int) -> list[Step]:
    """Unadjusted Langevin steps of size r sigma^2 at one level: x <- x + r (D - x) + sqrt(2 r) sigma z.

    On N(m, v) the law tends to N(m, (v + sigma^2) / (1 - q / 2)) with q = r sigma^2 / (v + sigma^2): never too narrow,
    too wide by at most 1 / (1 - r / 2). Stable for r < 2.
    """
    steps: list[Step] = []
    for repeat in range(repeats):
        steps.append(Eval("denoised", STATE, level))
        steps.append(Lin(STATE, ((STATE, 1.0 - r), ("denoised", r)), 2.0 * r * level**2, key + repeat))
    return steps


@dataclass(frozen=True)
class ScoreSDE:
    """Predictor-corrector sampler of Song et al. (2021), alg. 2, in the variance-exploding frame.

    From level sigma to t, with h = log(sigma / t), the predictor is x' = x + c (D - x) + sqrt(v) z,

        ancestral          c = 1 - (t / sigma)^2    v = t^2 (1 - (t / sigma)^2)    (eq. 47; `DDIM(1)`, that is DDPM)
        reverse_diffusion  c = 1 - (t / sigma)^2    v = sigma^2 - t^2              (eq. 46)
        euler_maruyama     c = 2 h                  v = 2 h sigma^2                (in log sigma; needs h < 1)

    and `corrections` Langevin steps at level t follow, one evaluation each: x' = x + r (D - x) + sqrt(2 r) t z with
    r = 1 - e^(-rate h). Their law is too wide by a relative r / 2 at most, so r shrinks with the steps; in the limit
    predictor and correctors are the SDE of noise strength tau^2 = 1 + corrections * rate (see `SASolver`), which has
    the same marginals. With `snr` the correctors are the published ones instead, of size 2 (snr |z| / |score|)^2 for
    each row: that does not shrink, so their bias stays at any number of steps, and no exact response exists.

    Weak order 1. A VP or sub-VP process is this SDE after dividing the state by alpha, on its own levels
    sigma / alpha; the published VP steps differ from these by O(h^2).
    No noise is added and nothing corrected in a step to sigma = 0; `denoise_last=True` of `run` is the published
    last step.

    Good values: ancestral, one correction of rate 1; the paper has snr 0.16 and 1000 steps equal in log sigma.
    """

    source: ClassVar[str] = "Song et al. 2021 (score SDE), alg. 2 and app. E, F, G"

    predictor: PredictorName = "ancestral"
    corrections: NonNegativeInt = 1
    rate: NonNegative = 1.0
    snr: Positive | None = None

    @property
    def evaluations(self) -> float:
        """Denoiser evaluations of a step."""
        return 1.0 + self.corrections

    @property
    def order(self) -> int:
        """Evaluations a step combines."""
        return 1

    @property
    def slope(self) -> int:
        """Promised weak order; with `snr` down to the bias of the corrector."""
        return 1

    def integrator(self, steps: int) -> tuple[Parameterisation, int]:
        """Data prediction with the noise strength that small steps have."""
        return DataPrediction(2.0 + (self.corrections * self.rate if self.snr is None else 0.0)), 1

    def grid(self, steps: int, sigma_max: float, sigma_min: float) -> list[float]:
        """Uniform in log sigma, the geometric levels of the paper."""
        return uniform_lambda(sigma_max, sigma_min, steps)

    def plan(self, sigmas: Sequence[float]) -> Plan:
        """The compiled steps; `ConfigError` if the levels do not decrease."""
        levels = check_levels(sigmas)
        ops: list[Step] = []
        for i, (sigma, after) in enumerate(itertools.pairwise(levels)):
            key = i * (1 + self.corrections)
            ops.append(Eval("denoised", STATE, sigma))
            if after == 0.0:
                ops.append(Lin(STATE, (("denoised", 1.0),)))
                break
            c_x, c_denoised, variance = _PREDICTORS[self.predictor](sigma, after)
            # The correctors share no clock with the predictor: only without them is there one Brownian path.
            _, span = DataPrediction(2.0).added(sigma, after)
            path = span if self.corrections == 0 else None
            ops.append(Lin(STATE, ((STATE, c_x), ("denoised", c_denoised)), variance, key, path))
            ops += self._correct(after, math.log(sigma / after), key + 1)
        return Plan(tuple(ops), levels)

    def _correct(self, level: float, h: float, key: int) -> list[Step]:
        if self.snr is None or self.corrections == 0:
            return langevin_steps(level, -math.expm1(-self.rate * h), self.corrections, key)
        return [Kick(STATE, level, "langevin", (self.snr,), self.corrections, key)]
