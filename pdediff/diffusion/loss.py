"""The denoising loss, with levels and noise that are functions of (seed, step) alone."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from pdediff.diffusion.denoiser import broadcast
from pdediff.diffusion.edm import precondition, weight
from pdediff.diffusion.noise import NoiseField
from pdediff.diffusion.spectral_skip import SpectralSkip
from pdediff.types import Positive, Purpose, derive, generator


@dataclass(frozen=True)
class NoiseLevels:
    """Training levels: log sigma ~ N(mean, std^2) cut to [sigma_min, sigma_max], stratified over the batch.

    Good values for fields with unit variance: mean 0.3, std 1.8; smooth fields hide under noise only at levels far
    above their point variance, so the mean lies higher than the -1.2 of image work (Karras et al. 2022, table 1).
    """

    mean: float = 0.3
    std: Positive = 1.8
    sigma_min: Positive = 0.005
    sigma_max: Positive = 80.0

    def draw(self, batch: int, seed: int) -> Tensor:
        """Levels (batch,) float64: one in each of `batch` equal-probability strata, in random order."""
        source = generator(seed)
        order = torch.randperm(batch, generator=source)
        share = (order + torch.rand(batch, generator=source, dtype=torch.float64)) / batch
        low, high = (self._share(math.log(s)) for s in (self.sigma_min, self.sigma_max))
        return torch.exp(self.mean + self.std * torch.special.ndtri(low + share * (high - low)))

    def _share(self, log_sigma: float) -> float:
        return 0.5 * (1 + math.erf((log_sigma - self.mean) / (self.std * math.sqrt(2))))


@dataclass(frozen=True)
class DenoisingLoss:
    """(sigma^2 + s^2) / (sigma s)^2 * mean (D - x0)^2 per row: unit weight on the network's own target.

    With a spectral `skip` the mean square of its error stands for the inverse of the fraction.
    """

    noise: NoiseField
    levels: NoiseLevels
    seed: int
    sigma_data: float = 1.0
    skip: SpectralSkip | None = None

    def __call__(self, network: nn.Module, x0: Tensor, step: int) -> Tensor:
        """Per-row loss (batch,) of clean fields x0 (batch, channel, *space) at training step `step`."""
        sigma = self.levels.draw(len(x0), derive(self.seed, Purpose.LEVEL, step)).to(x0)
        seeds = (derive(self.seed, Purpose.STEP, step),)
        # One draw for the whole batch: the batch is the unit of training, and one generator is faster than many.
        eps = self.noise.sample(seeds, (len(x0) * x0.shape[1], *x0.shape[2:]), x0.dtype).reshape(x0.shape).to(x0.device)
        return self.at(network, x0, eps, sigma)

    def at(self, network: nn.Module, x0: Tensor, eps: Tensor, sigma: Tensor) -> Tensor:
        """Per-row loss (batch,) at given noise and levels."""
        denoised = precondition(network, x0 + broadcast(sigma, x0) * eps, sigma, self.sigma_data, self.skip)
        square = (denoised - x0).flatten(1).square().mean(1)
        return weight(sigma, self.sigma_data, self.skip).to(square) * square
