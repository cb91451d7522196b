"""Initial plume of a substance that a cellular wind carries away, from few sensors at several times."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Annotated, ClassVar

import numpy as np
import torch
from annotated_types import Interval
from torch import Tensor

from pdediff.diffusion import GaussianFieldPrior
from pdediff.observe import PointSensors, Scaling, Solution
from pdediff.pdes import Clock, Variable
from pdediff.pdes.spectral import Modes, evolve
from pdediff.stages.problems.base import Layout, Posed, Setup, require_room, sensor_places
from pdediff.stages.problems.linear import pose
from pdediff.types import NonNegative, Positive, PositiveInt, Seed

END = 0.5
"""Time of the last readings."""

STEP = 0.01
"""Inner step up to grid 64: the cellular wind's speed times the largest wave number times it stays below 1.4."""


@dataclass(frozen=True)
class AdvectionDiffusion2d(Posed):
    """Find w(0) of w_t + v . grad w = nu laplace w, periodic, from `points` sensors at `times` times.

    Unit square; v = (a, b) + c (-sin 2 pi x cos 2 pi y, cos 2 pi x sin 2 pi y) along x and y, free of divergence, with
    (a, b, c) = `wind`; readings at `times` even times up to 0.5. Prior: a Gaussian field of zero mean and unit point
    variance, E|c_k|^2 proportional to (4 pi^2 |k|^2 + 25)^(-3) for |k_j| < grid / 3. `noise` is relative to the root
    mean square reading; 0 is as good as none. With `on_grid` false the sensors stand anywhere, at the same places on
    every grid, and readings are interpolated. Pseudo-spectral, flux form, 2/3 rule, ETDRK4 with the wind in the
    exponential.
    Linear and Gaussian: what no sensor sees pass by stays unknown. Good values: grid 32 or 64.
    Raises ConfigError for more points than the grid has.
    """

    name: ClassVar[str] = "advection_diffusion2d"
    linear: ClassVar[bool] = True
    periodic: ClassVar[tuple[bool, ...]] = (True, True)

    grid: Annotated[int, Interval(ge=8, le=256)] = 32
    points: PositiveInt = 20
    times: PositiveInt = 10
    noise: NonNegative = 0.02
    wind: tuple[float, float, float] = (1.0, 0.5, 0.5)
    diffusivity: Positive = 5e-3
    places: Seed = 0
    on_grid: bool = True

    def __post_init__(self) -> None:
        require_room(self.points, self.grid, self.on_grid)

    def variables(self) -> tuple[Variable, ...]:
        """The plume at time 0."""
        return (Variable("initial", ("y", "x"), "1", "concentration at time 0", "input"),)

    def coordinates(self) -> dict[str, np.ndarray]:
        """Points of the square."""
        points = np.arange(self.grid) / self.grid
        return {"y": points, "x": points.copy()}

    def setup(self) -> Setup:
        """Fourier-diagonal prior; a sensor's row at each time by the discrete adjoint, one interval after the other."""
        prior = plume_prior(self.grid)
        space = prior.shape[1:]
        where = sensor_places(self.points, space, self.places, on_grid=self.on_grid, periodic=True)
        sensors = PointSensors.at([0] * self.points, where, prior.shape, periodic=True)
        at = torch.zeros(self.points, *prior.shape, dtype=torch.float64)
        interval = Solution(self.carried, linear=True)
        rows = [sensors.vjp(at, torch.eye(self.points, dtype=torch.float64))]
        for _ in range(self.times):  # the flow is steady: each interval has the same adjoint
            rows.append(interval.vjp(at, rows[-1]))
        place = np.tile(where.numpy() / self.grid, (self.times, 1))
        time = np.repeat(END / self.times * np.arange(1, self.times + 1), self.points)
        layout = Layout(
            ("initial", "concentration"), np.ones(len(time), int), np.column_stack([place, time]), ("y", "x", "time")
        )
        one = torch.ones(1, 1, 1, dtype=torch.float64)
        return pose(prior, Scaling(0 * one, one), torch.cat(rows[1:]), self.noise, layout)

    def carried(self, w: Tensor) -> Tensor:
        """Plumes (batch, 1, y, x) one interval between readings later."""
        clock = Clock(frames=2, interval=END / self.times, step=STEP * 64 / max(64, self.grid))
        box = torch.ones(1, dtype=torch.float64, device=w.device)
        return evolve(_Carried(self), w[:, 0], box, clock)[:, 1:]


@dataclass(frozen=True)
class _Carried:
    """The equation by its symbol and the rest."""

    problem: AdvectionDiffusion2d

    def symbol(self, modes: Modes) -> Tensor:
        """-nu |k|^2 - i wind . k."""
        k_y, k_x = modes.k
        along_x, along_y, _ = self.problem.wind
        return -self.problem.diffusivity * modes.squared - 1j * (along_x * k_x + along_y * k_y)

    def nonlinear(self, modes: Modes) -> Callable[[Tensor], Tensor]:
        """-div(c w), c the cellular wind."""
        k_y, k_x = modes.k
        turn = 2 * math.pi / modes.points * torch.arange(modes.points, dtype=torch.float64, device=k_x.device)
        u = modes.cast(-self.problem.wind[2] * torch.cos(turn)[:, None] * torch.sin(turn))
        v = modes.cast(self.problem.wind[2] * torch.sin(turn)[:, None] * torch.cos(turn))
        along_x, along_y = modes.weigh(-1j * k_x), modes.weigh(-1j * k_y)

        def rate(w: Tensor) -> Tensor:
            values = modes.to_space(w)
            return along_x(u * values) + along_y(v * values)

        return rate


def plume_prior(grid: int, alpha: float = 3.0, tau: float = 5.0) -> GaussianFieldPrior:
    """Zero mean, unit point variance, E|c_k|^2 proportional to (4 pi^2 |k|^2 + tau^2)^(-alpha) on the live modes."""
    k = torch.fft.fftfreq(grid, 1.0 / grid, dtype=torch.float64)
    squared = k[:, None] ** 2 + k**2
    live = (k.abs() <= (grid - 1) // 3).double()
    power = (4 * math.pi**2 * squared + tau**2) ** -alpha * live[:, None] * live * (squared > 0)
    return GaussianFieldPrior(torch.zeros(1, grid, grid, dtype=torch.float64), (power / power.mean())[None])
