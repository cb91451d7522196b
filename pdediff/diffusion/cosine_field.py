"""Gaussian fields on a box without periodic edges, diagonal in cosines: the exact prior of many elliptic problems."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import lru_cache

import torch
from torch import Tensor

from pdediff.diffusion.covariance import Covariance
from pdediff.diffusion.denoiser import ShapedByMean, broadcast
from pdediff.diffusion.noise import WhiteNoise
from pdediff.types import Field, Levels, normal


@dataclass(frozen=True, eq=False)
class CosineCovariance:
    """Diagonal in the orthonormal discrete cosines (DCT-II): `spectrum` (channel, *space) holds the eigenvalues.

    Cosines have no slope at the edges: fields whose covariance is a function of the Neumann laplacian.
    """

    spectrum: Tensor

    @property
    def shape(self) -> tuple[int, ...]:
        return tuple(self.spectrum.shape)

    def matvec(self, v: Tensor) -> Tensor:
        return from_cosines(self.spectrum.to(v) * to_cosines(v))

    def sqrt(self, v: Tensor) -> Tensor:
        """Of unit white noise v, a draw."""
        return from_cosines(self.spectrum.sqrt().to(v) * to_cosines(v))

    def draw(self, seeds: Sequence[int], dtype: torch.dtype = torch.float32) -> Tensor:
        return self.sqrt(normal(seeds, self.shape, dtype=dtype, device=self.spectrum.device))

    def solve(self, v: Tensor) -> Tensor:
        return from_cosines(to_cosines(v) / self.spectrum.to(v))

    def diagonal(self) -> Tensor:
        variance = self.spectrum[None]
        for _ in self.shape[1:]:
            variance = variance.movedim(2, -1) @ _cosines(variance.shape[2]).to(variance).square()
        return variance[0]

    def scaled(self, factor: float) -> CosineCovariance:
        return CosineCovariance(self.spectrum * factor)


@dataclass(frozen=True, eq=False)
class CosineFieldPrior(ShapedByMean):
    """N(mean, S) under white noise, S diagonal in cosines: `spectrum` (channel, *space), its eigenvalues >= 0.

    D(x) = m + S (S + sigma^2)^-1 (x - m), error covariance (S^-1 + sigma^-2)^-1, both exact. For several channels the
    fields are independent. Two matrix products an axis: meant for up to some hundred points a side.
    """

    mean: Tensor
    spectrum: Tensor
    noise: WhiteNoise = field(default_factory=WhiteNoise)

    def __call__(self, x: Field, sigma: Levels) -> Field:
        spectrum = self.spectrum.to(x)
        gain = spectrum / (spectrum + broadcast(sigma, x) ** 2)
        return self.mean.to(x) + from_cosines(gain * to_cosines(x - self.mean.to(x)))

    def error_scale(self, denoised: Field, sigma: float) -> None:
        """None: the error of a Gaussian prior does not depend on the field."""
        return

    def error(self, sigma: float) -> Covariance:
        return CosineCovariance(self.spectrum / (1 + self.spectrum / sigma**2))

    def score(self, x: Field, sigma: Levels) -> Field:
        """Gradient of `log_prob` in x: (S + sigma^2)^-1 (m - x)."""
        variance = self.spectrum.to(x) + broadcast(sigma, x) ** 2
        return from_cosines(to_cosines(self.mean.to(x) - x) / variance)

    def log_prob(self, x: Field, sigma: Levels) -> Tensor:
        """Log density of x0 + sigma * eps at x, (batch,)."""
        variance = self.spectrum.to(x) + broadcast(sigma, x) ** 2
        power = to_cosines(x - self.mean.to(x)).square()
        return -0.5 * (power / variance + variance.log() + math.log(2 * math.pi)).flatten(1).sum(1)

    def flow(self, x: Field, sigma: float, sigma_next: float) -> Field:
        """Exact probability-flow solution from level sigma to sigma_next."""
        ratio = ((self.spectrum + sigma_next**2) / (self.spectrum + sigma**2)).sqrt()
        return self.mean.to(x) + from_cosines(ratio.to(x) * to_cosines(x - self.mean.to(x)))


def to_cosines(v: Tensor) -> Tensor:
    """Coefficients of the orthonormal discrete cosines of fields (batch, channel, *space)."""
    for _ in range(v.dim() - 2):  # each round moves the axis it deals with to the end
        v = v.movedim(2, -1) @ _cosines(v.shape[2]).to(v).T
    return v


def from_cosines(modes: Tensor) -> Tensor:
    """The fields of these coefficients, the inverse and the transpose of `to_cosines`."""
    for _ in range(modes.dim() - 2):
        modes = modes.movedim(2, -1) @ _cosines(modes.shape[2]).to(modes)
    return modes


@lru_cache(maxsize=16)
def _cosines(n: int) -> Tensor:
    """Rows cos(pi k (i + 1/2) / n), normalised."""
    k = torch.arange(n, dtype=torch.float64)
    rows = torch.cos(math.pi / n * k[:, None] * (k + 0.5)) * math.sqrt(2.0 / n)
    rows[0] = math.sqrt(1.0 / n)
    return rows
