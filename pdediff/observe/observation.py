"""An observation: readings, the operator that explains them, and the law of their noise."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from pdediff.errors import DataError
from pdediff.observe.operator import Composed, Operator, Scaling
from pdediff.types import Field, normal


@dataclass(frozen=True, eq=False)
class GaussianNoise:
    """Independent errors with standard deviations `std` (m,), in the units of the readings."""

    std: Tensor

    def log_prob(self, residual: Tensor) -> Tensor:
        """Log density of residuals (batch, m), (batch,)."""
        std = self.std.to(residual)
        terms = (residual / std) ** 2 + 2 * std.log() + math.log(2 * math.pi)
        return -0.5 * terms.sum(1)

    def whiten(self, residual: Tensor) -> Tensor:
        """Residuals in units of their standard deviation."""
        return residual / self.std.to(residual)

    def sample(self, seeds: Sequence[int], dtype: torch.dtype = torch.float64) -> Tensor:
        """Rows (len(seeds), m)."""
        return self.std.to("cpu", dtype) * normal(seeds, self.std.shape, dtype=dtype)


@dataclass(frozen=True, eq=False)
class Observation:
    """y = operator(x) + noise for one case; y (m,)."""

    y: Tensor
    operator: Operator
    noise: GaussianNoise

    def __post_init__(self) -> None:
        if self.y.dim() != 1 or len(self.y) == 0 or self.noise.std.shape != self.y.shape:
            raise DataError(
                f"an observation needs m >= 1 readings and m stds; got {tuple(self.y.shape)} readings "
                f"and {tuple(self.noise.std.shape)} stds"
            )
        if not bool(torch.isfinite(self.y).all()):
            raise DataError(f"reading {int((~torch.isfinite(self.y)).nonzero()[0])} is not finite")
        bad = ~((self.noise.std > 0) & torch.isfinite(self.noise.std))
        if bool(bad.any()):
            raise DataError(f"noise std of reading {int(bad.nonzero()[0])} is not a positive number")

    def residual(self, x: Field) -> Tensor:
        """y - operator(x), (batch, m)."""
        return self.y.to(x) - self.operator(x)

    def log_prob(self, x: Field) -> Tensor:
        """Log likelihood of each row, (batch,)."""
        return self.noise.log_prob(self.residual(x))

    def normalised(self, offset: Tensor, scale: Tensor) -> Observation:
        """The same observation of the normalised field z, with x = offset + scale * z."""
        return replace(self, operator=Composed(self.operator, Scaling(offset, scale)))

    def rows(self, like: Field) -> Tensor:
        """The matrix of a linear operator as rows (m, channel, *space), for fields like `like` (channel, *space)."""
        m = len(self.y)
        zeros = torch.zeros((m, *like.shape), dtype=like.dtype, device=like.device)
        return self.operator.vjp(zeros, torch.eye(m, dtype=like.dtype, device=like.device))
