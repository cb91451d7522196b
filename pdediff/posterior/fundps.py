"""FunDPS: squared misfits whose gradient is taken on function space."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from torch import Tensor

from pdediff.diffusion import Denoiser, broadcast
from pdediff.observe import Observation
from pdediff.posterior.base import GuidedDenoiser
from pdediff.posterior.gain import score_gradient
from pdediff.posterior.physics import parts
from pdediff.types import Field, Levels, NonNegative, Positive


@dataclass(frozen=True)
class FunDPS:
    """D_y = D - c N grad_x [strength mean(r_y^2) + residual_strength 1(sigma <= 1) mean(r_e^2)], c = min(sigma, 1).

    Yao et al. 2025, algorithm 1, per unit of log noise, with the gradient of function space: multiplied by the noise's
    covariance N, without which the guidance of a coloured model depends on the grid. Whitened residuals of each row;
    the equation comes by `with_residual`. A step and not an estimate: do not end with it.

    Good values: strength a fifth of the number of readings; an explicit step h in log noise is stable for
    h strength 2 |R^-1/2 H|^2 / m < 2 at sigma >= 1.
    """

    strength: Positive = 1.0
    residual_strength: NonNegative = 0.1
    switch: Positive = 1.0
    exact: ClassVar[bool] = False
    linear_only: ClassVar[bool] = False
    needs_vjp: ClassVar[bool] = True

    def __call__(self, prior: Denoiser, observation: Observation) -> Denoiser:
        return _FunDPS(prior, observation, self)


@dataclass(frozen=True, eq=False)
class _FunDPS(GuidedDenoiser):
    method: FunDPS

    def __call__(self, x: Field, sigma: Levels) -> Field:
        late = (sigma <= self.method.switch).to(x)

        def loss(denoised: Field) -> Tensor:
            readings, equation = parts(self.observation, denoised)
            total = self.method.strength * readings.square().mean(1)
            if equation.shape[1]:
                total = total + self.method.residual_strength * late * equation.square().mean(1)
            return total

        denoised, gradient = score_gradient(self.prior, x, sigma, loss)
        return denoised - broadcast(sigma.clamp(max=self.method.switch) / self.method.switch, x) * gradient
