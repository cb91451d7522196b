"""An observation: readings, the operator that explains them, and the law of their noise."""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch
from torch import Tensor

from pdediff.errors import DataError
from pdediff.observe.gaussian_noise import GaussianNoise
from pdediff.observe.noise import Noise
from pdediff.observe.operator import Composed, Operator, Scaling
from pdediff.types import Field


@dataclass(frozen=True, eq=False)
class Observation:
    """y = operator(x) + noise for one case; y (m,). Other laws of noise than additive ones have p(y | operator(x))."""

    y: Tensor
    operator: Operator
    noise: Noise

    def __post_init__(self) -> None:
        if self.y.dim() != 1 or len(self.y) == 0:
            raise DataError(f"an observation needs m >= 1 readings in a row; got shape {tuple(self.y.shape)}")
        if not bool(torch.isfinite(self.y).all()):
            raise DataError(f"reading {int((~torch.isfinite(self.y)).nonzero()[0])} is not finite")
        self.noise.check(self.y)

    def residual(self, x: Field) -> Tensor:
        """y - operator(x), (batch, m)."""
        return self.y.to(x) - self.operator(x)

    def log_prob(self, x: Field) -> Tensor:
        """Log likelihood of each row, (batch,)."""
        return self.noise.log_prob(self.y.to(x), self.operator(x))

    def white_residual(self, x: Field) -> Tensor:
        """`noise.whiten` of the readings, (batch, m): half its squared norm is -log_prob up to a constant."""
        return self.noise.whiten(self.y.to(x), self.operator(x))

    def normalised(self, offset: Tensor, scale: Tensor) -> Observation:
        """The same observation of the normalised field z, with x = offset + scale * z."""
        return replace(self, operator=Composed(self.operator, Scaling(offset, scale)))

    def whitened(self) -> Observation:
        """The same observation with unit independent errors: L^-1 y = L^-1 operator(x) + eps, R = L L^T.

        Its likelihood differs by a constant factor, its posterior not at all. Raises ConfigError for noise that is not
        Gaussian.
        """
        white = self.noise.whitening()
        y = white(self.y[None].double())[0].to(self.y)
        return replace(self, y=y, operator=Composed(white, self.operator), noise=GaussianNoise(torch.ones_like(y)))

    def rows(self, like: Field) -> Tensor:
        """The matrix of a linear operator as rows (m, channel, *space), for fields like `like` (channel, *space)."""
        m = len(self.y)
        zeros = torch.zeros((m, *like.shape), dtype=like.dtype, device=like.device)
        return self.operator.vjp(zeros, torch.eye(m, dtype=like.dtype, device=like.device))
