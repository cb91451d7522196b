"""Readings that are sums over few grid points each, of different numbers of points."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from pdediff.observe.operator import Linear
from pdediff.observe.placed import Placed
from pdediff.types import Field


@dataclass(frozen=True, eq=False)
class SparseRows(Placed, Linear):
    """Reading i = sum_j matrix[i, j] * x.flatten()[j] over the flattened (channel, *space) field.

    matrix (m, n) sparse float64, and its transpose, which is kept because it is as often used.
    """

    matrix: Tensor
    transposed: Tensor

    @classmethod
    def of(cls, rows: Tensor, columns: Tensor, values: Tensor, size: tuple[int, int]) -> SparseRows:
        """From entries (k,) in any order; those of the same place add up."""
        matrix = torch.sparse_coo_tensor(torch.stack([rows, columns]), values, size, check_invariants=True).coalesce()
        transposed = torch.sparse_coo_tensor(torch.stack([columns, rows]), values, size[::-1], check_invariants=True)
        return cls(matrix, transposed.coalesce())

    def __call__(self, x: Field) -> Tensor:
        matrix = self.placed(("matrix", x.device, x.dtype), lambda: self.matrix.to(x.device, x.dtype))
        return torch.sparse.mm(matrix, x.flatten(1).T).T

    def vjp(self, x: Field, w: Tensor) -> Field:
        matrix = self.placed(("transposed", w.device, w.dtype), lambda: self.transposed.to(w.device, w.dtype))
        return torch.sparse.mm(matrix, w.T).T.reshape(len(w), *x.shape[1:])
