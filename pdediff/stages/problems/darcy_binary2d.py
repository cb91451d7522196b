"""A porous square of two rocks from points of the pressure."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, ClassVar

import numpy as np
import torch
from annotated_types import Interval
from torch import Tensor

from pdediff.errors import ConfigError
from pdediff.pdes import Darcy, Problem, Variable
from pdediff.stages.problems.base import Layout, Posed, Setup, grid_points, require_room
from pdediff.stages.problems.elliptic import source_prior
from pdediff.stages.problems.nonlinear import placed, pose_solution
from pdediff.types import NonNegative, Positive, PositiveInt, Seed


@dataclass(frozen=True)
class DarcyBinary2d(Posed):
    """Find a, `high` where g >= 0 and `low` elsewhere, of -div(a grad u) = 1, u = 0 on the edge, from points of u.

    The two-phase variant of `pdes.Darcy`; the unknown with a Gaussian prior is g in standard deviations (level sets:
    Iglesias, Lu and Stuart 2016). With `width` 0 the threshold is sharp: readings have no useful derivative, and
    methods that need one are refused; `pcn` with `reference: prior`, `enkg` and `eki` take it. Otherwise a = low +
    (high - low) / (1 + exp(-4 g / width)). `noise` relative to the root mean square reading; 0 is as good as none.
    Good values: grid 32 with 125 points, 128 with 500; width 0.5, over which a rock changes in about 3 cells of 32.
    Raises ConfigError for more points than the grid has, and where high is not above low.
    """

    name: ClassVar[str] = "darcy_binary2d"
    linear: ClassVar[bool] = False
    periodic: ClassVar[tuple[bool, ...]] = (False, False)

    grid: Annotated[int, Interval(ge=8, le=256)] = 32
    points: PositiveInt = 125
    noise: NonNegative = 0.01
    low: Positive = 3.0
    high: Positive = 12.0
    width: NonNegative = 0.5
    places: Seed = 0

    def __post_init__(self) -> None:
        require_room(self.points, self.grid)
        if self.high <= self.low:
            raise ConfigError(f"high must be above low, got low={self.low:g} and high={self.high:g}")

    @property
    def pde(self) -> Darcy:
        """The equation."""
        return Darcy(permeability="two_phase", low=self.low, high=self.high)

    def variables(self) -> tuple[Variable, ...]:
        """Permeability and pressure."""
        return self.pde.variables()

    def coordinates(self) -> dict[str, np.ndarray]:
        """Cell centres of the unit square."""
        return self.pde.coordinates(self.grid)

    def permeability(self, g: Tensor) -> Tensor:
        """a of g in standard deviations."""
        share = (g >= 0).to(g) if self.width == 0 else torch.sigmoid(4 / self.width * g)
        return self.low + (self.high - self.low) * share

    def setup(self) -> Setup:
        """Cosine-diagonal prior; finite volumes, differentiated implicitly where the threshold is smooth."""
        prior, _ = source_prior(self.grid, self.pde.alpha, self.pde.tau)
        pde = self.pde

        def solve(z: Tensor) -> Tensor:
            a = self.permeability(z[:, 0])
            return torch.stack([a, pde.solve(Problem({"permeability": a}))["pressure"]], 1)

        where = grid_points(self.points, (self.grid, self.grid), self.places)
        names = ("permeability", "pressure")
        layout = Layout(names, np.ones(self.points, int), placed(self.coordinates(), where), ("y", "x"))
        smooth = self.width > 0
        return pose_solution(prior, solve, layout, where, self.noise, periodic=False, differentiable=smooth)
