"""Readings of a solution that depends nonlinearly on a Gaussian field: what these problems share."""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np
import torch
from torch import Tensor

from pdediff.diffusion import Denoiser, GaussianFieldPrior
from pdediff.observe import BlackBox, PointSensors, Solution
from pdediff.pdes.periodic_gaussian import PeriodicGaussian
from pdediff.stages.problems.base import Layout, Setup
from pdediff.stages.problems.linear import noise_of
from pdediff.types import Seeds

DRAWS = 64
"""Fields of the prior over which the root mean square reading is taken, always the same."""


def pose_solution(
    prior: Denoiser,
    solve: Callable[[Tensor], Tensor],
    layout: Layout,
    where: Tensor,
    noise: float,
    *,
    periodic: bool,
    differentiable: bool = True,
) -> Setup:
    """Sensors at grid points `where` (m, axis) of the fields solve(z) (batch, channel, *space); errors as in `pose`.

    Without a derivative that is of use, methods that ask for one are refused.
    """
    covariance = prior.error(math.inf)

    def draw(seeds: Seeds) -> Tensor:
        return prior.mean + covariance.draw(seeds, prior.dtype)

    fields = Solution(solve) if differentiable else BlackBox(solve, "a sharp threshold")
    some = fields(draw(tuple(range(DRAWS))))
    sensors = PointSensors.at(layout.field.tolist(), where.double(), some.shape[1:], periodic=periodic)
    std = noise_of(sensors(some).square().mean(0), layout, noise)
    return Setup(prior, draw, fields, sensors @ fields, std, layout)  # type: ignore[arg-type]


def periodic_prior(start: PeriodicGaussian, grid: int, dims: int) -> tuple[GaussianFieldPrior, float]:
    """The law of `start` on a grid, divided by its root mean square, and that number."""
    spectrum = start.spectrum(grid, dims)
    variance = float(spectrum.mean())
    mean = torch.zeros(1, *[grid] * dims, dtype=torch.float64)
    return GaussianFieldPrior(mean, spectrum[None] / variance), variance**0.5


def placed(coordinates: dict[str, np.ndarray], where: Tensor) -> np.ndarray:
    """Physical positions (m, axis) of grid points."""
    axes = [values[where[:, axis].numpy()] for axis, values in enumerate(coordinates.values())]
    return np.stack(axes, 1)
