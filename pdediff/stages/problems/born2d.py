"""Contrast of an object in the middle of a ring of antennas from the waves that it scatters, to first order."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Annotated, ClassVar

import numpy as np
import torch
from annotated_types import Interval
from scipy.special import hankel1
from torch import Tensor

from pdediff.observe import Scaling
from pdediff.pdes import Variable
from pdediff.stages.problems.base import Layout, Posed, Setup
from pdediff.stages.problems.elliptic import source_prior
from pdediff.stages.problems.linear import Rows
from pdediff.types import Positive, PositiveInt

SIDE, RADIUS = 0.18, 1.6
"""Side of the box and distance of the antennas from its middle, in metres."""

ALPHA, TAU = 2.0, 10.0
"""Of the prior, whose correlation length is about a tenth of the box."""


@dataclass(frozen=True)
class Born2d(Posed):
    """Find the contrast f of laplace u + k^2 (1 + f) u = -delta(x - transmitter) from the scattered wave in the Born
    approximation: reading (t, r) = k^2 int G(r, x) f(x) G(x, t) dx, G = i/4 H0(k |x - x'|), real and imaginary part.

    The linear inverse scattering of Zheng et al. (2025, InverseBench, section 3.1): box of 0.18 m, antennas evenly on a
    circle of 1.6 m, wavelength of `wave` cells, complex errors of standard deviation `noise`, absolute. Prior: a
    Gaussian field of zero mean and standard deviation `contrast`, eigenvalues (pi^2 |k|^2 + 100)^(-2) of the cosines
    of the unit square; the benchmark's are cells under a microscope of this standard deviation.
    Linear and Gaussian, with all its rows in closed form. One quadrature point a cell; for contrasts like the
    benchmark's the object shifts phases by many turns and full scattering is not near its first order, so that this is
    a test of linear inversion, not of imaging.
    Good values: grid 32 with 60 receivers; 128 with 360, 180 or 60, where the matrix takes 1.9, 0.9 or 0.3 GB.
    """

    name: ClassVar[str] = "born2d"
    linear: ClassVar[bool] = True
    periodic: ClassVar[tuple[bool, ...]] = (False, False)

    grid: Annotated[int, Interval(ge=8, le=256)] = 32
    transmitters: PositiveInt = 20
    receivers: PositiveInt = 60
    noise: Positive = 1e-4
    wave: Positive = 6.0
    contrast: Positive = 0.25

    def variables(self) -> tuple[Variable, ...]:
        """The contrast."""
        return (Variable("contrast", ("y", "x"), "1", "squared refractive index minus 1", "input"),)

    def coordinates(self) -> dict[str, np.ndarray]:
        """Cell centres of the box around 0, in metres."""
        centres = SIDE * ((np.arange(self.grid) + 0.5) / self.grid - 0.5)
        return {"y": centres, "x": centres.copy()}

    @property
    def wave_number(self) -> float:
        """k, in radians a metre."""
        return 2 * math.pi * self.grid / (self.wave * SIDE)

    def setup(self) -> Setup:
        """Cosine-diagonal prior; real and imaginary rows of every pair of antennas, one after the other."""
        prior, _ = source_prior(self.grid, ALPHA, TAU)
        covariance = prior.error(math.inf)
        scale = torch.full((1, self.grid, self.grid), self.contrast, dtype=torch.float64)
        rows = self.contrast * torch.view_as_real(self.pairs()).movedim(-1, 2).flatten(0, 2)[:, None]
        std = torch.full((len(rows),), self.noise / math.sqrt(2), dtype=torch.float64)
        # each transmitter, each receiver, each part: place of the receiver, number of the transmitter
        antenna = np.repeat(np.tile(circle(self.receivers), (self.transmitters, 1)), 2, 0)
        number = np.repeat(np.arange(self.transmitters), 2 * self.receivers)
        field = np.tile([1, 2], self.transmitters * self.receivers)
        layout = Layout(
            ("contrast", "real", "imaginary"), field, np.column_stack([antenna, number]), ("y", "x", "transmitter")
        )

        def draw(seeds: Sequence[int]) -> Tensor:
            return prior.mean + covariance.draw(seeds, prior.dtype)

        return Setup(prior, draw, Scaling(0 * scale, scale), Rows(rows), std, layout)

    def pairs(self) -> Tensor:
        """Complex readings of a unit contrast in each cell, (transmitter, receiver, y, x)."""
        sent, heard = (self.waves(circle(count)) for count in (self.transmitters, self.receivers))
        cell = (self.wave_number * SIDE / self.grid) ** 2
        return cell * sent[:, None] * heard

    def waves(self, places: np.ndarray) -> Tensor:
        """i/4 H0(k r) at the cell centres, of unit sources at `places` (n, 2) given as y, x; (n, y, x)."""
        points = self.coordinates()
        y, x = (places[:, axis, None, None] for axis in (0, 1))
        distance = np.hypot(points["y"][:, None] - y, points["x"] - x)
        return torch.from_numpy(0.25j * hankel1(0, self.wave_number * distance))


def circle(count: int) -> np.ndarray:
    """Places (count, 2) as y, x of antennas around the box."""
    angle = 2 * math.pi * np.arange(count) / count
    return RADIUS * np.stack([np.sin(angle), np.cos(angle)], 1)
