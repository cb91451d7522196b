"""Initial state of the Burgers equation from a few sensors at two later times."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, ClassVar

import numpy as np
import torch
from annotated_types import Interval
from torch import Tensor

from pdediff.errors import ConfigError
from pdediff.pdes import Burgers, Clock, Problem, Variable
from pdediff.pdes.periodic_gaussian import PeriodicGaussian
from pdediff.stages.problems.base import Layout, Posed, Setup
from pdediff.stages.problems.nonlinear import periodic_prior, placed, pose_solution
from pdediff.types import NonNegative, Positive, PositiveInt

START = PeriodicGaussian(sigma=49.0, alpha=2.5, tau=7.0)
"""Initial states of Huang et al. (2024, DiffusionPDE): covariance 49^2 (-laplace + 49)^(-2.5) on the unit ring."""


@dataclass(frozen=True)
class Burgers1d(Posed):
    """Find u(0) of u_t + (u^2 / 2)_x = nu u_xx on the unit ring from `points` even sensors at times 0.5 and 1.

    Gaussian prior `START`; `noise` relative to the root mean square reading; 0 is as good as none. Nonlinear: shocks
    forget the small scales of the start, so that its posterior is wide, and skewed where fronts have merged.
    Good values: grid 64 or 128 with viscosity 0.01, 16 points.
    Raises ConfigError where the sensors do not fall on grid points.
    """

    name: ClassVar[str] = "burgers1d"
    linear: ClassVar[bool] = False
    periodic: ClassVar[tuple[bool, ...]] = (True,)

    grid: Annotated[int, Interval(ge=8, le=1024)] = 64
    points: PositiveInt = 16
    noise: NonNegative = 0.01
    viscosity: Positive = 0.01

    def __post_init__(self) -> None:
        if self.grid % self.points:
            raise ConfigError(f"points={self.points} must divide grid={self.grid}: sensors are evenly spaced")

    def variables(self) -> tuple[Variable, ...]:
        """The state at the three times."""
        return (
            Variable("initial", ("x",), "1", "u at time 0", "input"),
            Variable("middle", ("x",), "1", "u at time 0.5", "output"),
            Variable("final", ("x",), "1", "u at time 1", "output"),
        )

    def coordinates(self) -> dict[str, np.ndarray]:
        """Points of the ring."""
        return {"x": np.arange(self.grid) / self.grid}

    def setup(self) -> Setup:
        """Fourier-diagonal prior; `pdes.Burgers` with its own discrete adjoint."""
        prior, std = periodic_prior(START, self.grid, 1)
        pde = Burgers(viscosity=(self.viscosity, self.viscosity), clock=Clock(frames=3, interval=0.5, step=5e-3))

        def solve(z: Tensor) -> Tensor:
            rate = torch.full((len(z),), self.viscosity, dtype=torch.float64, device=z.device)
            return pde.solve(Problem({"initial": std * z[:, 0]}, {"viscosity": rate}))["u"]

        one = torch.arange(0, self.grid, self.grid // self.points)[:, None]
        where, field = one.repeat(2, 1), np.repeat([1, 2], self.points)
        layout = Layout(("initial", "middle", "final"), field, placed(self.coordinates(), where), ("x",))
        return pose_solution(prior, solve, layout, where, self.noise, periodic=True)
