"""Twists: guesses of p(y | x_t) at the denoised state, which particles are weighed and guided by."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Literal, Protocol

import torch
from torch import Tensor

from pdediff.diffusion import Covariance, Denoiser
from pdediff.observe import Observation
from pdediff.posterior.conditioning import Conditioning, gaussian_log_density

TwistName = Literal["isotropic", "dps", "calibrated"]
Spread = Callable[[float], Covariance]
"""The covariance C that x0 - D is taken to have at a level."""


class Twist(Protocol):
    """G = N(y; H(D), R + J C J^T), J = H'(D), or another function of D, and where it pulls."""

    def __call__(self, denoised: Tensor, sigma: float) -> tuple[Tensor, Tensor, Tensor]:
        """log G (batch,), its gradient in D, J^T q with q = (R + J C J^T)^-1 (y - H(D)), and C J^T q; in float64."""
        ...


def twist_of(name: TwistName, prior: Denoiser, observation: Observation) -> Twist:
    """The twist of a name; a matrix for linear operators, the linearisation at each D for others."""
    if name == "dps":
        return NormTwist(observation)
    noise = prior.noise.covariance(prior.shape)
    spreads: dict[str, Spread] = {
        "isotropic": lambda sigma: noise.scaled(sigma**2 / (1 + sigma**2)),
        "calibrated": prior.error,
    }
    if observation.operator.linear:
        return LinearTwist(observation, spreads[name], observation.rows(prior.mean.double()))
    return GaussNewtonTwist(observation, spreads[name])


@dataclass(frozen=True, eq=False)
class LinearTwist:
    """One matrix a level, built at first use; rows: H as (m, channel, *space) in float64."""

    observation: Observation
    spread: Spread
    rows: Tensor
    known: dict[float, Conditioning] = field(default_factory=dict)

    def __call__(self, denoised: Tensor, sigma: float) -> tuple[Tensor, Tensor, Tensor]:
        if sigma not in self.known:
            self.known[sigma] = Conditioning.of(self.observation, self.spread(sigma), self.rows)
        c = self.known[sigma]
        residual = self.observation.residual(denoised.double())
        q = torch.cholesky_solve(residual.T, c.factor).T
        back = [(q @ rows.flatten(1)).reshape(denoised.shape) for rows in (c.rows, c.cross)]
        return gaussian_log_density(residual, c.factor), back[0], back[1]


@dataclass(frozen=True, eq=False)
class GaussNewtonTwist:
    """H linearised at each D: m VJPs of the operator a particle, in blocks that hold at most `block` numbers."""

    observation: Observation
    spread: Spread
    block: int = 2**24

    def __call__(self, denoised: Tensor, sigma: float) -> tuple[Tensor, Tensor, Tensor]:
        size = max(1, self.block // (len(self.observation.y) * denoised[0].numel()))
        parts = [self._block(part.double(), self.spread(sigma)) for part in denoised.split(size)]
        log_g, pull, gain = (torch.cat(found) for found in zip(*parts, strict=True))
        return log_g, pull, gain

    def _block(self, denoised: Tensor, spread: Covariance) -> tuple[Tensor, Tensor, Tensor]:
        k, m = len(denoised), len(self.observation.y)
        eye = torch.eye(m, dtype=denoised.dtype, device=denoised.device)
        rows = self.observation.operator.vjp(denoised.repeat_interleave(m, 0), eye.repeat(k, 1))
        cross = spread.matvec(rows).reshape(k, m, -1)
        rows = rows.reshape(k, m, -1)
        innovation = rows @ cross.mT + torch.diag(self.observation.noise.std.to(rows) ** 2)
        factor = torch.linalg.cholesky(0.5 * (innovation + innovation.mT))
        residual = self.observation.residual(denoised)
        white = torch.linalg.solve_triangular(factor, residual[..., None], upper=False)
        q = torch.linalg.solve_triangular(factor.mT, white, upper=True)
        constant = factor.diagonal(dim1=1, dim2=2).log().sum(1) + 0.5 * m * math.log(2 * math.pi)
        back = [(q.mT @ r).reshape(denoised.shape) for r in (rows, cross)]
        return -0.5 * white.square().sum((1, 2)) - constant, back[0], back[1]


@dataclass(frozen=True, eq=False)
class NormTwist:
    """log G = -c |R^-1/2 (y - H(D))|, c = min(strength (1 + sigma^2) / sigma^2, sqrt(m)): the step rule of DPS.

    With c uncapped the shift sigma^2 grad log G is that of `DPS`; the cap is the slope of the log likelihood at a
    misfit of one, beyond which particles would be weighed by more than the readings say. C is nothing: x0 is a point.
    """

    observation: Observation
    strength: float = 0.3

    def __call__(self, denoised: Tensor, sigma: float) -> tuple[Tensor, Tensor, Tensor]:
        at = denoised.double()
        white = self.observation.noise.whiten(self.observation.residual(at))
        slope = min(self.strength * (1 + sigma**2) / sigma**2, len(self.observation.y) ** 0.5)
        norm = white.norm(dim=1)
        q = slope * self.observation.noise.whiten(white / norm[:, None])
        return -slope * norm, self.observation.operator.vjp(at, q), torch.zeros_like(at)
