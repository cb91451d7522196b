"""Where the values of a field lie in physical units."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from pdediff.errors import DataError


@dataclass(frozen=True)
class Grid:
    """Evenly spaced points by axis, in the order of the array: (time, z, y, x), whichever the field has.

    `start` is the coordinate of the first point and `step` the spacing of each axis, in the units of the user.
    A periodic axis is `shape * step` long. On others the domain ends `margin` steps beyond the outermost points.
    Good values: margin 0.5 for values at cell centres, 0 where the outermost points lie on the walls.
    Raises DataError for lengths that do not fit each other and steps that are not positive.
    """

    shape: tuple[int, ...]
    start: tuple[float, ...]
    step: tuple[float, ...]
    periodic: tuple[bool, ...]
    margin: float = 0.5

    def __post_init__(self) -> None:
        sizes = (len(self.shape), len(self.start), len(self.step), len(self.periodic))
        if len(set(sizes)) != 1 or sizes[0] == 0:
            raise DataError(f"shape, start, step and periodic need one entry an axis; got {sizes} entries")
        if min(self.shape) < 1 or not all(0 < step < float("inf") for step in self.step):
            raise DataError(f"a grid needs points and positive steps; got shape {self.shape} and steps {self.step}")
        if self.margin not in (0.0, 0.5):
            raise DataError(f"margin={self.margin:g} must be 0 (points on the walls) or 0.5 (cell centres)")

    @staticmethod
    def cells(shape: Sequence[int], lengths: Sequence[float], periodic: bool = False) -> Grid:
        """The box from 0 to `lengths`: cell centres, or, where it is periodic, points from 0 on."""
        step = tuple(length / n for length, n in zip(lengths, shape, strict=True))
        start = tuple(0.0 if periodic else 0.5 * h for h in step)
        return Grid(tuple(shape), start, step, (periodic,) * len(step))

    @staticmethod
    def of(coordinates: Sequence[Tensor], periodic: Sequence[bool], margin: float = 0.5) -> Grid:
        """The grid of coordinate arrays of at least two points each. Raises DataError where they are not even."""
        step = []
        for axis, points in enumerate(coordinates):
            gaps = points.double().diff()
            if len(gaps) == 0 or not bool(((gaps - gaps.mean()).abs() <= 1e-6 * gaps.mean()).all()):
                raise DataError(f"coordinates of axis {axis} are not evenly spaced and increasing")
            step.append(float(gaps.mean()))
        start = tuple(float(points[0]) for points in coordinates)
        return Grid(tuple(len(points) for points in coordinates), start, tuple(step), tuple(periodic), margin)

    @property
    def low(self) -> Tensor:
        """Lower end of the domain by axis, (dims,)."""
        walls = torch.tensor([0.0 if wraps else self.margin for wraps in self.periodic], dtype=torch.float64)
        return torch.tensor(self.start, dtype=torch.float64) - walls * torch.tensor(self.step, dtype=torch.float64)

    @property
    def lengths(self) -> Tensor:
        """Length of the domain by axis, (dims,)."""
        cells = [
            float(n) if wraps else n - 1 + 2 * self.margin for n, wraps in zip(self.shape, self.periodic, strict=True)
        ]
        return torch.tensor(cells, dtype=torch.float64) * torch.tensor(self.step, dtype=torch.float64)

    def points(self, axis: int) -> Tensor:
        """Coordinates along an axis, (shape[axis],)."""
        return self.start[axis] + self.step[axis] * torch.arange(self.shape[axis], dtype=torch.float64)

    def index(self, positions: Tensor, what: str = "sensor") -> Tensor:
        """Physical positions (m, dims) in units of grid points from the first, float64.

        Raises DataError for a position outside the domain or not finite; periodic axes have no outside.
        """
        positions = positions.to("cpu", torch.float64)
        if positions.dim() != 2 or positions.shape[1] != len(self.shape):
            raise DataError(f"positions must be (m, {len(self.shape)}), got {tuple(positions.shape)}")
        slack = 1e-9 * self.lengths
        within = (positions >= self.low - slack) & (positions <= self.low + self.lengths + slack)
        inside = torch.isfinite(positions) & (torch.tensor(self.periodic) | within)
        if not bool(inside.all()):
            row = int((~inside.all(1)).nonzero()[0])
            raise DataError(f"{what} {row} at {positions[row].tolist()} lies outside the domain")
        start, step = (torch.tensor(t, dtype=torch.float64) for t in (self.start, self.step))
        return (positions - start) / step
