"""A stationary Gaussian random field on a periodic grid: the exact prior that scales to real grids."""

from __future__ import annotations

import math
from dataclasses import dataclass, field

import torch
from torch import Tensor

from pdediff.diffusion.covariance import FourierCovariance
from pdediff.diffusion.denoiser import ShapedByMean, broadcast
from pdediff.diffusion.gaussian import GaussianPrior
from pdediff.diffusion.noise import GaussianRandomField, NoiseField, WhiteNoise
from pdediff.types import Field, Levels


@dataclass(frozen=True, eq=False)
class GaussianFieldPrior(ShapedByMean):
    """N(mean, S) with S diagonal in Fourier space: `spectrum` (channel, *space), eigenvalues in fftn order.

    Fields are real, so the spectrum is even in the wave vector: the densities count the modes k and -k once each.
    D(x) = m + S (S + sigma^2 C)^-1 (x - m) for white or coloured noise C; works in 1 to 3 dimensions.
    """

    mean: Tensor
    spectrum: Tensor
    noise: NoiseField = field(default_factory=WhiteNoise)

    def _noise_spectrum(self) -> Tensor:
        covariance = self.noise.covariance(self.shape)
        if isinstance(covariance, FourierCovariance):
            return covariance.spectrum.to(self.spectrum)
        return torch.ones_like(self.spectrum)

    def _modes(self, x: Tensor) -> Tensor:
        return torch.fft.fftn(x - self.mean, dim=tuple(range(2, x.dim())), norm="ortho")

    def __call__(self, x: Field, sigma: Levels) -> Field:
        gain = self.spectrum / (self.spectrum + broadcast(sigma, x) ** 2 * self._noise_spectrum())
        return self.mean + torch.fft.ifftn(gain * self._modes(x), dim=tuple(range(2, x.dim())), norm="ortho").real

    def error_scale(self, denoised: Field, sigma: float) -> None:
        """None: the error of a Gaussian prior does not depend on the field."""
        return

    def error(self, sigma: float) -> FourierCovariance:
        noise = sigma**2 * self._noise_spectrum()
        return FourierCovariance(self.spectrum / (1 + self.spectrum / noise))

    def score(self, x: Field, sigma: Levels) -> Field:
        """Gradient of `log_prob` in x: (S + sigma^2 C)^-1 (m - x), also where sigma is zero."""
        variance = self.spectrum + broadcast(sigma, x) ** 2 * self._noise_spectrum()
        return -torch.fft.ifftn(self._modes(x) / variance, dim=tuple(range(2, x.dim())), norm="ortho").real

    def log_prob(self, x: Field, sigma: Levels) -> Tensor:
        """Log density of x0 + sigma * eps at x, (batch,)."""
        variance = self.spectrum + broadcast(sigma, x) ** 2 * self._noise_spectrum()
        power = self._modes(x).abs() ** 2
        return -0.5 * (power / variance + variance.log() + math.log(2 * math.pi)).flatten(1).sum(1)

    def flow(self, x: Field, sigma: float, sigma_next: float) -> Field:
        """Exact probability-flow solution from level sigma to sigma_next."""
        noise = self._noise_spectrum()
        ratio = ((self.spectrum + sigma_next**2 * noise) / (self.spectrum + sigma**2 * noise)).sqrt()
        return self.mean + torch.fft.ifftn(ratio * self._modes(x), dim=tuple(range(2, x.dim())), norm="ortho").real

    def dense(self) -> GaussianPrior:
        """The same law with a full matrix; for exact conditioning on small grids (white noise only)."""
        size = self.spectrum.numel()
        identity = torch.eye(size, dtype=self.dtype).reshape(size, *self.shape)
        return GaussianPrior(self.mean, FourierCovariance(self.spectrum).matvec(identity).flatten(1))


def matern_field(
    grid: tuple[int, ...], *, length: float, smoothness: float, channels: int = 1, std: float = 1.0
) -> GaussianFieldPrior:
    """Zero-mean GaussianFieldPrior with the spectrum of `GaussianRandomField` and point standard deviation `std`."""
    covariance = GaussianRandomField(length, smoothness).covariance((channels, *grid))
    return GaussianFieldPrior(torch.zeros(channels, *grid, dtype=torch.float64), covariance.spectrum * std**2)
