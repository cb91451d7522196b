"""Sensors that read a field where they stand: points on and off the grid, masks, subsampling."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from pdediff.errors import DataError
from pdediff.observe.operator import Differentiable
from pdediff.types import Field


@dataclass(frozen=True, eq=False)
class PointSensors(Differentiable):
    """Weighted sums of grid values: reading i = sum_j weights[i, j] * x.flatten()[indices[i, j]].

    indices (m, k) long and weights (m, k) float64 over the flattened (channel, *space) field; made by `at` for
    multilinear interpolation.
    """

    indices: Tensor
    weights: Tensor
    linear: ClassVar[bool] = True

    @classmethod
    def at(
        cls,
        channels: Sequence[int],
        positions: Tensor,
        shape: Sequence[int],
        *,
        periodic: Sequence[bool] | bool = False,
        nearest: Sequence[bool] | None = None,
    ) -> PointSensors:
        """Sensors at `positions` (m, dims) in grid-index units, reading channel `channels[i]` of fields of `shape`.

        Between grid points multilinear; up to half a cell outside the outermost points it extrapolates, so sensors
        between the last cell centre and the wall are allowed. `periodic` dimensions (one word for all, or one each)
        wrap around. `nearest[i]` reads the closest grid point instead, which is what a well in a piecewise constant
        coefficient measures. Raises DataError for points outside and channels that are not there.
        """
        space = torch.tensor(tuple(shape)[1:])
        wraps = torch.tensor([periodic] * len(space) if isinstance(periodic, bool) else list(periodic))
        positions = positions.to(torch.float64).reshape(len(channels), len(space))
        _check_inside(channels, positions, shape, wraps)
        snap = torch.tensor(list(nearest)) if nearest is not None else torch.zeros(len(channels), dtype=torch.bool)
        rounded = (positions + 0.5).floor()
        rounded = torch.where(wraps, rounded, torch.minimum(rounded.clamp(min=0), space - 1.0))
        positions = torch.where(snap[:, None], rounded, positions)
        # On an axis of one point both corners are that point.
        inner = torch.minimum(positions.floor().clamp(min=0), (space - 2.0).clamp(min=0))
        base = torch.where(wraps, positions.floor(), inner)
        fraction = positions - base
        indices, weights = [], []
        for corner in itertools.product((0, 1), repeat=len(space)):
            step = torch.tensor(corner)
            place = base.long() + step
            place = torch.where(wraps, place % space, torch.minimum(place, space - 1))
            flat = torch.tensor(list(channels))
            for axis, n in enumerate(space.tolist()):
                flat = flat * n + place[:, axis]
            indices.append(flat)
            weights.append(torch.where(step.bool(), fraction, 1 - fraction).prod(1))
        return cls(torch.stack(indices, 1), torch.stack(weights, 1))

    def __call__(self, x: Field) -> Tensor:
        return (x.flatten(1)[:, self.indices] * self.weights.to(x)).sum(-1)

    def jvp(self, x: Field, v: Field) -> Tensor:
        return self(v)

    def vjp(self, x: Field, w: Tensor) -> Field:
        out = torch.zeros(len(w), x[0].numel(), dtype=w.dtype, device=w.device)
        out.index_add_(1, self.indices.flatten().to(w.device), (w[:, :, None] * self.weights.to(w)).flatten(1))
        return out.reshape(len(w), *x.shape[1:])


def _check_inside(channels: Sequence[int], positions: Tensor, shape: Sequence[int], wraps: Tensor) -> None:
    for row, channel in enumerate(channels):
        if not 0 <= channel < shape[0]:
            raise DataError(f"sensor {row} reads channel {channel} of a field with {shape[0]}")
    last = torch.tensor(tuple(shape)[1:]) - 0.5
    inside = torch.isfinite(positions) & (wraps | ((positions >= -0.5 - 1e-9) & (positions <= last + 1e-9)))
    if not bool(inside.all()):
        row = int((~inside.all(1)).nonzero()[0])
        raise DataError(f"sensor {row} at grid position {positions[row].tolist()} lies outside the domain")


def mask_sensors(mask: Tensor) -> PointSensors:
    """One sensor at each true point of `mask` (channel, *space), in array order."""
    indices = mask.flatten().nonzero()
    if len(indices) == 0:
        raise DataError("the mask selects no point")
    return PointSensors(indices, torch.ones(len(indices), 1, dtype=torch.float64))


def subsample(shape: Sequence[int], stride: int, channels: Sequence[int]) -> PointSensors:
    """Every `stride`-th grid point of the given channels of fields of `shape`, starting at the first."""
    mask = torch.zeros(tuple(shape), dtype=torch.bool)
    for channel in channels:
        mask[(channel, *([slice(None, None, stride)] * (len(shape) - 1)))] = True
    return mask_sensors(mask)
