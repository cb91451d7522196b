"""Covariances of fields: what guidance, twists and start distributions use instead of a variance guess.

A covariance acts on rows (k, channel, *space) and never builds a matrix unless it is one.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Protocol

import torch
from torch import Tensor

from pdediff.errors import NumericalError
from pdediff.types import fold, normal


class Covariance(Protocol):
    """A symmetric positive semi-definite operator on fields of one shape."""

    @property
    def shape(self) -> tuple[int, ...]:
        """(channel, *space)."""
        ...

    def matvec(self, v: Tensor) -> Tensor:
        """C v for rows v (k, channel, *space)."""
        ...

    def draw(self, seeds: Sequence[int], dtype: torch.dtype = torch.float32) -> Tensor:
        """Rows from N(0, C), row i from seed i alone."""
        ...

    def solve(self, v: Tensor) -> Tensor:
        """C^-1 v."""
        ...

    def diagonal(self) -> Tensor:
        """Pointwise variances, (channel, *space)."""
        ...

    def scaled(self, factor: float) -> Covariance:
        """factor * C."""
        ...


@dataclass(frozen=True, eq=False)
class DiagonalCovariance:
    """Independent points with variances (channel, *space)."""

    variance: Tensor

    @property
    def shape(self) -> tuple[int, ...]:
        return tuple(self.variance.shape)

    def matvec(self, v: Tensor) -> Tensor:
        return self.variance.to(v) * v

    def sqrt(self, v: Tensor) -> Tensor:
        return self.variance.sqrt().to(v) * v

    def draw(self, seeds: Sequence[int], dtype: torch.dtype = torch.float32) -> Tensor:
        return self.sqrt(normal(seeds, self.shape, dtype=dtype, device=self.variance.device))

    def solve(self, v: Tensor) -> Tensor:
        return v / self.variance.to(v)

    def diagonal(self) -> Tensor:
        return self.variance

    def scaled(self, factor: float) -> DiagonalCovariance:
        return DiagonalCovariance(self.variance * factor)


def isotropic(shape: Sequence[int], variance: float, dtype: torch.dtype = torch.float64) -> DiagonalCovariance:
    """variance * I on fields of `shape`."""
    return DiagonalCovariance(torch.full(tuple(shape), variance, dtype=dtype))


@dataclass(frozen=True, eq=False)
class FourierCovariance:
    """Stationary on a periodic grid: `spectrum` (channel, *space) holds the eigenvalues in `torch.fft.fftn` order."""

    spectrum: Tensor

    @property
    def shape(self) -> tuple[int, ...]:
        return tuple(self.spectrum.shape)

    def _apply(self, multiplier: Tensor, v: Tensor) -> Tensor:
        dims = tuple(range(2, v.dim()))
        return torch.fft.ifftn(multiplier.to(v) * torch.fft.fftn(v, dim=dims), dim=dims).real

    def matvec(self, v: Tensor) -> Tensor:
        return self._apply(self.spectrum, v)

    def sqrt(self, v: Tensor) -> Tensor:
        return self._apply(self.spectrum.sqrt(), v)

    def draw(self, seeds: Sequence[int], dtype: torch.dtype = torch.float32) -> Tensor:
        return self.sqrt(normal(seeds, self.shape, dtype=dtype, device=self.spectrum.device))

    def solve(self, v: Tensor) -> Tensor:
        return self._apply(1 / self.spectrum, v)

    def diagonal(self) -> Tensor:
        axes = tuple(range(1, self.spectrum.dim()))
        return self.spectrum.mean(dim=axes, keepdim=True).expand(self.shape)

    def scaled(self, factor: float) -> FourierCovariance:
        return FourierCovariance(self.spectrum * factor)


@dataclass(frozen=True, eq=False)
class DenseCovariance:
    """A full matrix (d, d) over the flattened field; for oracles and small fields."""

    matrix: Tensor
    field_shape: tuple[int, ...]

    @property
    def shape(self) -> tuple[int, ...]:
        return self.field_shape

    def matvec(self, v: Tensor) -> Tensor:
        return (v.flatten(1) @ self.matrix.to(v.dtype)).reshape(v.shape)

    @cached_property
    def _root(self) -> Tensor:
        # The eigenvalue root exists for singular matrices too, where a Cholesky factor does not.
        values, vectors = torch.linalg.eigh(self.matrix)
        return vectors * values.clamp(min=0).sqrt()

    def sqrt(self, v: Tensor) -> Tensor:
        return (v.flatten(1) @ self._root.T.to(v.dtype)).reshape(v.shape)

    def draw(self, seeds: Sequence[int], dtype: torch.dtype = torch.float32) -> Tensor:
        return self.sqrt(normal(seeds, self.shape, dtype=dtype, device=self.matrix.device))

    def solve(self, v: Tensor) -> Tensor:
        return torch.linalg.solve(self.matrix, v.flatten(1).T.to(self.matrix.dtype)).T.to(v.dtype).reshape(v.shape)

    def diagonal(self) -> Tensor:
        return self.matrix.diagonal().reshape(self.field_shape)

    def scaled(self, factor: float) -> DenseCovariance:
        return DenseCovariance(self.matrix * factor, self.field_shape)


@dataclass(frozen=True, eq=False)
class LowRankCovariance:
    """diag(variance) + sum_i u_i u_i^T: variance (channel, *space) > 0, factor (rank, channel, *space)."""

    variance: Tensor
    factor: Tensor

    @property
    def shape(self) -> tuple[int, ...]:
        return tuple(self.variance.shape)

    def matvec(self, v: Tensor) -> Tensor:
        u = self.factor.flatten(1).to(v.dtype)
        return self.variance.to(v.dtype) * v + ((v.flatten(1) @ u.T) @ u).reshape(v.shape)

    def draw(self, seeds: Sequence[int], dtype: torch.dtype = torch.float32) -> Tensor:
        # Two parts, one normal a direction and one a point: a square matrix root would cost a singular value
        # decomposition, which for a factor of all training fields takes longer than everything else.
        device = self.variance.device
        along = normal(fold(seeds, 0), (len(self.factor),), dtype=dtype, device=device)
        rest = normal(fold(seeds, 1), self.shape, dtype=dtype, device=device)
        return self.variance.sqrt().to(dtype) * rest + torch.tensordot(along, self.factor.to(dtype), dims=1)

    @cached_property
    def _capacitance(self) -> tuple[Tensor, Tensor, Tensor]:
        """Variance, factor (rank, d) and the Cholesky factor of I + U D^-1 U^T, in float64 against cancellation."""
        variance, factor = self.variance.double().flatten(), self.factor.double().flatten(1)
        inner = (factor / variance) @ factor.T
        return variance, factor, torch.linalg.cholesky(inner + torch.eye(len(inner)).to(inner))

    def solve(self, v: Tensor) -> Tensor:
        # Woodbury: C^-1 = D^-1 - D^-1 U^T (I + U D^-1 U^T)^-1 U D^-1
        variance, factor, root = self._capacitance
        scaled = v.double().flatten(1) / variance
        inner = torch.cholesky_solve((scaled @ factor.T).T, root).T
        return (scaled - (inner @ factor) / variance).to(v.dtype).reshape(v.shape)

    def log_determinant(self) -> float:
        """log det C, by the determinant lemma."""
        variance, _, root = self._capacitance
        return float(variance.log().sum() + 2 * root.diagonal().log().sum())

    def diagonal(self) -> Tensor:
        return self.variance + (self.factor**2).sum(0)

    def scaled(self, factor: float) -> LowRankCovariance:
        return LowRankCovariance(self.variance * factor, self.factor * factor**0.5)


def mix(low: Covariance, high: Covariance, weight: float) -> Covariance:
    """(1 - weight) * low + weight * high for two covariances of one kind."""
    if isinstance(low, LowRankCovariance) and isinstance(high, LowRankCovariance):
        variance = torch.lerp(low.variance, high.variance, weight)
        factor = torch.cat([low.factor * (1 - weight) ** 0.5, high.factor * weight**0.5])
        return LowRankCovariance(variance, factor)
    if isinstance(low, FourierCovariance) and isinstance(high, FourierCovariance):
        return FourierCovariance(torch.lerp(low.spectrum, high.spectrum, weight))
    if isinstance(low, DiagonalCovariance) and isinstance(high, DiagonalCovariance):
        return DiagonalCovariance(torch.lerp(low.variance, high.variance, weight))
    if isinstance(low, DenseCovariance) and isinstance(high, DenseCovariance):
        return DenseCovariance(torch.lerp(low.matrix, high.matrix, weight), low.field_shape)
    raise TypeError(f"cannot mix {type(low).__name__} with {type(high).__name__}")


def solve_sum(first: Covariance, second: Covariance, v: Tensor, *, tolerance: float = 1e-10) -> Tensor:
    """(A + B)^-1 v in closed form where the two kinds allow it, by conjugate gradients otherwise."""
    if isinstance(first, DiagonalCovariance) and isinstance(second, DiagonalCovariance):
        return DiagonalCovariance(first.variance.to(second.variance) + second.variance).solve(v)
    if isinstance(first, DiagonalCovariance) and isinstance(second, LowRankCovariance):
        return LowRankCovariance(first.variance.to(second.variance) + second.variance, second.factor).solve(v)
    if isinstance(first, DiagonalCovariance) and isinstance(second, DenseCovariance):
        total = second.matrix + torch.diag(first.variance.flatten().to(second.matrix))
        return DenseCovariance(total, second.shape).solve(v)
    if isinstance(first, FourierCovariance) and isinstance(second, FourierCovariance):
        return FourierCovariance(first.spectrum + second.spectrum.to(first.spectrum)).solve(v)
    if isinstance(first, DiagonalCovariance) and isinstance(second, FourierCovariance) and _constant(first.variance):
        return FourierCovariance(first.variance.to(second.spectrum) + second.spectrum).solve(v)
    return conjugate_gradients(lambda w: first.matvec(w) + second.matvec(w), v, tolerance=tolerance)


def _constant(variance: Tensor) -> bool:
    return bool(variance.min() == variance.max())


def conjugate_gradients(
    matvec: Callable[[Tensor], Tensor], rhs: Tensor, *, tolerance: float = 1e-8, iterations: int = 1000
) -> Tensor:
    """Solve A x = b for each row of b on its own; rows that have converged no longer move.

    Raises NumericalError if a row is not there after `iterations`.
    """
    x = torch.zeros_like(rhs)
    residual = rhs.clone()
    direction = residual.clone()
    rows = (-1, *([1] * (rhs.dim() - 1)))
    rho = residual.flatten(1).square().sum(1)
    target = rho * tolerance**2
    for _ in range(iterations):
        active = rho > target
        if not bool(active.any()):
            return x
        product = matvec(direction)
        curvature = (direction * product).flatten(1).sum(1)
        step = torch.where(active, rho / curvature.where(active, torch.ones_like(rho)), torch.zeros_like(rho))
        x = x + step.reshape(rows) * direction
        residual = residual - step.reshape(rows) * product
        fresh = torch.where(active, residual.flatten(1).square().sum(1), rho)
        beta = torch.where(active, fresh / rho.where(active, torch.ones_like(rho)), torch.zeros_like(rho))
        direction = residual + beta.reshape(rows) * direction
        rho = fresh
    left = int((rho > target).sum())
    raise NumericalError(f"conjugate gradients left {left} of {len(rhs)} rows after {iterations} steps")
