"""Integrals along lines: rays through the domain and the Radon transform."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from pdediff.errors import DataError
from pdediff.observe.grid import Grid
from pdediff.observe.interpolation import grid_points, stencil
from pdediff.observe.sparse_rows import SparseRows

# Rays of a pass: the points of their pieces are held at once.
_RAYS = 512


def line_integrals(
    grid: Grid, starts: Tensor, ends: Tensor, *, channels: int = 1, channel: int = 0, degree: int = 1
) -> SparseRows:
    """Integrals of one channel, in its units times length, along segments from `starts` to `ends` (m, dims).

    The field between grid points is that of `point_sensors`; the segments are cut where they cross the grid and each
    piece is integrated by Gauss's rule, so that the integral of the interpolant is exact: of order degree + 1.
    Good values: degree 1, which keeps every weight of a ray inside the grid positive.
    Raises DataError for segments that leave the domain, and channels that are not there.
    """
    if starts.shape != ends.shape:
        raise DataError(f"as many starts as ends are needed; got {tuple(starts.shape)} and {tuple(ends.shape)}")
    if not 0 <= channel < channels:
        raise DataError(f"the lines read channel {channel} of a field with {channels}")
    at, to = grid.index(starts, "the start of line"), grid.index(ends, "the end of line")
    _check_one_period(grid, at, to)
    lengths = ((ends - starts).to("cpu", torch.float64)).norm(dim=1)
    rows, columns, values = [], [], []
    for first in range(0, len(at), _RAYS):
        ray, place, share = _pieces(grid, at[first : first + _RAYS], to[first : first + _RAYS], degree)
        indices, weights = stencil(grid, place, degree)
        rows.append((first + ray)[:, None].expand_as(indices).flatten())
        columns.append(indices.flatten() + channel * grid_points(grid))
        values.append((weights * (share * lengths[first + ray])[:, None]).flatten())
    entries = torch.cat(rows), torch.cat(columns), torch.cat(values)
    return SparseRows.of(*entries, (len(at), channels * grid_points(grid)))


def _check_one_period(grid: Grid, at: Tensor, to: Tensor) -> None:
    """The cuts are known within one period only."""
    for axis, (n, wraps) in enumerate(zip(grid.shape, grid.periodic, strict=True)):
        both = torch.stack([at[:, axis], to[:, axis]])
        bad = wraps & ((both < -1e-9) | (both > n + 1e-9)).any(0)
        if bool(bad.any()):
            raise DataError(f"line {int(bad.nonzero()[0])} leaves the period of axis {axis}: cut it there")


def _pieces(grid: Grid, at: Tensor, to: Tensor, degree: int) -> tuple[Tensor, Tensor, Tensor]:
    """Gauss points of all pieces: the ray of each, its place in units of points, its share of the ray's length."""
    cuts = [torch.zeros(len(at), 1, dtype=torch.float64), torch.ones(len(at), 1, dtype=torch.float64)]
    for axis, n in enumerate(grid.shape):
        run = (to - at)[:, axis, None]
        crossing = (torch.arange(n + 1, dtype=torch.float64) - at[:, axis, None]) / torch.where(run == 0, 1.0, run)
        cuts.append(torch.where(run == 0, 0.0, crossing.clamp(0, 1)))
    cut = torch.cat(cuts, 1).sort(1).values
    # Along a line the interpolant is a polynomial of degree `degree` in each coordinate.
    nodes, weights = (torch.from_numpy(a) for a in np.polynomial.legendre.leggauss((degree * len(grid.shape)) // 2 + 1))
    half = 0.5 * cut.diff(dim=1)[..., None]
    t = cut[:, :-1, None] + half * (1 + nodes)
    share = half * weights
    ray, piece, node = (share > 0).nonzero(as_tuple=True)
    t, share = t[ray, piece, node], share[ray, piece, node]
    return ray, at[ray] + t[:, None] * (to - at)[ray], share


def radon(
    grid: Grid, angles: Tensor, offsets: Tensor, *, channels: int = 1, channel: int = 0, degree: int = 1
) -> SparseRows:
    """Radon transform of a plane field: integrals over x cos(angle) + y sin(angle) = offset, (x, y) from the centre.

    Readings in the order of (angle, offset); the field is taken as zero outside the domain, so a line that misses it
    reads 0. Angles in radians, offsets in the units of the grid; array order (y, x).
    Good values: offsets one grid step apart, pi / 2 times as many angles as offsets over [0, pi) (Natterer 1986,
    section III.2). Raises DataError for fields that are not plane.
    """
    if len(grid.shape) != 2:
        raise DataError(f"the Radon transform is one of plane fields; got {len(grid.shape)} axes")
    angle, offset = torch.meshgrid(angles.double(), offsets.double(), indexing="ij")
    angle, offset = angle.flatten()[:, None], offset.flatten()[:, None]
    normal = torch.cat([angle.sin(), angle.cos()], 1)
    along = torch.cat([angle.cos(), -angle.sin()], 1)
    centre, half = grid.low + 0.5 * grid.lengths, 0.5 * grid.lengths
    # Both ends of the chord: where the line leaves the slab of each axis.
    foot = offset * normal
    flat = along.abs() < 1e-14
    slope = torch.where(flat, 1.0, along)
    ends = torch.stack([(-half - foot) / slope, (half - foot) / slope])
    misses = flat & (foot.abs() > half)
    enters = torch.where(flat, -torch.inf, ends.amin(0)).amax(1)
    leaves = torch.where(flat, torch.inf, ends.amax(0)).amin(1)
    hit = (leaves > enters) & ~misses.any(1)
    # A line that misses is the segment of length 0 at the centre.
    starts, stops = (
        centre + torch.where(hit[:, None], foot + t[:, None] * along, torch.zeros_like(foot)) for t in (enters, leaves)
    )
    return line_integrals(grid, starts, stops, channels=channels, channel=channel, degree=degree)
