"""The sampler of EDM: Heun's method in sigma with noise churn."""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

from pdediff.samplers.field import DataPrediction, NoisePrediction, Parameterisation
from pdediff.samplers.grids import edm_grid
from pdediff.samplers.plan import STATE, Plan, check_levels
from pdediff.samplers.runge_kutta import evaluate
from pdediff.samplers.steps import Eval, Lin
from pdediff.types import NonNegative, Positive

_MOST = math.sqrt(2.0) - 1.0
"""Largest gamma: no more noise is added than the state has already."""


@dataclass(frozen=True)
class EDMHeun:
    """Heun's method in sigma; each step may first raise the noise level (Karras et al. 2022, alg. 2).

    With N steps, gamma = min(s_churn / N, sqrt(2) - 1) where s_tmin <= sigma <= s_tmax (else 0), t the next level,

        sigma^ = (1 + gamma) sigma,  x^ = x + sqrt(sigma^^2 - sigma^2) s_noise z,
        d = (x^ - D(x^)) / sigma^,   x' = x^ + (t - sigma^) (d + d') / 2,

    d' the slope at the Euler state x^ + (t - sigma^) d. Two evaluations a step; a step to sigma = 0 is Euler's, hence
    2 N - 1 on a grid that ends there. Order 2, weak order 2 with churn. s_noise other than 1 changes the law that
    is sampled, and a limit s_tmin or s_tmax inside the grid is met to one step only.

    Good values: no churn with an exact denoiser; s_churn 10 to 40 corrects the errors of a trained one. s_noise 1.
    At least 20 steps: few steps over a wide range of levels are unstable.
    """

    source: ClassVar[str] = "Karras et al. 2022 (EDM), alg. 2"

    s_churn: NonNegative = 0.0
    s_tmin: NonNegative = 0.0
    s_tmax: Positive | None = None
    s_noise: Positive = 1.0

    @property
    def evaluations(self) -> float:
        """Denoiser evaluations of a step."""
        return 2.0

    @property
    def order(self) -> int:
        """Steps a grid needs at least."""
        return 1

    @property
    def slope(self) -> int:
        """Promised order of convergence, weak with churn."""
        return 2

    def integrator(self, steps: int) -> tuple[Parameterisation, int]:
        """Noise prediction, order 2."""
        return NoisePrediction(), 2

    def grid(self, steps: int, sigma_max: float, sigma_min: float) -> list[float]:
        """`edm_grid`; append a 0.0 for the last step of the paper."""
        return edm_grid(sigma_max, sigma_min, steps)

    def gamma(self, sigma: float, steps: int) -> float:
        """By what factor of itself the level is raised before the step."""
        inside = self.s_tmin <= sigma <= (math.inf if self.s_tmax is None else self.s_tmax)
        return min(self.s_churn / steps, _MOST) if inside else 0.0

    def plan(self, sigmas: Sequence[float]) -> Plan:
        """The compiled steps; `ConfigError` if the levels do not decrease."""
        levels = check_levels(sigmas)
        ops: list[Eval | Lin] = []
        for i, (sigma, stop) in enumerate(itertools.pairwise(levels)):
            raised = sigma
            if (gamma := self.gamma(sigma, len(levels) - 1)) > 0.0:
                raised = (1.0 + gamma) * sigma
                variance = gamma * (2.0 + gamma) * (sigma * self.s_noise) ** 2
                # Any clock that grows with the steps gives the same path at every number of them; this is the SDE's.
                _, span = DataPrediction(2.0).added(sigma, stop or 0.5 * sigma)
                ops.append(Lin(STATE, ((STATE, 1.0),), variance, i, span))
            ops += _heun(raised, stop)
        return Plan(tuple(ops), levels)


def _heun(sigma: float, stop: float) -> list[Eval | Lin]:
    if stop == 0.0:
        return [Eval(STATE, STATE, sigma)]  # Euler's step is the denoised state
    h, of = stop - sigma, NoisePrediction()
    return [
        *evaluate(of, sigma, STATE, "k0"),
        Lin("stage", ((STATE, 1.0), ("k0", h))),
        *evaluate(of, stop, "stage", "k1"),
        Lin(STATE, ((STATE, 1.0), ("k0", 0.5 * h), ("k1", 0.5 * h))),
    ]
