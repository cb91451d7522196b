"""The law of the noise that a diffusion adds: white, or a Gaussian random field for function-space diffusion."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor

from pdediff.diffusion.covariance import Covariance, DiagonalCovariance, FourierCovariance, isotropic
from pdediff.types import Positive, normal


class NoiseField(Protocol):
    """eps ~ N(0, C) with unit point variance, on any grid."""

    def sample(self, seeds: Sequence[int], shape: Sequence[int], dtype: torch.dtype = torch.float32) -> Tensor:
        """Rows (len(seeds), *shape), row i from seed i alone; shape is (channel, *space)."""
        ...

    def covariance(self, shape: Sequence[int]) -> Covariance:
        """C on fields of `shape`."""
        ...


@dataclass(frozen=True)
class WhiteNoise:
    """Independent standard normals at the grid points."""

    def sample(self, seeds: Sequence[int], shape: Sequence[int], dtype: torch.dtype = torch.float32) -> Tensor:
        return normal(seeds, shape, dtype=dtype)

    def covariance(self, shape: Sequence[int]) -> DiagonalCovariance:
        return isotropic(shape, 1.0)


@dataclass(frozen=True)
class GaussianRandomField:
    """Periodic Matern-type field with unit point variance; a prior trained on one grid samples on finer ones.

    Spectrum (1 + (length * |k|)^2)^-smoothness with k = 2 pi n per unit box. Source: Lim et al. 2023 (score-based
    diffusion in function space). Good values: length 0.05 to 0.2 of the box, smoothness 1.5 (2-D) or 1.0 (1-D);
    the spectrum must be summable, smoothness > dimension / 2, for the law to have a limit on fine grids.
    """

    length: Positive = 0.05
    smoothness: Positive = 1.5

    def sample(self, seeds: Sequence[int], shape: Sequence[int], dtype: torch.dtype = torch.float32) -> Tensor:
        return self.covariance(shape).sqrt(normal(seeds, shape, dtype=dtype))

    def covariance(self, shape: Sequence[int]) -> FourierCovariance:
        channels, *space = shape
        squared = sum(
            (2 * math.pi * torch.fft.fftfreq(n, 1.0 / n, dtype=torch.float64)).reshape(
                [-1 if i == axis else 1 for i in range(len(space))]
            )
            ** 2
            for axis, n in enumerate(space)
        )
        spectrum = (1 + self.length**2 * torch.as_tensor(squared)) ** -self.smoothness
        spectrum = spectrum / spectrum.mean()
        return FourierCovariance(spectrum.expand(channels, *space).contiguous())
