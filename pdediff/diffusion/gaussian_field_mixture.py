"""A mixture of Gaussian fields that differ in their means: modes in closed form on real grids."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cached_property

import torch
from torch import Tensor

from pdediff.diffusion.covariance import FourierCovariance
from pdediff.diffusion.denoiser import broadcast
from pdediff.diffusion.low_rank_update import LowRankUpdate
from pdediff.diffusion.noise import WhiteNoise
from pdediff.types import Field, Levels, fold, normal, uniform

_TRIALS = 8192


@dataclass(frozen=True, eq=False)
class GaussianFieldMixturePrior:
    """sum_k weights_k N(means_k, S) under white noise, S diagonal in Fourier space for all components.

    weights (k,), means (k, channel, *space), spectrum (channel, *space) as in `GaussianFieldPrior`. With G = S (S +
    sigma^2)^-1 and the responsibilities r_k(x), D(x) = G x + (1 - G) sum_k r_k m_k; the error has covariance
    sigma^2 G + (1 - G) M^T E[diag(r) - r r^T] M (1 - G), in which the k x k expectation is measured on 8192 fixed
    draws of the k numbers that r depends on. It is exact at sigma = inf. Nothing of the size of grid^2 is built.
    """

    weights: Tensor
    means: Tensor
    spectrum: Tensor
    noise: WhiteNoise = field(default_factory=WhiteNoise)

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

    def __call__(self, x: Field, sigma: Levels) -> Field:
        level = broadcast(sigma, x)
        gain = self.spectrum / (self.spectrum + level**2)
        centre = torch.tensordot(self._joint(x, level).softmax(1), self.means, dims=1)
        return centre + self._filtered(gain, x - centre)

    def log_prob(self, x: Field, sigma: Levels) -> Tensor:
        """Log density of x0 + sigma * eps at x, (batch,)."""
        level = broadcast(sigma, x)
        variance = self.spectrum + level**2
        power = self._modes(x).abs() ** 2
        common = -0.5 * (power / variance + variance.log() + math.log(2 * math.pi)).flatten(1).sum(1)
        return common + self._joint(x, level).logsumexp(1)

    def sample(self, seeds: Sequence[int]) -> Field:
        """Exact draws, row i from seed i alone."""
        rising = self.weights.cumsum(0)
        which = torch.searchsorted(rising, uniform(fold(seeds, 0), (1,)).to(self.dtype)[:, 0])
        return self.means[which.clamp(max=len(rising) - 1)] + self.within.draw(fold(seeds, 1), self.dtype)

    @property
    def within(self) -> FourierCovariance:
        """The covariance S of each component."""
        return FourierCovariance(self.spectrum)

    def error_scale(self, denoised: Field, sigma: float) -> None:
        """None: the average error of the level is used, as for a prior about which no more is known."""
        return

    def error(self, sigma: float) -> LowRankUpdate:
        """Covariance of x0 - D."""
        if sigma not in self._errors:
            gain = self.spectrum / (self.spectrum + sigma**2)
            values, vectors = torch.linalg.eigh(self._doubt(sigma))
            root = (vectors * values.clamp(min=0).sqrt()).T
            factor = torch.tensordot(root, self.means - self._filtered(gain, self.means), dims=1)
            own = self.spectrum / (1 + self.spectrum / sigma**2)
            self._errors[sigma] = LowRankUpdate(FourierCovariance(own), factor)
        return self._errors[sigma]

    @cached_property
    def _errors(self) -> dict[float, LowRankUpdate]:
        return {}

    def _doubt(self, sigma: float) -> Tensor:
        """E[diag(r) - r r^T], (k, k)."""
        if math.isinf(sigma):
            return torch.diag(self.weights) - torch.outer(self.weights, self.weights)
        white = self._filtered(1 / (self.spectrum + sigma**2), self.means).flatten(1)
        overlap = white @ self.means.flatten(1).T
        values, vectors = torch.linalg.eigh(overlap)
        root = vectors * values.clamp(min=0).sqrt()
        # what r depends on, <m_k, (S + sigma^2)^-1 x>, has this covariance within and these means of components
        spread = normal((0,), (_TRIALS, len(root)), dtype=self.dtype)[0] @ root.T
        doubt = torch.zeros_like(overlap)
        for weight, centre in zip(self.weights, overlap, strict=True):
            r = (self.weights.log() - 0.5 * overlap.diagonal() + centre + spread).softmax(1)
            doubt += weight * (torch.diag(r.mean(0)) - r.T @ r / len(r))
        return doubt

    def _joint(self, x: Tensor, level: Tensor) -> Tensor:
        """Log weight times density of each component (batch, k), up to what is the same for all."""
        modes, own = self._modes(x), self._modes(self.means)
        scaled = (own[:, None] / (self.spectrum + level**2)).flatten(2)  # (k, batch, points)
        along = torch.einsum("kbp,bp->bk", scaled.conj(), modes.flatten(1)).real
        return self.weights.log() + along - 0.5 * torch.einsum("kbp,kp->bk", scaled.conj(), own.flatten(1)).real

    def _modes(self, x: Tensor) -> Tensor:
        return torch.fft.fftn(x, dim=tuple(range(2, x.dim())), norm="ortho")

    def _filtered(self, gain: Tensor, x: Tensor) -> Tensor:
        return torch.fft.ifftn(gain * self._modes(x), dim=tuple(range(2, x.dim())), norm="ortho").real
