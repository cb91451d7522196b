"""Gaussian conditioning on a linear observation: the gain behind guidance, twisted particles and kriging."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from pdediff.diffusion import Covariance, LowRankCovariance
from pdediff.observe import Observation
from pdediff.types import fold


@dataclass(frozen=True, eq=False)
class Conditioning:
    """x0 ~ N(mean, C) given y = H x0 + n: everything that does not depend on the mean, in float64.

    rows: H as (m, channel, *space); cross: C H^T likewise; factor: Cholesky of R + H C H^T.
    """

    observation: Observation
    covariance: Covariance
    rows: Tensor
    cross: Tensor
    factor: Tensor

    @staticmethod
    def of(observation: Observation, covariance: Covariance, rows: Tensor) -> Conditioning:
        """Build from the rows of H (m, channel, *space) in float64."""
        cross = covariance.matvec(rows)
        innovation = rows.flatten(1) @ cross.flatten(1).T + torch.diag(observation.noise.std.to(rows) ** 2)
        factor = torch.linalg.cholesky(0.5 * (innovation + innovation.T))
        return Conditioning(observation, covariance, rows, cross, factor)

    @property
    def gain(self) -> Tensor:
        """(R + H C H^T)^-1 H C as a matrix (m, size): as large as `cross`, dearer than a few hundred updates."""
        return torch.cholesky_solve(self.cross.flatten(1), self.factor)

    def update(self, mean: Tensor, residual: Tensor) -> Tensor:
        """Conditional mean: mean + C H^T (R + H C H^T)^-1 residual for rows mean (k, ...), residual (k, m)."""
        q = torch.cholesky_solve(residual.to(self.factor).T, self.factor).T
        return mean + (q.to(mean) @ self.cross.flatten(1).to(mean)).reshape(mean.shape)

    def log_evidence(self, residual: Tensor) -> Tensor:
        """log N(residual; 0, R + H C H^T) per row, float64."""
        return gaussian_log_density(residual, self.factor)

    def draw(self, mean: Tensor, seeds: Sequence[int]) -> Tensor:
        """Conditional draws by Matheron's rule: a free draw, corrected by the gain times its own residual."""
        free = mean + self.covariance.draw(fold(seeds, 0), mean.dtype)
        noise = self.observation.noise.sample(fold(seeds, 1), mean.dtype).to(mean.device)
        return self.update(free, self.observation.residual(free) - noise)


def local_update(c: Conditioning, mean: Tensor, residual: Tensor, scale: Tensor) -> Tensor:
    """`Conditioning.update` with the covariance diag(s) C diag(s), s = scale (k, channel, *space): a gain a row."""
    if isinstance(c.covariance, LowRankCovariance):
        return _low_rank_update(c, c.covariance, mean, residual, scale)
    k, m = residual.shape
    rows = (scale[:, None] * c.rows.to(mean)).flatten(0, 1)
    cross = c.covariance.matvec(rows).reshape(k, m, -1)
    q = _weights(c, rows.reshape(k, m, -1) @ cross.mT, residual)
    return mean + scale * (q.to(mean)[:, None] @ cross).reshape(mean.shape)


def _low_rank_update(
    c: Conditioning, covariance: LowRankCovariance, mean: Tensor, residual: Tensor, scale: Tensor
) -> Tensor:
    """The same for C = diag(v) + U^T U: the sensors look at the scaled directions, which is all that H C H^T needs."""
    operator, rows = c.observation.operator, c.rows.to(mean).flatten(1)
    factor, local = covariance.factor.to(mean), scale**2 * covariance.variance.to(mean)
    k, m = residual.shape
    directions = (scale[:, None] * factor).flatten(0, 1)
    seen = operator.jvp(mean[:1].expand_as(directions), directions).reshape(k, len(factor), m)
    q = _weights(c, seen.mT @ seen + (local.flatten(1)[:, None] * rows) @ rows.T, residual).to(mean)
    along = torch.tensordot((seen @ q[..., None])[..., 0], factor, dims=1)
    return mean + scale * along + local * operator.vjp(mean, q)


def local_factor(c: Conditioning, scale: Tensor) -> Tensor:
    """Cholesky factors (k, m, m) of R + H diag(s) C diag(s) H^T, float64, from the rows of H."""
    k, m = len(scale), len(c.rows)
    rows, scale = c.rows.flatten(1), scale.to(c.rows)
    if isinstance(c.covariance, LowRankCovariance):
        seen = (scale[:, None] * c.covariance.factor.to(scale)).flatten(2) @ rows.T
        local = (scale**2 * c.covariance.variance.to(scale)).flatten(1)
        return _factor(c, seen.mT @ seen + (local[:, None] * rows) @ rows.T)
    scaled = (scale[:, None] * c.rows).flatten(0, 1)
    cross = c.covariance.matvec(scaled).reshape(k, m, -1)
    return _factor(c, scaled.reshape(k, m, -1) @ cross.mT)


def _factor(c: Conditioning, spread: Tensor) -> Tensor:
    """Cholesky factors of R + H C H^T, float64; spread = H C H^T (k, m, m)."""
    spread = spread.double()
    return torch.linalg.cholesky(0.5 * (spread + spread.mT) + torch.diag(c.observation.noise.std.to(spread) ** 2))


def _weights(c: Conditioning, spread: Tensor, residual: Tensor) -> Tensor:
    """(R + H C H^T)^-1 residual of each row, float64; spread = H C H^T (k, m, m)."""
    return torch.cholesky_solve(residual.double()[..., None], _factor(c, spread))[..., 0]


def gaussian_log_density(residual: Tensor, factor: Tensor) -> Tensor:
    """log N(residual; 0, L L^T) for rows (k, m) and a Cholesky factor L, float64."""
    white = torch.linalg.solve_triangular(factor, residual.to(factor).T, upper=False)
    constant = factor.diagonal().log().sum() + 0.5 * len(factor) * math.log(2 * math.pi)
    return -0.5 * white.square().sum(0) - constant
