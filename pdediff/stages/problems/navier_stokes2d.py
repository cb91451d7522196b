"""Initial vorticity of a plane flow from points of a later one."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, ClassVar

import numpy as np
import torch
from annotated_types import Interval
from torch import Tensor

from pdediff.pdes import Clock, NavierStokes, Problem, Variable
from pdediff.stages.problems.base import Layout, Posed, Setup, grid_points, require_room
from pdediff.stages.problems.nonlinear import periodic_prior, placed, pose_solution
from pdediff.types import NonNegative, Positive, PositiveInt, Seed


@dataclass(frozen=True)
class NavierStokes2d(Posed):
    """Find the vorticity at time 0 from `points` grid points of that at time 1: `pdes.NavierStokes`, no obstacles.

    Gaussian prior, forcing 0.1 and viscosity 1e-3 on the unit torus as in Huang et al. (2024, DiffusionPDE); `noise`
    relative to the root mean square reading; 0 is as good as none. Nonlinear through the transport.
    Good values: grid 32 with 125 points, 64 or 128 with 500.
    Raises ConfigError for more points than the grid has.
    """

    name: ClassVar[str] = "navier_stokes2d"
    linear: ClassVar[bool] = False
    periodic: ClassVar[tuple[bool, ...]] = (True, True)

    grid: Annotated[int, Interval(ge=8, le=256)] = 32
    points: PositiveInt = 125
    noise: NonNegative = 0.01
    viscosity: Positive = 1e-3
    places: Seed = 0

    def __post_init__(self) -> None:
        require_room(self.points, self.grid)

    @property
    def pde(self) -> NavierStokes:
        """The equation, with the start and the final time as frames."""
        # At grid 32 the error of this step is below 1e-4 of 1 % noise.
        clock = Clock(frames=2, interval=1.0, step=0.05)
        return NavierStokes(viscosity=(self.viscosity, self.viscosity), clock=clock)

    def variables(self) -> tuple[Variable, ...]:
        """Vorticity at the start and at the end."""
        return (
            Variable("initial", ("y", "x"), "1", "vorticity at time 0", "input"),
            Variable("final", ("y", "x"), "1", "vorticity at time 1", "output"),
        )

    def coordinates(self) -> dict[str, np.ndarray]:
        """Points of the square."""
        return {d: v for d, v in self.pde.coordinates(self.grid).items() if d != "time"}

    def setup(self) -> Setup:
        """Fourier-diagonal prior; the spectral solver with its own discrete adjoint."""
        pde = self.pde
        prior, std = periodic_prior(pde.start, self.grid, 2)

        def solve(z: Tensor) -> Tensor:
            start = std * z[:, 0]
            rate = torch.full((len(z),), self.viscosity, dtype=torch.float64, device=z.device)
            return pde.solve(Problem({"initial": start, "obstacle": torch.zeros_like(start)}, {"viscosity": rate}))[
                "vorticity"
            ]

        where = grid_points(self.points, (self.grid, self.grid), self.places)
        layout = Layout(("initial", "final"), np.ones(self.points, int), placed(self.coordinates(), where), ("y", "x"))
        return pose_solution(prior, solve, layout, where, self.noise, periodic=True)
