"""Operators along one axis: boundary traces, time slices, windows and time averages."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from pdediff.errors import DataError
from pdediff.observe.grid import Grid
from pdediff.observe.interpolation import stencil
from pdediff.observe.operator import Linear
from pdediff.types import Field


@dataclass(frozen=True, eq=False)
class AlongAxis(Linear):
    """y[..., i, ...] = sum_j matrix[i, j] x[..., j, ...] on space axis `axis`, matrix (k, n): k points of a field.

    Space axes count from 0; time, where the field has it, is the first.
    """

    axis: int
    matrix: Tensor

    def __call__(self, x: Field) -> Field:
        if not 0 <= self.axis < x.dim() - 2 or x.shape[2 + self.axis] != self.matrix.shape[1]:
            raise DataError(f"axis {self.axis} with {self.matrix.shape[1]} points expected, got {tuple(x.shape[2:])}")
        return self._applied(self.matrix, x)

    def vjp(self, x: Field, w: Tensor) -> Field:
        return self._applied(self.matrix.T, w)

    def _applied(self, matrix: Tensor, x: Tensor) -> Tensor:
        return (x.movedim(2 + self.axis, -1) @ matrix.to(x).T).movedim(-1, 2 + self.axis)


def boundary_trace(
    grid: Grid, axis: int, side: Literal["low", "high"], reads: Literal["value", "flux"] = "value"
) -> AlongAxis:
    """The field on a wall, or its derivative along the outward normal, as a field with one point on `axis`.

    The parabola through the three outermost points: error of order 3 for the value, 2 for the derivative.
    Raises DataError for a periodic axis, which has no wall, and for axes of fewer than three points.
    """
    _check_axis(grid, axis)
    if grid.periodic[axis]:
        raise DataError(f"axis {axis} is periodic: it has no boundary to read")
    if grid.shape[axis] < 3:
        raise DataError(f"a boundary trace needs three points; axis {axis} has {grid.shape[axis]}")
    # Lagrange's basis at the wall, which lies `margin` steps before node 0.
    p = -grid.margin
    value = torch.tensor([(p - 1) * (p - 2) / 2, -p * (p - 2), p * (p - 1) / 2], dtype=torch.float64)
    slope = torch.tensor([(2 * p - 3) / 2, -(2 * p - 2), (2 * p - 1) / 2], dtype=torch.float64)
    near = value if reads == "value" else -slope / grid.step[axis]
    row = torch.zeros(grid.shape[axis], dtype=torch.float64)
    row[:3] = near
    return AlongAxis(axis, (row if side == "low" else row.flip(0))[None])


def slices(grid: Grid, axis: int, places: Sequence[float], degree: int = 1) -> AlongAxis:
    """Slices at physical `places` of an axis (times, on axis 0 of a field over time), interpolated as points are.

    Raises DataError for places outside the domain.
    """
    _check_axis(grid, axis)
    line = Grid((grid.shape[axis],), (grid.start[axis],), (grid.step[axis],), (grid.periodic[axis],), grid.margin)
    at = line.index(torch.tensor(list(places), dtype=torch.float64)[:, None], "slice")
    matrix = torch.zeros(len(places), grid.shape[axis], dtype=torch.float64)
    return AlongAxis(axis, matrix.scatter_add_(1, *stencil(line, at, degree)))


def window(grid: Grid, axis: int, low: float, high: float, stride: int = 1) -> AlongAxis:
    """Every `stride`-th point of an axis with low <= coordinate <= high. Raises DataError for an empty window."""
    return AlongAxis(axis, torch.eye(grid.shape[axis], dtype=torch.float64)[_inside(grid, axis, low, high)][::stride])


def window_mean(grid: Grid, axis: int, low: float, high: float) -> AlongAxis:
    """Mean over the points of an axis with low <= coordinate <= high, one point. Raises DataError for none."""
    inside = _inside(grid, axis, low, high)
    return AlongAxis(axis, (inside.double() / inside.sum())[None])


def _inside(grid: Grid, axis: int, low: float, high: float) -> Tensor:
    _check_axis(grid, axis)
    points, slack = grid.points(axis), 1e-9 * grid.step[axis]
    inside = (points >= low - slack) & (points <= high + slack)
    if not bool(inside.any()):
        raise DataError(f"no point of axis {axis} lies in [{low:g}, {high:g}]")
    return inside


def _check_axis(grid: Grid, axis: int) -> None:
    if not 0 <= axis < len(grid.shape):
        raise DataError(f"axis {axis} of a grid with {len(grid.shape)}")
