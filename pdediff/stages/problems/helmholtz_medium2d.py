"""Medium of the Helmholtz equation from the waves that sources on its edge send through it."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Annotated, ClassVar

import numpy as np
import torch
from annotated_types import Interval
from torch import Tensor

from pdediff.observe import Scaling, Solution
from pdediff.pdes import Variable
from pdediff.pdes.radiation import radiate
from pdediff.stages.problems.base import Layout, Posed, Setup
from pdediff.stages.problems.elliptic import source_prior
from pdediff.stages.problems.linear import noise_of
from pdediff.types import NonNegative, Positive, PositiveInt

ALPHA, TAU = 3.0, 6.0
"""Of the prior of the medium, as of `pdes.HelmholtzScattering`."""

MARGIN = 0.15
"""Width of the edge in which the medium fades to that outside."""

LAYER = 12
"""Cells of the absorbing layer."""

DRAWS = 8
"""Media of the prior over which the root mean square reading is taken, always the same."""


@dataclass(frozen=True)
class HelmholtzMedium2d(Posed):
    """Find q of laplace u + k^2 (1 + q) u = -delta(x - source), u outgoing, from u at `points` places of the edge for
    each of `sources` sources on the edge, real and imaginary part.

    q = `contrast` times a smooth Gaussian field that fades to 0 at the edge of the unit square. Sources and receivers
    stand evenly around it in its outermost cells, receivers between the sources. `noise` is relative to the root mean
    square of what q changes; 0 is as good as none. Nonlinear by multiple scattering. Five-point differences, matched
    layer, sparse LU (`pdes.radiation.radiate`).
    Good values: k = 6 pi with 16 sources; grid 64 (21 cells a wavelength), 32 for tests.
    """

    name: ClassVar[str] = "helmholtz_medium2d"
    linear: ClassVar[bool] = False
    periodic: ClassVar[tuple[bool, ...]] = (False, False)

    grid: Annotated[int, Interval(ge=8, le=256)] = 32
    sources: PositiveInt = 16
    points: PositiveInt = 16
    noise: NonNegative = 0.01
    wave_number: Positive = 6 * math.pi
    contrast: Positive = 0.1

    def variables(self) -> tuple[Variable, ...]:
        """The medium."""
        return (Variable("medium", ("y", "x"), "1", "squared refractive index minus 1", "input"),)

    def coordinates(self) -> dict[str, np.ndarray]:
        """Cell centres of the unit square."""
        centres = (np.arange(self.grid) + 0.5) / self.grid
        return {"y": centres, "x": centres.copy()}

    def setup(self) -> Setup:
        """Cosine-diagonal prior; derivatives by the factorised matrix of each medium."""
        prior, _ = source_prior(self.grid, ALPHA, TAU)
        covariance = prior.error(math.inf)
        scale = torch.zeros(1, self.grid, self.grid, dtype=torch.float64) + self.contrast * self._fade()
        fields, waves = Scaling(0 * scale, scale), Solution(self.heard)
        place = self.coordinates()["x"][edge_cells(self.points, self.grid, 0.5)]
        position = np.repeat(np.tile(place, (self.sources, 1)), 2, 0)
        number = np.repeat(np.arange(self.sources), 2 * self.points)
        field = np.tile([1, 2], self.sources * self.points)
        layout = Layout(
            ("medium", "real", "imaginary"), field, np.column_stack([position, number]), ("y", "x", "source")
        )

        def draw(seeds: Sequence[int]) -> Tensor:
            return prior.mean + covariance.draw(seeds, prior.dtype)

        readings = waves @ fields
        change = readings(draw(tuple(range(DRAWS)))) - waves(0 * scale[None])
        std = noise_of(change.square().mean(0), layout, self.noise)
        return Setup(prior, draw, fields, readings, std, layout)  # type: ignore[arg-type]

    def heard(self, q: Tensor) -> Tensor:
        """Real and imaginary part of each wave at each receiver, (batch, source * receiver * 2), of media."""
        source = torch.zeros(self.sources, self.grid, self.grid, dtype=torch.complex128)
        y, x = edge_cells(self.sources, self.grid, 0.0).T
        source[torch.arange(self.sources), y, x] = -float(self.grid**2)
        u = radiate(q[:, 0], source.expand(len(q), -1, -1, -1), self.wave_number, LAYER)
        y, x = edge_cells(self.points, self.grid, 0.5).T
        return torch.view_as_real(u[:, :, y, x].contiguous()).flatten(1)

    def _fade(self) -> Tensor:
        centres = torch.from_numpy(self.coordinates()["x"])
        fade = torch.sin(0.5 * math.pi * (torch.minimum(centres, 1 - centres) / MARGIN).clamp(max=1)) ** 2
        return fade[:, None] * fade


def edge_cells(count: int, grid: int, shift: float) -> np.ndarray:
    """Cells (count, 2) as y, x, evenly around the edge of a square of `grid` cells; `shift` in steps between them."""
    along = (np.floor(4 * (grid - 1) * (np.arange(count) + shift) / count)).astype(int)
    side, step = np.divmod(along, grid - 1)
    last = np.full_like(step, grid - 1)
    y = np.choose(side, [0 * step, step, last, last - step])
    x = np.choose(side, [step, last, last - step, 0 * step])
    return np.stack([y, x], 1)
