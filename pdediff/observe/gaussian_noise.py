"""Gaussian errors: independent, or correlated between sensors."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from pdediff.errors import ConfigError, DataError
from pdediff.observe.noise import difference
from pdediff.observe.operator import Linear, Scaling
from pdediff.types import normal


@dataclass(frozen=True, eq=False)
class GaussianNoise:
    """Independent errors with standard deviations `std` (m,), in the units of the readings.

    log p(y | f) = -sum_i [(y_i - f_i)^2 / std_i^2 + log(2 pi std_i^2)] / 2. Without a prediction, y holds residuals.
    """

    std: Tensor

    def whitening(self) -> Scaling:
        """1 / std."""
        return Scaling(torch.zeros_like(self.std), 1 / self.std)

    def check(self, y: Tensor) -> None:
        """Raises DataError unless there is one positive std for each reading."""
        if self.std.shape != y.shape:
            raise DataError(
                f"an observation needs m >= 1 readings and m stds; got {tuple(y.shape)} readings "
                f"and {tuple(self.std.shape)} stds"
            )
        check_positive(self.std, "noise std")

    def log_prob(self, y: Tensor, prediction: Tensor | None = None) -> Tensor:
        """Log density of rows (batch, m), (batch,)."""
        residual = difference(y, prediction)
        std = self.std.to(residual)
        terms = (residual / std) ** 2 + 2 * std.log() + math.log(2 * math.pi)
        return -0.5 * terms.sum(1)

    def whiten(self, y: Tensor, prediction: Tensor | None = None) -> Tensor:
        """Residuals in units of their standard deviation."""
        residual = difference(y, prediction)
        return residual / self.std.to(residual)

    def variance(self, prediction: Tensor) -> Tensor:
        """std^2 for every prediction."""
        return (self.std.to(prediction) ** 2).expand_as(prediction)

    def sample(self, seeds: Sequence[int], dtype: torch.dtype = torch.float64) -> Tensor:
        """Errors, rows (len(seeds), m)."""
        return self.std.to("cpu", dtype) * normal(seeds, self.std.shape, dtype=dtype)

    def draw(self, prediction: Tensor, seeds: Sequence[int]) -> Tensor:
        """Prediction plus errors."""
        return prediction + self.sample(seeds, prediction.dtype).to(prediction.device)


@dataclass(frozen=True, eq=False)
class CorrelatedGaussianNoise:
    """Errors with covariance R = L L^T, L = `factor` (m, m) lower triangular float64; made by `of` or `at`.

    log p(y | f) = -|L^-1 (y - f)|^2 / 2 - sum_i log L_ii - m log(2 pi) / 2. Without a prediction, y holds residuals.
    Methods that want independent errors take `Observation.whitened()`.
    """

    factor: Tensor

    @classmethod
    def of(cls, covariance: Tensor) -> CorrelatedGaussianNoise:
        """From R (m, m). Raises DataError where it is not symmetric and positive definite."""
        r = covariance.to(torch.float64)
        if r.dim() != 2 or r.shape[0] != r.shape[1] or not bool(torch.isfinite(r).all()):
            raise DataError(f"a covariance is a finite square matrix; got shape {tuple(r.shape)}")
        if float((r - r.T).abs().max()) > 1e-10 * float(r.abs().max()):
            raise DataError("the covariance of the noise is not symmetric")
        factor, failed = torch.linalg.cholesky_ex(0.5 * (r + r.T))
        if int(failed):
            raise DataError("the covariance of the noise is not positive definite", hint="add a white part")
        return cls(factor)

    @classmethod
    def at(
        cls, positions: Tensor, std: float, kernel: Callable[[Tensor], Tensor], *, white: float = 0.0
    ) -> CorrelatedGaussianNoise:
        """Sensors at physical `positions` (m, dims): R_ij = std^2 kernel(|p_i - p_j|) + white^2 delta_ij.

        Good values: `exponential(length)`; white a tenth of std, the error of each instrument alone.
        Raises DataError where this is not positive definite (two sensors at one place without a white part).
        """
        p = positions.to(torch.float64)
        distance = torch.linalg.vector_norm(p[:, None] - p[None], dim=-1)
        return cls.of(std**2 * kernel(distance) + white**2 * torch.eye(len(p), dtype=torch.float64))

    @property
    def std(self) -> Tensor:
        """Refused: the errors are not independent."""
        message = "CorrelatedGaussianNoise has no std of each reading alone, which this method needs"
        raise ConfigError(message, hint="observation.whitened() has independent errors")

    def whitening(self) -> Whitening:
        """L^-1."""
        return Whitening(self.factor)

    def check(self, y: Tensor) -> None:
        """Raises DataError unless R fits the readings."""
        if self.factor.shape != (*y.shape, *y.shape):
            raise DataError(f"noise of {tuple(self.factor.shape)} covariances for {tuple(y.shape)} readings")
        check_positive(self.factor.diagonal(), "spread")

    def log_prob(self, y: Tensor, prediction: Tensor | None = None) -> Tensor:
        """Log density of rows (batch, m), (batch,)."""
        white = self.whiten(y, prediction)
        constant = self.factor.diagonal().log().sum().to(white) + 0.5 * len(self.factor) * math.log(2 * math.pi)
        return -0.5 * white.square().sum(1) - constant

    def whiten(self, y: Tensor, prediction: Tensor | None = None) -> Tensor:
        """L^-1 (y - prediction)."""
        return self.whitening()(difference(y, prediction))

    def variance(self, prediction: Tensor) -> Tensor:
        """Diagonal of R, for every prediction: of each reading alone."""
        return self.factor.square().sum(1).to(prediction).expand_as(prediction)

    def sample(self, seeds: Sequence[int], dtype: torch.dtype = torch.float64) -> Tensor:
        """Errors, rows (len(seeds), m)."""
        free = normal(seeds, (len(self.factor),), dtype=torch.float64)
        return (free @ self.factor.cpu().T).to(dtype)

    def draw(self, prediction: Tensor, seeds: Sequence[int]) -> Tensor:
        """Prediction plus errors."""
        return prediction + self.sample(seeds, prediction.dtype).to(prediction.device)


@dataclass(frozen=True, eq=False)
class Whitening(Linear):
    """Readings to L^-1 readings, L = `factor` (m, m) lower triangular."""

    factor: Tensor

    def __call__(self, x: Tensor) -> Tensor:
        return torch.linalg.solve_triangular(self.factor.to(x), x.T, upper=False).T

    def vjp(self, x: Tensor, w: Tensor) -> Tensor:
        return torch.linalg.solve_triangular(self.factor.to(w).T, w.T, upper=True).T


def exponential(length: float) -> Callable[[Tensor], Tensor]:
    """exp(-distance / length): correlations of rough errors, positive definite in any dimension."""
    return lambda distance: torch.exp(-distance / length)


def squared_exponential(length: float) -> Callable[[Tensor], Tensor]:
    """exp(-distance^2 / (2 length^2)): of smooth errors; needs a white part for more than a few close sensors."""
    return lambda distance: torch.exp(-0.5 * (distance / length) ** 2)


def check_positive(values: Tensor, what: str) -> None:
    """Raises DataError that names the first of `values` (m,) that is not positive and finite."""
    bad = ~((values > 0) & torch.isfinite(values))
    if bool(bad.any()):
        raise DataError(f"{what} of reading {int(bad.nonzero()[0])} is not a positive number")
