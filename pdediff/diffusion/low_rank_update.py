"""A covariance and a few directions more: what mixtures of Gaussian fields have."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import torch
from torch import Tensor

from pdediff.diffusion.covariance import FourierCovariance
from pdediff.types import fold, normal


@dataclass(frozen=True, eq=False)
class LowRankUpdate:
    """base + sum_i u_i u_i^T, factor (rank, channel, *space). `solve` needs an invertible base (Woodbury)."""

    base: FourierCovariance
    factor: Tensor

    @property
    def shape(self) -> tuple[int, ...]:
        return self.base.shape

    def matvec(self, v: Tensor) -> Tensor:
        u = self.factor.flatten(1).to(v)
        return self.base.matvec(v) + ((v.flatten(1) @ u.T) @ u).reshape(v.shape)

    def draw(self, seeds: Sequence[int], dtype: torch.dtype = torch.float32) -> Tensor:
        along = normal(fold(seeds, 0), (len(self.factor),), dtype=dtype, device=self.factor.device)
        return self.base.draw(fold(seeds, 1), dtype) + torch.tensordot(along, self.factor.to(dtype), dims=1)

    @cached_property
    def _inner(self) -> tuple[Tensor, Tensor]:
        """B^-1 U (rank, d) and the Cholesky factor of I + U^T B^-1 U, float64."""
        u = self.factor.double()
        spread = self.base.solve(u).flatten(1)
        return spread, torch.linalg.cholesky(torch.eye(len(u)).to(u) + spread @ u.flatten(1).T)

    def solve(self, v: Tensor) -> Tensor:
        spread, root = self._inner
        own = self.base.solve(v.double()).flatten(1)
        inner = torch.cholesky_solve((v.double().flatten(1) @ spread.T).T, root).T
        return (own - inner @ spread).to(v.dtype).reshape(v.shape)

    def diagonal(self) -> Tensor:
        return self.base.diagonal() + self.factor.square().sum(0)

    def scaled(self, factor: float) -> LowRankUpdate:
        return LowRankUpdate(self.base.scaled(factor), self.factor * factor**0.5)
