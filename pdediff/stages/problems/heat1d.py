"""Initial temperature of a ring from sensors at a later time: the backward heat equation."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Annotated, ClassVar

import numpy as np
import torch
from annotated_types import Interval
from torch import Tensor

from pdediff.diffusion import GaussianFieldPrior
from pdediff.errors import ConfigError
from pdediff.observe import PointSensors
from pdediff.pdes import Clock, Heat, Problem, Variable
from pdediff.stages.problems.base import Layout, Posed, Setup
from pdediff.stages.problems.linear import SourceAndSolution, pose
from pdediff.types import NonNegative, Positive, PositiveInt


@dataclass(frozen=True)
class Heat1d(Posed):
    """Find u(0) of u_t = nu u_xx on the periodic unit interval from evenly spaced sensors at time `time`.

    Prior: a Gaussian field of zero mean and unit point variance, E|c_k|^2 proportional to (4 pi^2 k^2 + tau^2)^(-alpha)
    for 0 < |k| < grid / 2. `noise` is relative to the root mean square reading; 0 is as good as none. Linear and
    Gaussian, severely ill-posed: mode k is damped by exp(-4 pi^2 k^2 nu time), and the exact posterior mean errs by
    6 % at time 1 and by 3.5 % at 0.25.
    Good values: grid 64 or 128, which give the same problem.
    Raises ConfigError where the sensors do not fall on grid points.
    """

    name: ClassVar[str] = "heat1d"
    linear: ClassVar[bool] = True
    periodic: ClassVar[tuple[bool, ...]] = (True,)

    grid: Annotated[int, Interval(ge=8, le=4096)] = 64
    points: PositiveInt = 16
    noise: NonNegative = 0.01
    diffusivity: Positive = 2e-3
    time: Positive = 1.0
    alpha: Positive = 2.5
    tau: Positive = 7.0

    def __post_init__(self) -> None:
        if self.grid % self.points:
            raise ConfigError(f"points={self.points} must divide grid={self.grid}: sensors are evenly spaced")

    @property
    def pde(self) -> Heat:
        """The equation, with the start and the final time as frames."""
        clock = Clock(frames=2, interval=self.time, step=self.time)
        return Heat(diffusivity=(self.diffusivity, self.diffusivity), clock=clock)

    def variables(self) -> tuple[Variable, ...]:
        """Temperature at the start and at the end."""
        return (
            Variable("initial", ("x",), "1", "temperature at time 0", "input"),
            Variable("final", ("x",), "1", f"temperature at time {self.time:g}", "output"),
        )

    def coordinates(self) -> dict[str, np.ndarray]:
        """Points of the ring."""
        return {"x": np.arange(self.grid) / self.grid}

    def setup(self) -> Setup:
        """Fourier-diagonal prior; exact exponential of each mode, its own adjoint."""
        k = torch.fft.fftfreq(self.grid, 1.0 / self.grid, dtype=torch.float64)
        power = (4 * math.pi**2 * k**2 + self.tau**2) ** -self.alpha
        power = torch.where((k != 0) & (k.abs() < self.grid / 2), power, 0.0)
        prior = GaussianFieldPrior(torch.zeros(1, self.grid, dtype=torch.float64), (power / power.mean())[None])
        fields = SourceAndSolution(torch.ones(1, self.grid, dtype=torch.float64), self._solve)
        where = torch.arange(0, self.grid, self.grid // self.points)
        sensors = PointSensors.at([1] * self.points, where[:, None].double(), (2, self.grid), periodic=True)
        at = torch.zeros(self.points, 2, self.grid, dtype=torch.float64)
        rows = fields.vjp(at[:, :1], sensors.vjp(at, torch.eye(self.points, dtype=torch.float64)))
        position = self.coordinates()["x"][where.numpy(), None]
        layout = Layout(("initial", "final"), np.ones(self.points, dtype=int), position, ("x",))
        return pose(prior, fields, rows, self.noise, layout)

    def _solve(self, initial: Tensor) -> Tensor:
        rate = torch.full((len(initial),), self.diffusivity, dtype=torch.float64, device=initial.device)
        return self.pde.solve(Problem({"initial": initial[:, 0]}, {"diffusivity": rate}))["u"][:, 1:]
