"""DDIM and DDPM: the order-one sampler with a free amount of noise."""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

from pdediff.samplers.field import DataPrediction, Parameterisation
from pdediff.samplers.grids import uniform_lambda
from pdediff.samplers.plan import STATE, Plan, check_levels
from pdediff.samplers.steps import Eval, Lin
from pdediff.types import Fraction


@dataclass(frozen=True)
class DDIM:
    """DDIM (Song et al. 2021, eq. 12); eta = 1 is ancestral sampling of DDPM (Ho et al. 2020).

    With e = (x - D) / sigma and v = eta^2 t^2 (1 - (t / sigma)^2), t the next level,

        x' = D + sqrt(t^2 - v) e + sqrt(v) z.

    Order 1 for eta = 0, weak order 1 otherwise. eta = 1 equals the reverse SDE of SA-Solver with unit noise
    strength at order one, coefficient by coefficient.
    """

    source: ClassVar[str] = "Song et al. 2021 (DDIM), eq. 12; Ho et al. 2020 (DDPM)"

    eta: Fraction = 0.0

    @property
    def evaluations(self) -> float:
        """Denoiser evaluations of a step."""
        return 1.0

    @property
    def order(self) -> int:
        """Evaluations a step combines."""
        return 1

    @property
    def slope(self) -> int:
        """Promised order of convergence."""
        return 1

    def integrator(self, steps: int) -> tuple[Parameterisation, int]:
        """Data prediction with the noise strength that eta means for small steps."""
        return DataPrediction(1.0 + self.eta**2), 1

    def grid(self, steps: int, sigma_max: float, sigma_min: float) -> list[float]:
        """Uniform in log sigma."""
        return uniform_lambda(sigma_max, sigma_min, steps)

    def coefficients(self, sigma: float, sigma_next: float) -> tuple[float, float, float]:
        """(c_x, c_denoised, variance) of x' = c_x x + c_denoised D + sqrt(variance) z, z with the noise field's law."""
        ratio = sigma_next / sigma
        # eta = 1 is t^2 - v = (t^2 / sigma)^2, kept free of the cancellation in 1 - (1 - ratio^2).
        kept = (1.0 - self.eta**2) + (self.eta * ratio) ** 2
        c_x = ratio * math.sqrt(kept)
        variance = (self.eta * sigma_next) ** 2 * (1.0 - ratio) * (1.0 + ratio)
        return c_x, 1.0 - c_x, variance

    def plan(self, sigmas: Sequence[float]) -> Plan:
        """The compiled steps; `ConfigError` if the levels do not decrease."""
        levels = check_levels(sigmas, 1)
        ops: list[Eval | Lin] = []
        for i, (sigma, after) in enumerate(itertools.pairwise(levels)):
            c_x, c_denoised, variance = self.coefficients(sigma, after)
            ops.append(Eval("denoised", STATE, sigma))
            # The clock of the SDE to which small steps tend; exactly that of the noise for eta = 1.
            _, span = DataPrediction(1.0 + self.eta**2).added(sigma, after)
            ops.append(Lin(STATE, ((STATE, c_x), ("denoised", c_denoised)), variance, i, span))
        return Plan(tuple(ops), levels)
