"""A Gaussian prior with a full covariance matrix: every quantity of a posterior sampler in closed form."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from functools import cached_property

import torch
from torch import Tensor

from pdediff.diffusion.covariance import DenseCovariance
from pdediff.diffusion.denoiser import ShapedByMean
from pdediff.diffusion.noise import WhiteNoise
from pdediff.types import Field, Levels


@dataclass(frozen=True, eq=False)
class GaussianPrior(ShapedByMean):
    """N(mean, covariance) under white noise: mean (channel, *space), covariance (d, d) over the flattened field.

    D(x) = m + S (S + sigma^2)^-1 (x - m), error covariance (S^-1 + sigma^-2)^-1, both exact.
    """

    mean: Tensor
    covariance: Tensor
    noise: WhiteNoise = field(default_factory=WhiteNoise)

    @cached_property
    def _spectrum(self) -> tuple[Tensor, Tensor]:
        """Eigenvalues (d,) and eigenvectors (d, d) of the covariance."""
        values, vectors = torch.linalg.eigh(self.covariance)
        return values.clamp(min=0), vectors

    def __call__(self, x: Field, sigma: Levels) -> Field:
        level = sigma.to(x.dtype)[:, None]
        modes = (x - self.mean).flatten(1) @ self._spectrum[1]
        gain = self._spectrum[0] / (self._spectrum[0] + level**2)
        return self.mean + ((modes * gain) @ self._spectrum[1].T).reshape(x.shape)

    def error_scale(self, denoised: Field, sigma: float) -> None:
        """None: the error of a Gaussian prior does not depend on the field."""
        return

    def error(self, sigma: float) -> DenseCovariance:
        values = self._spectrum[0] / (1 + self._spectrum[0] / sigma**2)
        return DenseCovariance((self._spectrum[1] * values) @ self._spectrum[1].T, self.shape)

    def score(self, x: Field, sigma: Levels) -> Field:
        """Gradient of `log_prob` in x: (S + sigma^2)^-1 (m - x), where (D(x) - x) / sigma^2 would cancel."""
        variance = self._spectrum[0] + sigma.to(x.dtype)[:, None] ** 2
        modes = (self.mean - x).flatten(1) @ self._spectrum[1]
        return ((modes / variance) @ self._spectrum[1].T).reshape(x.shape)

    def log_prob(self, x: Field, sigma: Levels) -> Tensor:
        """Log density of x0 + sigma * eps at x, (batch,)."""
        variance = self._spectrum[0] + sigma.to(x.dtype)[:, None] ** 2
        modes = (x - self.mean).flatten(1) @ self._spectrum[1]
        return -0.5 * (modes**2 / variance + variance.log() + math.log(2 * math.pi)).sum(1)

    def flow(self, x: Field, sigma: float, sigma_next: float) -> Field:
        """Exact probability-flow solution from level sigma to sigma_next."""
        ratio = ((self._spectrum[0] + sigma_next**2) / (self._spectrum[0] + sigma**2)).sqrt()
        modes = (x - self.mean).flatten(1) @ self._spectrum[1]
        return self.mean + ((modes * ratio) @ self._spectrum[1].T).reshape(x.shape)

    def condition(self, matrix: Tensor, y: Tensor, noise: Tensor) -> tuple[GaussianPrior, float]:
        """Posterior and log evidence of y = matrix x0 + n, n ~ N(0, noise); matrix (m, d), y (m,), noise (m, m)."""
        cross = self.covariance @ matrix.T
        innovation = matrix @ cross + noise
        residual = y - matrix @ self.mean.flatten()
        factor = torch.linalg.cholesky(innovation)
        gain = torch.cholesky_solve(cross.T, factor).T
        mean = self.mean + (gain @ residual).reshape(self.shape)
        covariance = self.covariance - gain @ cross.T
        white = torch.linalg.solve_triangular(factor, residual[:, None], upper=False)
        evidence = -0.5 * (white**2).sum() - factor.diagonal().log().sum() - 0.5 * len(y) * math.log(2 * math.pi)
        return GaussianPrior(mean, 0.5 * (covariance + covariance.T)), float(evidence)
