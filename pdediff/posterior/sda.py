"""The Gaussian score of score-based data assimilation."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from pdediff.diffusion import Denoiser, broadcast
from pdediff.observe import Observation
from pdediff.posterior.base import GuidedDenoiser
from pdediff.posterior.gain import Tangent, coloured
from pdediff.types import Field, Levels, Positive


@dataclass(frozen=True)
class SDA:
    """D_y = D + V H^T (R + gamma sigma^2 R_0)^-1 (y - H D), V = sigma^2 N J^T; R_0 the identity in whitened readings.

    Score-based data assimilation, Rozet and Louppe 2023, equation 15: log p(y | x) as -|y - H D|^2 / 2 (R + gamma
    sigma^2), here with gamma in units of each reading's noise variance: the paper's gamma is ours times R. `detached`
    leaves the Jacobian of the network out (V = sigma^2 N), for no backward pass. Any differentiable H. Biased on every
    prior, a Gaussian one included; follow it by Langevin corrections (`ScoreSDE` with repeats), as the paper does.

    Good values: gamma about the largest eigenvalue of H H^T / R, where it is PiGDM with variance sigma^2 for white
    sensors; smaller is stiffer: an explicit step of size h in log sigma is stable for about h < gamma / that number.
    """

    gamma: Positive = 10.0
    detached: bool = False
    exact: ClassVar[bool] = False
    linear_only: ClassVar[bool] = False

    @property
    def needs_vjp(self) -> bool:
        """Whether it differentiates the network."""
        return not self.detached

    def __call__(self, prior: Denoiser, observation: Observation) -> Denoiser:
        return _Guided(prior, observation.whitened(), self)


@dataclass(frozen=True, eq=False)
class _Guided(GuidedDenoiser):
    method: SDA

    def __call__(self, x: Field, sigma: Levels) -> Field:
        level = sigma.to(x)
        if self.method.detached:
            denoised = self.prior(x, sigma)
            lifted = self.lifted(denoised, level)
            return denoised + broadcast(level, x) ** 2 * coloured(self.prior, lifted)
        tangent = Tangent.of(self.prior, x, sigma)
        return tangent.denoised + tangent.spread(self.lifted(tangent.denoised, level))

    def lifted(self, denoised: Field, level: Levels) -> Field:
        """H^T (R + gamma sigma^2)^-1 r."""
        residual = self.observation.residual(denoised)
        return self.observation.operator.vjp(denoised, residual / (1 + self.method.gamma * level[:, None] ** 2))
