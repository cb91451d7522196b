"""Means over blocks of cells: coarse instruments, and fields of a coarser grid."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from pdediff.errors import DataError
from pdediff.observe.grid import Grid
from pdediff.observe.operator import Linear
from pdediff.types import Field


@dataclass(frozen=True)
class BlockAverage(Linear):
    """Mean over blocks of `factors` points by axis: a field of 1 / factors as many points.

    The mean of a smooth field over a block of cells, to second order in the spacing. Its rows are orthogonal, so its
    singular values are all 1 / sqrt(points of a block) and its pseudo-inverse repeats each mean over its block.
    Raises DataError where the blocks do not fill the grid.
    """

    factors: tuple[int, ...]

    def __post_init__(self) -> None:
        if not self.factors or min(self.factors) < 1:
            raise DataError(f"a block needs at least one point by axis; got factors {self.factors}")

    @staticmethod
    def of(grid: Grid, lengths: Sequence[float]) -> BlockAverage:
        """Blocks of physical `lengths` by axis, whole multiples of the grid's steps."""
        factors = tuple(round(length / step) for length, step in zip(lengths, grid.step, strict=True))
        for axis, (length, step, factor) in enumerate(zip(lengths, grid.step, factors, strict=True)):
            if factor < 1 or abs(length - factor * step) > 1e-6 * step:
                raise DataError(f"a block of {length:g} on axis {axis} is no multiple of the step {step:g}")
        return BlockAverage(factors)

    def __call__(self, x: Field) -> Field:
        space = x.shape[2:]
        if len(space) != len(self.factors) or any(n % f for n, f in zip(space, self.factors, strict=True)):
            raise DataError(f"blocks of {self.factors} points do not fill a field of {tuple(space)}")
        split = [part for n, f in zip(space, self.factors, strict=True) for part in (n // f, f)]
        return x.reshape(*x.shape[:2], *split).mean(list(range(3, 3 + 2 * len(space), 2)))

    def vjp(self, x: Field, w: Tensor) -> Field:
        out = w / int(torch.tensor(self.factors).prod())
        for axis, factor in enumerate(self.factors):
            out = out.repeat_interleave(factor, 2 + axis)
        return out
