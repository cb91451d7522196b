"""DiffusionPDE: norms of the misfit and of the equation's residual, one after the other."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from torch import Tensor

from pdediff.diffusion import Denoiser
from pdediff.observe import Observation
from pdediff.posterior.base import GuidedDenoiser
from pdediff.posterior.gain import score_gradient
from pdediff.posterior.physics import parts
from pdediff.types import Field, Levels, NonNegative, Positive


@dataclass(frozen=True)
class DiffusionPDE:
    """D_y = D - N grad_x [a |r_y| + b |r_e|], r_y and r_e the whitened residuals of readings and equation of each row.

    Huang et al. 2024, algorithm 1, per unit of log noise instead of per step (the published 2000 steps have about 188
    a unit): a = strength and b = 0 above the level `switch`, a = late * strength and b = residual_strength below; the
    default is where the published schedule stands after 80 % of its steps. The equation comes by `with_residual`;
    without it there is a alone. As DPS it is a step and not an estimate: do not end with it.

    Good values: 1 to 3, more than DPS, whose step grows with 1 + sigma^2; a tenth for the equation. Tune both
    for one grid and number of readings.
    """

    strength: Positive = 1.0
    residual_strength: NonNegative = 0.1
    switch: Positive = 0.085
    late: NonNegative = 0.1
    exact: ClassVar[bool] = False
    linear_only: ClassVar[bool] = False
    needs_vjp: ClassVar[bool] = True

    def __call__(self, prior: Denoiser, observation: Observation) -> Denoiser:
        return _DiffusionPDE(prior, observation, self)


@dataclass(frozen=True, eq=False)
class _DiffusionPDE(GuidedDenoiser):
    method: DiffusionPDE

    def __call__(self, x: Field, sigma: Levels) -> Field:
        early = (sigma > self.method.switch).to(x)
        a = self.method.strength * (early + (1 - early) * self.method.late)
        b = self.method.residual_strength * (1 - early)

        def loss(denoised: Field) -> Tensor:
            readings, equation = parts(self.observation, denoised)
            total = a * _norm(readings)
            return total + b * _norm(equation) if equation.shape[1] else total

        denoised, gradient = score_gradient(self.prior, x, sigma, loss)
        return denoised - gradient


def _norm(rows: Tensor) -> Tensor:
    """Norm of each row, with gradient zero at zero."""
    return (rows.square().sum(1) + 1e-24).sqrt()
