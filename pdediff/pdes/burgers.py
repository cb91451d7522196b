"""The viscous Burgers equation on a ring, pseudo-spectral."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, ClassVar

import numpy as np
import torch
from torch import Tensor

from pdediff.pdes import spectral
from pdediff.pdes.base import Clock, Problem, Variable
from pdediff.pdes.periodic_gaussian import PeriodicGaussian
from pdediff.pdes.ranges import logarithmic, require_positive
from pdediff.pdes.self_advection import self_advection
from pdediff.types import Positive, uniform

BOUND = 12.0
"""Standard deviations of the initial state that no sample exceeds: Burgers' equation has a maximum principle."""
_POINTS = 128


@dataclass(frozen=True)
class Burgers:
    """Steepening waves smoothed by viscosity, the standard test of neural operators and of initial-state recovery.

    u_t + (u^2 / 2)_x = nu u_xx, periodic on (0, length); all numbers are nondimensional. Initial state: a Gaussian
    field (`start`; Li et al. 2021, section 5.1, without its mean). Each sample draws nu from `viscosity`, evenly in
    the logarithm; equal ends fix it. Flux form, 2/3 rule, ETDRK4 of step at most 128 `step` / grid, so that
    max|u| k_max h stays below the limit 2.8 of the scheme.
    Good values: step 2.5e-3 at length 1 and |u| of order 1; viscosity 0.01 is resolved from grid 128 on, 1e-3 from
    1024 on (viscosity * pi * grid / length above 2 max|u|): below that see `BurgersShock`.
    Raises ConfigError where the range of the viscosity is not in order or not positive.
    """

    name: ClassVar[str] = "burgers"
    formula: ClassVar[str] = "u_t + (u^2 / 2)_x = nu u_xx"
    boundary: ClassVar[str] = "periodic"
    symmetries: ClassVar[str] = "none"
    levels: ClassVar[Mapping[str, Mapping[str, Any]]] = {
        "low": {"viscosity": (0.05, 0.05)},
        "medium": {"viscosity": (0.01, 0.01)},
        "high": {"viscosity": (0.002, 0.002)},
    }
    conserved: ClassVar[Mapping[str, float]] = {"mean": 1e-6}

    length: Positive = 1.0
    viscosity: tuple[float, float] = (0.01, 0.01)
    start: PeriodicGaussian = PeriodicGaussian()
    clock: Clock = Clock(frames=101, interval=0.01, step=2.5e-3)

    def __post_init__(self) -> None:
        require_positive(viscosity=self.viscosity)

    def variables(self) -> tuple[Variable, ...]:
        """Initial state and viscosity (inputs), u over time (output)."""
        bound = BOUND * self.start.deviation(1)
        return (
            Variable("initial", ("x",), "1", "u at time 0", "input", -bound, bound),
            Variable("viscosity", (), "1", "viscosity", "input", 0.0),
            Variable("u", ("time", "x"), "1", "velocity", "output", -bound, bound),
        )

    def coordinates(self, grid: int) -> dict[str, np.ndarray]:
        """Time, and the points of the ring."""
        return {"time": self.clock.times(), "x": self.length * np.arange(grid) / grid}

    def draw(self, seeds: Sequence[int], grid: int, device: torch.device | str = "cpu") -> Problem:
        """States `(batch, x)` and viscosities `(batch,)`."""
        viscosity = logarithmic(uniform(seeds, ()).to(device), self.viscosity)
        start = self.start.draw(seeds, grid, 1).to(device)
        return Problem({"initial": self._evolve(start, viscosity, warm=True)}, {"viscosity": viscosity})

    def solve(self, problem: Problem) -> dict[str, Tensor]:
        """Trajectory `(batch, time, x)` from the live modes of `initial`; differentiable in both inputs."""
        initial, viscosity = problem.fields["initial"], problem.scalars["viscosity"]
        return {"initial": initial, "viscosity": viscosity, "u": self._evolve(initial, viscosity)}

    def residual(self, fields: Mapping[str, Tensor]) -> Tensor:
        """Defect of each frame after one interval of the integrator, per unit time, `(batch, time - 1, x)`."""
        u, numbers = fields["u"], {"viscosity": fields["viscosity"]}
        return spectral.step_residual(self, u, self._box(u), self._clock(u.shape[-1]), parameters=numbers)

    def invariants(self, fields: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """`mean` of u (conserved) and `energy`, the mean of u^2 / 2 (decays), `(batch, time)`."""
        u = fields["u"]
        return {"mean": u.mean(-1), "energy": 0.5 * u.square().mean(-1)}

    def inner_description(self, grid: int) -> dict[str, object]:
        """Integrator, inner step and dealiasing."""
        clock = self._clock(grid)
        step = clock.interval / clock.steps
        return {"method": "Fourier pseudo-spectral, flux form, ETDRK4", "step": step, "dealiasing": "2/3 rule"}

    def symbol(self, modes: spectral.Modes) -> Tensor:
        """-nu k^2."""
        return -modes.parameter("viscosity") * modes.squared

    def nonlinear(self, modes: spectral.Modes) -> Callable[[Tensor], Tensor]:
        """-(u^2 / 2)_x."""
        return self_advection(modes)

    def _evolve(self, start: Tensor, viscosity: Tensor, warm: bool = False) -> Tensor:
        clock, numbers = self._clock(start.shape[-1]), {"viscosity": viscosity}
        return spectral.evolve(self, start, self._box(start), clock, parameters=numbers, warm=warm)

    def _clock(self, grid: int) -> Clock:
        return replace(self.clock, step=self.clock.step * _POINTS / grid)

    def _box(self, like: Tensor) -> Tensor:
        return torch.full((1,), self.length, dtype=torch.float64, device=like.device)
