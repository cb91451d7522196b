"""A Gaussian random field on a periodic box whose spectrum is known: the prior of exact posteriors."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from pdediff.pdes.random_field import periodic_deviation, periodic_field
from pdediff.types import Positive


@dataclass(frozen=True)
class PeriodicGaussian:
    """Initial states of a known law, for the exact posteriors of linear equations and for smooth starts elsewhere.

    N(0, sigma^2 (-laplace + tau^2)^(-alpha)) on the periodic unit box without the constant mode: u(x) is the sum over
    m != 0 of c_m exp(2 pi i m . x) with E|c_m|^2 = sigma^2 (4 pi^2 |m|^2 + tau^2)^(-alpha). A grid of n points holds
    |m| < n/3 of each axis; a finer one adds modes and keeps the others. All numbers are nondimensional.
    Good values: sigma 25, alpha 2, tau 5 (Li et al. 2021, section 5.1), of standard deviation 0.59 on the ring and
    1.1 on the square; a larger alpha is smoother, tau / (2 pi) is the mode where the spectrum bends.
    """

    sigma: Positive = 25.0
    alpha: Positive = 2.0
    tau: Positive = 5.0

    def draw(self, seeds: Sequence[int], grid: int, dims: int) -> Tensor:
        """Fields `(len(seeds), *[grid] * dims)`, float64; row i depends on seed i alone."""
        tau = self.tau / (2.0 * math.pi)  # of modes m instead of wave numbers 2 pi m
        unit = math.sqrt(0.5) * periodic_deviation(self.alpha, tau, dims)
        scale = self.sigma * (2.0 * math.pi) ** -self.alpha * unit
        return scale * periodic_field(seeds, grid, self.alpha, tau, dims)

    def spectrum(self, grid: int, dims: int) -> Tensor:
        """Eigenvalues of the covariance of the values on the grid, `[grid] * dims` in the order of fftn, float64."""
        m = torch.fft.fftfreq(grid, 1.0 / grid, dtype=torch.float64)
        axes = torch.stack(torch.meshgrid(*[m] * dims, indexing="ij"))
        squared = axes.square().sum(0)
        drawn = (axes.abs() <= (grid - 1) // 3).all(0) & (squared > 0)
        power = self.sigma**2 * (4.0 * math.pi**2 * squared + self.tau**2) ** -self.alpha
        return grid**dims * torch.where(drawn, power, 0.0)

    def deviation(self, dims: int) -> float:
        """Standard deviation at a point, of the modes up to 64."""
        return float(self.spectrum(193, dims).mean().sqrt())
