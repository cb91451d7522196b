"""Log-normal permeability of a porous square from points of the pressure."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, ClassVar

import numpy as np
import torch
from annotated_types import Interval
from torch import Tensor

from pdediff.pdes import Darcy, Problem, Variable
from pdediff.stages.problems.base import Layout, Posed, Setup, grid_points, require_room
from pdediff.stages.problems.elliptic import source_prior
from pdediff.stages.problems.nonlinear import placed, pose_solution
from pdediff.types import NonNegative, Positive, PositiveInt, Seed


@dataclass(frozen=True)
class Darcy2d(Posed):
    """Find a = exp(log_scale g) of -div(a grad u) = 1, u = 0 on the edge, from `points` cells of u; g is Gaussian.

    The log-normal variant of `pdes.Darcy`, whose g is the field of `Poisson2d`; `noise` relative to the root mean
    square reading; 0 is as good as none. The fields are log a and u: log a is Gaussian, and errors of a would weigh
    its largest values alone. Nonlinear. Good values: grid 32 with 125 points, 128 with 500; log_scale 3.
    Raises ConfigError for more points than the grid has.
    """

    name: ClassVar[str] = "darcy2d"
    linear: ClassVar[bool] = False
    periodic: ClassVar[tuple[bool, ...]] = (False, False)

    grid: Annotated[int, Interval(ge=8, le=256)] = 32
    points: PositiveInt = 125
    noise: NonNegative = 0.01
    log_scale: Positive = 3.0
    alpha: Positive = 2.0
    tau: Positive = 3.0
    places: Seed = 0

    def __post_init__(self) -> None:
        require_room(self.points, self.grid)

    @property
    def pde(self) -> Darcy:
        """The equation."""
        return Darcy(permeability="log_normal", log_scale=self.log_scale, alpha=self.alpha, tau=self.tau)

    def variables(self) -> tuple[Variable, ...]:
        """Log-permeability and pressure."""
        log = Variable("log_permeability", ("y", "x"), "1", "logarithm of the permeability", "input")
        return (log, *(v for v in self.pde.variables() if v.name == "pressure"))

    def coordinates(self) -> dict[str, np.ndarray]:
        """Cell centres of the unit square."""
        return self.pde.coordinates(self.grid)

    def setup(self) -> Setup:
        """Cosine-diagonal prior; finite volumes, differentiated implicitly."""
        prior, std = source_prior(self.grid, self.alpha, self.tau)
        pde, scale = self.pde, self.log_scale * std

        def solve(z: Tensor) -> Tensor:
            log = scale * z[:, 0]
            return torch.stack([log, pde.solve(Problem({"permeability": log.exp()}))["pressure"]], 1)

        where = grid_points(self.points, (self.grid, self.grid), self.places)
        names = ("log_permeability", "pressure")
        layout = Layout(names, np.ones(self.points, int), placed(self.coordinates(), where), ("y", "x"))
        return pose_solution(prior, solve, layout, where, self.noise, periodic=False)
