"""What the elliptic problems share: a Gaussian source on the square, its solution, and points of either."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Literal

import numpy as np
import torch
from torch import Tensor

from pdediff.diffusion import CosineFieldPrior
from pdediff.observe import PointSensors
from pdediff.stages.problems.base import Layout, Setup, sensor_places
from pdediff.stages.problems.linear import SourceAndSolution, pose
from pdediff.types import Purpose, derive

Seen = Literal["solution", "source", "both"]
"""What the sensors read: the solution (inverse problem), the source (forward problem), each of them."""


def source_prior(grid: int, alpha: float, tau: float) -> tuple[CosineFieldPrior, float]:
    """The law of the sources of `pdes.Poisson`, divided by their root mean square, and that number.

    Eigenvalues tau^(2 alpha - 2) (pi^2 |k|^2 + tau^2)^(-alpha) of the cosines on the unit square, none for k = 0.
    """
    k = torch.arange(grid, dtype=torch.float64)
    power = tau ** (2 * alpha - 2) * (torch.pi**2 * (k[:, None] ** 2 + k**2) + tau**2) ** -alpha
    power[0, 0] = 0.0
    variance = float(power.sum())  # a cosine has mean square one
    spectrum = grid**2 * power / variance
    return CosineFieldPrior(torch.zeros(1, grid, grid, dtype=torch.float64), spectrum[None]), variance**0.5


def pose_source(
    prior: CosineFieldPrior,
    scale: Tensor,
    solve: Callable[[Tensor], Tensor],
    names: tuple[str, str],
    coordinates: Mapping[str, np.ndarray],
    *,
    seen: Seen,
    points: int,
    noise: float,
    places: int,
    on_grid: bool,
) -> Setup:
    """Sensors at `points` places of each field that is seen, chosen by the seed `places`; see `sensor_places`."""
    fields = SourceAndSolution(scale, solve)
    channels = {"solution": (1,), "source": (0,), "both": (0, 1)}[seen]
    shape = prior.shape[1:]
    # The two fields of one problem have sensors at different places.
    seeds = (derive(places, Purpose.SENSORS, c) for c in channels)
    where = torch.cat([sensor_places(points, shape, seed, on_grid=on_grid, periodic=False) for seed in seeds])
    field = np.repeat(channels, points)
    sensors = PointSensors.at(field.tolist(), where, (2, *shape))
    at = torch.zeros(len(field), 2, *shape, dtype=torch.float64)
    rows = fields.vjp(at[:, :1], sensors.vjp(at, torch.eye(len(field), dtype=torch.float64)))
    position = np.stack([positions_along(coordinates[d], where[:, axis]) for axis, d in enumerate(("y", "x"))], 1)
    return pose(prior, fields, rows, noise, Layout(names, field, position, ("y", "x")))


def positions_along(coordinate: np.ndarray, steps: Tensor) -> np.ndarray:
    """Physical positions of sensors along an axis from those in steps of its grid."""
    return np.interp(steps.numpy(), np.arange(len(coordinate)), coordinate)
