"""Burgers' equation on a ring at small or no viscosity: finite volumes that carry shocks."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, ClassVar

import numpy as np
import torch
from torch import Tensor

from pdediff.errors import ConfigError
from pdediff.pdes import runge_kutta
from pdediff.pdes.base import Clock, Problem, Variable
from pdediff.pdes.burgers import BOUND
from pdediff.pdes.periodic_gaussian import PeriodicGaussian
from pdediff.pdes.ranges import linear, require_order
from pdediff.pdes.weno import pad, weno5_z
from pdediff.types import Positive, uniform

_POINTS = 128
# SSPRK3 is stable to 2.51 on the negative real axis; the largest eigenvalue of the viscous term is 6.04 nu / dx^2.
_DIFFUSION_LIMIT = 2.51 / 6.05


@dataclass(frozen=True)
class BurgersShock:
    """Waves that break into shocks, for the recovery of states that no smooth prior can reach.

    u_t + (u^2 / 2)_x = nu u_xx, periodic on (0, length); all numbers are nondimensional; u are cell means. Initial
    state: cell means of a Gaussian field (`start`). Each sample draws nu evenly from `viscosity`; zero is allowed.
    Finite volumes: WENO5-Z values at the faces, the flux of Engquist and Osher (1981) max(u_left, 0)^2 / 2 +
    min(u_right, 0)^2 / 2, whose derivative is continuous, sixth-order viscous flux, SSPRK3 of step at most
    128 `step` / grid, so that max|u| h / dx stays near 0.4. Fifth order where u is smooth, first at shocks, which
    take two or three cells.
    Good values: step 1.25e-3 at length 1 and |u| of order 1; any grid from 64 on. `Burgers` is cheaper and more
    accurate wherever it resolves the viscosity.
    Raises ConfigError where the range of the viscosity is not in order or negative, and where the inner step is too
    long for the viscosity on the grid.
    """

    name: ClassVar[str] = "burgers_shock"
    formula: ClassVar[str] = "u_t + (u^2 / 2)_x = nu u_xx"
    boundary: ClassVar[str] = "periodic"
    symmetries: ClassVar[str] = "none"
    levels: ClassVar[Mapping[str, Mapping[str, Any]]] = {
        "low": {"viscosity": (1e-3, 1e-3)},
        "medium": {"viscosity": (3e-4, 3e-4)},
        "high": {"viscosity": (0.0, 0.0)},
    }
    conserved: ClassVar[Mapping[str, float]] = {"mean": 1e-6}

    length: Positive = 1.0
    viscosity: tuple[float, float] = (0.0, 1e-3)
    start: PeriodicGaussian = PeriodicGaussian()
    clock: Clock = Clock(frames=101, interval=0.01, step=1.25e-3)

    def __post_init__(self) -> None:
        require_order(viscosity=self.viscosity)
        if self.viscosity[0] < 0.0:
            raise ConfigError(f"viscosity={list(self.viscosity)} must not be negative")

    def variables(self) -> tuple[Variable, ...]:
        """Initial state and viscosity (inputs), u over time (output)."""
        bound = BOUND * self.start.deviation(1)
        return (
            Variable("initial", ("x",), "1", "mean of u in a cell at time 0", "input", -bound, bound),
            Variable("viscosity", (), "1", "viscosity", "input", 0.0),
            Variable("u", ("time", "x"), "1", "mean velocity in a cell", "output", -bound, bound),
        )

    def coordinates(self, grid: int) -> dict[str, np.ndarray]:
        """Time, and the centres of the cells. Raises ConfigError where the step is too long for the viscosity."""
        h, limit = self._clock(grid).halved().step * 2.0, _DIFFUSION_LIMIT * (self.length / grid) ** 2
        if self.viscosity[1] * h > limit:
            most = limit / self.viscosity[1] * grid / _POINTS
            raise ConfigError(
                f"clock.step={self.clock.step:g} is too long for viscosity={self.viscosity[1]:g} on grid={grid}: "
                f"it must be at most {most:.3g}",
                hint="the equation Burgers has no such limit",
            )
        return {"time": self.clock.times(), "x": self.length * (np.arange(grid) + 0.5) / grid}

    def draw(self, seeds: Sequence[int], grid: int, device: torch.device | str = "cpu") -> Problem:
        """Cell means `(batch, x)` and viscosities `(batch,)`. Raises ConfigError as `coordinates` does."""
        self.coordinates(grid)
        viscosity = linear(uniform(seeds, ()).to(device), self.viscosity)
        start = _cell_means(self.start.draw(seeds, grid, 1)).to(device)
        return Problem({"initial": self._evolve(start, viscosity, warm=True)}, {"viscosity": viscosity})

    def solve(self, problem: Problem) -> dict[str, Tensor]:
        """Trajectory `(batch, time, x)` from `initial`, its first frame; differentiable in both inputs."""
        initial, viscosity = problem.fields["initial"], problem.scalars["viscosity"]
        return {"initial": initial, "viscosity": viscosity, "u": self._evolve(initial, viscosity)}

    def residual(self, fields: Mapping[str, Tensor]) -> Tensor:
        """Defect of each frame after one interval of the integrator, per unit time, `(batch, time - 1, x)`."""
        u, clock = fields["u"], self._clock(fields["u"].shape[-1])
        return runge_kutta.step_residual(self.advance, u, clock, statics=(self._numbers(fields["viscosity"]),))

    def invariants(self, fields: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """`mean` of u (conserved), `energy` (mean of u^2 / 2) and total `variation` (both fall), `(batch, time)`."""
        u = fields["u"]
        variation = (u.roll(-1, -1) - u).abs().sum(-1)
        return {"mean": u.mean(-1), "energy": 0.5 * u.square().mean(-1), "variation": variation}

    def inner_description(self, grid: int) -> dict[str, object]:
        """Discretisation, integrator and inner step."""
        clock = self._clock(grid)
        step = clock.interval / clock.steps
        return {"method": "finite volumes, WENO5-Z, Engquist-Osher flux, SSPRK3", "step": step}

    def advance(self, u: Tensor, h: float, viscosity: Tensor) -> Tensor:
        """Cell means `(batch, x)` one Euler step `h` later; `viscosity` is `(batch, 1)`."""
        cell = self.length / u.shape[-1]
        ghosted = pad(u, -1, "periodic")
        left, right = weno5_z(ghosted, -1)
        flux = 0.5 * (left.clamp(min=0.0).square() + right.clamp(max=0.0).square())
        flux = torch.addcmul(flux, viscosity, _face_slope(ghosted), value=-1.0 / cell)
        return torch.sub(u, flux.diff(dim=-1), alpha=h / cell)

    def _evolve(self, start: Tensor, viscosity: Tensor, warm: bool = False) -> Tensor:
        clock = self._clock(start.shape[-1])
        return runge_kutta.evolve(self.advance, start, clock, statics=(self._numbers(viscosity),), warm=warm)

    def _numbers(self, viscosity: Tensor) -> Tensor:
        return viscosity.to(self.clock.dtype).unsqueeze(-1)

    def _clock(self, grid: int) -> Clock:
        return replace(self.clock, step=self.clock.step * _POINTS / grid)


def _face_slope(ghosted: Tensor) -> Tensor:
    """dx times u_x at the faces from cell means with three ghosts at either end, sixth order."""
    faces = ghosted.shape[-1] - 5
    a, b, c, d, e, f = (ghosted.narrow(-1, start, faces) for start in range(6))
    return (245.0 * (d - c) - 25.0 * (e - b) + 2.0 * (f - a)) / 180.0


def _cell_means(values: Tensor) -> Tensor:
    """Means over the cells that begin at the points, of the periodic field with these values."""
    n = values.shape[-1]
    m = torch.arange(n // 2 + 1, dtype=torch.float64) / n
    factor = torch.polar(torch.sinc(m), torch.pi * m)
    return torch.fft.irfft(factor * torch.fft.rfft(values), n=n)
