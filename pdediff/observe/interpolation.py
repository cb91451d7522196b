"""Readings between grid points: Lagrange interpolation of any degree in any number of dimensions."""

from __future__ import annotations

import itertools
from collections.abc import Sequence

import torch
from torch import Tensor

from pdediff.errors import DataError
from pdediff.observe.grid import Grid
from pdediff.observe.sensors import PointSensors


def point_sensors(grid: Grid, positions: Tensor, *, channels: Sequence[int], degree: int = 1) -> PointSensors:
    """Sensors at physical `positions` (m, dims), sensor i reading channel `channels[i]`.

    The field between grid points is the tensor product of Lagrange polynomials of `degree` through the nearest
    degree + 1 points of each axis, one-sided at walls: exact for polynomials of that degree, error of order degree + 1
    in the spacing for smooth fields.
    Good values: 1 for coarse or rough fields (keeps bounds), 3 for smooth ones.
    Raises DataError for sensors outside the domain and axes with too few points.
    """
    if len(channels) != len(positions) or min(channels, default=0) < 0:
        raise DataError(f"need one channel >= 0 a sensor; got {len(channels)} channels for {len(positions)} sensors")
    indices, weights = stencil(grid, grid.index(positions), degree)
    points = grid_points(grid)
    return PointSensors(indices + points * torch.tensor(list(channels))[:, None], weights)


def grid_points(grid: Grid) -> int:
    """Number of points of a channel."""
    return int(torch.tensor(grid.shape).prod())


def stencil(grid: Grid, at: Tensor, degree: int) -> tuple[Tensor, Tensor]:
    """Flat indices over space and weights of the points that make the value at `at` (m, dims), in units of points."""
    if degree < 1:
        raise DataError(f"degree={degree} must be at least 1")
    axes = [_axis(at[:, axis], n, grid.periodic[axis], axis, degree) for axis, n in enumerate(grid.shape)]
    indices, weights = [], []
    for corner in itertools.product(range(degree + 1), repeat=len(axes)):
        flat, weight = torch.zeros(len(at), dtype=torch.long), torch.ones(len(at), dtype=torch.float64)
        for n, (place, share), node in zip(grid.shape, axes, corner, strict=True):
            flat, weight = flat * n + place[:, node], weight * share[:, node]
        indices.append(flat)
        weights.append(weight)
    return torch.stack(indices, 1), torch.stack(weights, 1)


def _axis(at: Tensor, n: int, wraps: bool, axis: int, degree: int) -> tuple[Tensor, Tensor]:
    """Points and weights along one axis, (m, degree + 1) each."""
    if n <= degree and not wraps:
        raise DataError(f"interpolation of degree {degree} needs {degree + 1} points; axis {axis} has {n}")
    base = at.floor() - (degree - 1) // 2
    base = base if wraps else base.clamp(0, n - 1 - degree)
    nodes = torch.arange(degree + 1)
    gap = (at - base)[:, None] - nodes
    share = [
        torch.stack([gap[:, other] / (node - other) for other in range(degree + 1) if other != node], 1).prod(1)
        for node in range(degree + 1)
    ]
    place = base.long()[:, None] + nodes
    return place % n if wraps else place, torch.stack(share, 1)
