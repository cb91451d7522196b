"""Space-time field of the Burgers equation from a few fixed sensors."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, ClassVar

import numpy as np
import torch
from annotated_types import Interval
from torch import Tensor

from pdediff.errors import ConfigError
from pdediff.pdes import Burgers, Clock, Problem, Variable
from pdediff.stages.problems.base import Layout, Posed, Setup, grid_points
from pdediff.stages.problems.burgers1d import START
from pdediff.stages.problems.nonlinear import periodic_prior, placed, pose_solution
from pdediff.types import NonNegative, Positive, PositiveInt, Seed


@dataclass(frozen=True)
class Burgers1dSpaceTime(Posed):
    """Find u(time, x) of u_t + (u^2 / 2)_x = nu u_xx on the unit ring from `points` sensors that read at all times.

    The setting of Huang et al. (2024, DiffusionPDE, section 4): viscosity 0.01, `grid` points and as many times from 0
    to 1, 5 sensors whose places are chosen by the seed `places`. The unknown is u(0), a Gaussian field (`START`);
    theirs is a learned law of the whole field, of which this is the exact one. `noise` relative to the root mean square
    reading; 0 is as good as none. Nonlinear.
    Good values: grid 64 or 128.
    Raises ConfigError for more sensors than the grid has points.
    """

    name: ClassVar[str] = "burgers1d_space_time"
    linear: ClassVar[bool] = False
    periodic: ClassVar[tuple[bool, ...]] = (False, True)

    grid: Annotated[int, Interval(ge=8, le=1024)] = 64
    points: PositiveInt = 5
    noise: NonNegative = 0.01
    viscosity: Positive = 0.01
    places: Seed = 0

    def __post_init__(self) -> None:
        if self.points > self.grid:
            raise ConfigError(f"points={self.points} is more than the {self.grid} grid points of grid={self.grid}")

    @property
    def pde(self) -> Burgers:
        """The equation, with as many frames as points."""
        clock = Clock(frames=self.grid, interval=1.0 / (self.grid - 1), step=5e-3)
        return Burgers(viscosity=(self.viscosity, self.viscosity), clock=clock)

    def variables(self) -> tuple[Variable, ...]:
        """The field of all times."""
        return (Variable("u", ("time", "x"), "1", "velocity", "output"),)

    def coordinates(self) -> dict[str, np.ndarray]:
        """Times, and points of the ring."""
        return {"time": np.linspace(0.0, 1.0, self.grid), "x": np.arange(self.grid) / self.grid}

    def setup(self) -> Setup:
        """Fourier-diagonal prior of the start; `pdes.Burgers` with its own discrete adjoint."""
        prior, std = periodic_prior(START, self.grid, 1)
        pde = self.pde

        def solve(z: Tensor) -> Tensor:
            rate = torch.full((len(z),), self.viscosity, dtype=torch.float64, device=z.device)
            return pde.solve(Problem({"initial": std * z[:, 0]}, {"viscosity": rate}))["u"][:, None]

        along = grid_points(self.points, (self.grid,), self.places)[:, 0]
        where = torch.cartesian_prod(torch.arange(self.grid), along)
        layout = Layout(("u",), np.zeros(len(where), int), placed(self.coordinates(), where), ("time", "x"))
        # sensors stand on grid points: nothing wraps in time
        return pose_solution(prior, solve, layout, where, self.noise, periodic=True)
