"""Advection on a ring at constant speed, solved exactly mode by mode."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
import torch
from torch import Tensor

from pdediff.pdes.advection_diffusion import BOUND, propagate, propagated_residual
from pdediff.pdes.base import Clock, Problem, Variable
from pdediff.pdes.periodic_gaussian import PeriodicGaussian
from pdediff.pdes.ranges import linear, require_order
from pdediff.types import Positive, uniform


@dataclass(frozen=True)
class Advection:
    """A field that travels around a ring unchanged: the plainest test of a forecast, its phase is all there is.

    u_t + c u_x = 0, periodic on (0, length); all numbers are nondimensional. Initial state: random Fourier modes, a
    Gaussian field of known spectrum (`start`). Each sample draws its speed c evenly from `speed`; equal ends fix it,
    and given c the state at any time is Gaussian. Exact phase shift of each Fourier mode, no time stepping: the step
    of the clock is no limit and changes nothing.
    Good values: length 1, speed 0.5 to 1.5 (half a turn to one and a half in the default time 1).
    Raises ConfigError where the range is not in order.
    """

    name: ClassVar[str] = "advection"
    formula: ClassVar[str] = "u_t + c u_x = 0"
    boundary: ClassVar[str] = "periodic"
    symmetries: ClassVar[str] = "none"
    levels: ClassVar[Mapping[str, Mapping[str, Any]]] = {}
    conserved: ClassVar[Mapping[str, float]] = {"mean": 1e-6, "energy": 1e-5}

    length: Positive = 1.0
    speed: tuple[float, float] = (0.5, 1.5)
    start: PeriodicGaussian = PeriodicGaussian()
    clock: Clock = Clock(frames=51, interval=0.02, step=0.02)

    def __post_init__(self) -> None:
        require_order(speed=self.speed)

    def variables(self) -> tuple[Variable, ...]:
        """Initial state and speed (inputs), u over time (output)."""
        bound = BOUND * self.start.deviation(1)
        return (
            Variable("initial", ("x",), "1", "u at time 0", "input", -bound, bound),
            Variable("speed", (), "1", "speed towards larger x", "input"),
            Variable("u", ("time", "x"), "1", "carried quantity", "output", -bound, bound),
        )

    def coordinates(self, grid: int) -> dict[str, np.ndarray]:
        """Time, and the points of the ring."""
        return {"time": self.clock.times(), "x": self.length * np.arange(grid) / grid}

    def draw(self, seeds: Sequence[int], grid: int, device: torch.device | str = "cpu") -> Problem:
        """States `(batch, x)` and speeds `(batch,)`."""
        speed = linear(uniform(seeds, ()).to(device), self.speed)
        initial = self.start.draw(seeds, grid, 1).to(device)
        warm = torch.tensor([self.clock.warm_up * self.clock.interval], dtype=torch.float64)
        return Problem({"initial": self._propagate(initial, warm, speed)[:, 0]}, {"speed": speed})

    def solve(self, problem: Problem) -> dict[str, Tensor]:
        """Trajectory `(batch, time, x)` from the live modes of `initial`; differentiable in both inputs."""
        initial, speed = problem.fields["initial"], problem.scalars["speed"]
        u = self._propagate(initial, torch.from_numpy(self.clock.times()), speed)
        return {"initial": initial, "speed": speed, "u": u}

    def residual(self, fields: Mapping[str, Tensor]) -> Tensor:
        """Defect of each frame after one exact interval, per unit time, `(batch, time - 1, x)`."""
        speed = fields["speed"]
        return propagated_residual(fields["u"], self.clock, self.length, (speed,), torch.zeros_like(speed))

    def invariants(self, fields: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """`mean` of u and `energy`, the mean of u^2 / 2, both conserved, `(batch, time)`."""
        u = fields["u"]
        return {"mean": u.mean(-1), "energy": 0.5 * u.square().mean(-1)}

    def inner_description(self, grid: int) -> dict[str, object]:
        """Method; there is no inner step."""
        return {"method": "exact phase shift of each Fourier mode", "step": self.clock.interval}

    def _propagate(self, initial: Tensor, times: Tensor, speed: Tensor) -> Tensor:
        return propagate(initial, times, self.length, self.clock.dtype, (speed,), torch.zeros_like(speed))
