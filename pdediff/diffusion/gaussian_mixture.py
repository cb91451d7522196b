"""A Gaussian mixture prior: the closed form with modes, on which guidance is biased and particles are not."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from functools import cached_property

import torch
from torch import Tensor

from pdediff.diffusion.covariance import DenseCovariance
from pdediff.diffusion.gaussian import GaussianPrior
from pdediff.diffusion.noise import WhiteNoise
from pdediff.types import Field, Levels, fold, normal, uniform


@dataclass(frozen=True, eq=False)
class GaussianMixturePrior:
    """sum_k weights_k N(means_k, covariances_k) under white noise.

    weights (k,), means (k, channel, *space), covariances (k, d, d). D is the responsibility-weighted mean of the
    component denoisers; the error covariance, which has no closed form, is measured on 8192 fixed draws.
    """

    weights: Tensor
    means: Tensor
    covariances: Tensor
    noise: WhiteNoise = field(default_factory=WhiteNoise)

    @cached_property
    def _spectrum(self) -> tuple[Tensor, Tensor]:
        """Eigenvalues (k, d) and eigenvectors (k, d, d) of the components."""
        values, vectors = torch.linalg.eigh(self.covariances)
        return values.clamp(min=0), vectors

    @cached_property
    def _errors(self) -> dict[float, DenseCovariance]:
        return {}

    @property
    def shape(self) -> tuple[int, ...]:
        return tuple(self.means.shape[1:])

    @property
    def dtype(self) -> torch.dtype:
        return self.means.dtype

    @property
    def device(self) -> torch.device:
        return self.means.device

    @property
    def mean(self) -> Tensor:
        return torch.tensordot(self.weights, self.means, dims=1)

    def _modes(self, x: Tensor, sigma: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Component coordinates (k, batch, d), variances (k, batch, d) and joint log densities (k, batch)."""
        offset = x.flatten(1)[None] - self.means.flatten(1)[:, None]
        modes = torch.bmm(offset, self._spectrum[1])
        variance = self._spectrum[0][:, None] + sigma.to(x.dtype)[None, :, None] ** 2
        terms = modes**2 / variance + variance.log() + math.log(2 * math.pi)
        return modes, variance, self.weights.log()[:, None] - 0.5 * terms.sum(2)

    def __call__(self, x: Field, sigma: Levels) -> Field:
        modes, variance, joint = self._modes(x, sigma)
        shrunk = torch.bmm(modes * (self._spectrum[0][:, None] / variance), self._spectrum[1].mT)
        components = self.means.flatten(1)[:, None] + shrunk
        return (joint.softmax(0)[..., None] * components).sum(0).reshape(x.shape)

    def log_prob(self, x: Field, sigma: Levels) -> Tensor:
        """Log density of x0 + sigma * eps at x, (batch,)."""
        return self._modes(x, sigma)[2].logsumexp(0)

    def score(self, x: Field, sigma: Levels) -> Field:
        """Gradient of `log_prob` in x: that of the components, weighted; (D(x) - x) / sigma^2 would cancel."""
        modes, variance, joint = self._modes(x, sigma)
        components = torch.bmm(modes / variance, self._spectrum[1].mT)
        return -(joint.softmax(0)[..., None] * components).sum(0).reshape(x.shape)

    def sample(self, seeds: tuple[int, ...]) -> Field:
        """Exact draws, row i from seed i alone."""
        which = torch.searchsorted(self.weights.cumsum(0), uniform(fold(seeds, 0), (1,)).to(self.dtype)[:, 0])
        which = which.clamp(max=len(self.weights) - 1)
        modes = normal(fold(seeds, 1), (self.means[0].numel(),), dtype=self.dtype)
        modes = (modes * self._spectrum[0][which].sqrt())[:, None]
        return self.means[which] + torch.bmm(modes, self._spectrum[1][which].mT).reshape(-1, *self.shape)

    @cached_property
    def _trials(self) -> tuple[Tensor, Tensor]:
        seeds = tuple(range(8192))
        return self.sample(seeds), normal(fold(seeds, 2), self.shape, dtype=self.dtype)

    def error_scale(self, denoised: Field, sigma: float) -> None:
        """None: the average error of the level is used, as for a prior about which no more is known."""
        return

    def error(self, sigma: float) -> DenseCovariance:
        if sigma not in self._errors:
            self._errors[sigma] = self._measured(sigma)
        return self._errors[sigma]

    def _measured(self, sigma: float) -> DenseCovariance:
        x0, eps = self._trials
        if math.isinf(sigma):
            e = (x0 - self.mean).flatten(1)
        else:
            e = (x0 - self(x0 + sigma * eps, torch.full((len(x0),), sigma, dtype=self.dtype))).flatten(1)
        return DenseCovariance(e.T @ e / len(x0), self.shape)

    def condition(self, matrix: Tensor, y: Tensor, noise: Tensor) -> tuple[GaussianMixturePrior, float]:
        """Posterior and log evidence of y = matrix x0 + n, n ~ N(0, noise): each component conditioned, reweighted."""
        parts = [
            GaussianPrior(mean, covariance).condition(matrix, y, noise)
            for mean, covariance in zip(self.means, self.covariances, strict=True)
        ]
        joint = self.weights.log() + torch.tensor([evidence for _, evidence in parts], dtype=self.dtype)
        posterior = GaussianMixturePrior(
            joint.softmax(0), torch.stack([p.mean for p, _ in parts]), torch.stack([p.covariance for p, _ in parts])
        )
        return posterior, float(joint.logsumexp(0))
