"""The Kuramoto-Sivashinsky equation in one dimension."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
import torch
from torch import Tensor

from pdediff.pdes import spectral
from pdediff.pdes.base import Clock, Problem, Variable
from pdediff.pdes.ranges import linear, require_positive
from pdediff.pdes.self_advection import self_advection
from pdediff.pdes.sine_waves import NUMBERS, sine_waves
from pdediff.types import Fraction, Positive, uniform


@dataclass(frozen=True)
class KuramotoSivashinsky:
    """Chaotic fronts on a ring, the standard test of long rollouts and of data assimilation.

    u_t + u u_x + u_xx + nu u_xxxx = 0, periodic; all numbers are nondimensional (Lyapunov time about 11 at nu = 1).
    Each sample draws its ring, length * U[1 - spread, 1 + spread], the time between its frames, that of the clock *
    U[1 - time_spread, 1 + time_spread] (the number of inner steps in it is the same for all), and nu, evenly from
    `viscosity`. Initial state: ten sines of amplitude U[-0.5, 0.5], wave number 1 or 2 and random phase, carried over
    the warm-up to the attractor (Brandstetter, Welling and Worrall 2022, section 4; the data of Lippe et al. 2023,
    section 4.1). ETDRK4, 2/3 rule.
    Good values: grid 256 for length 64 (spectrum resolved to 1e-9); step 0.05 (error 3e-7 per 0.2, fourth order);
    viscosity 1, or 0.5 to 1.5 where it is a condition of the surrogate.
    Raises ConfigError where the range of the viscosity is not in order or not positive.
    """

    name: ClassVar[str] = "kuramoto_sivashinsky"
    formula: ClassVar[str] = "u_t + u u_x + u_xx + nu u_xxxx = 0"
    boundary: ClassVar[str] = "periodic"
    symmetries: ClassVar[str] = "none"
    levels: ClassVar[Mapping[str, Mapping[str, Any]]] = {
        "low": {"length": 22.0},
        "medium": {"length": 44.0},
        "high": {"length": 88.0},
    }
    conserved: ClassVar[Mapping[str, float]] = {"mean": 1e-6}

    length: Positive = 64.0
    spread: Fraction = 0.1
    time_spread: Fraction = 0.1
    viscosity: tuple[float, float] = (1.0, 1.0)
    clock: Clock = Clock(frames=140, interval=0.2, step=0.05, warm_up=360)

    def __post_init__(self) -> None:
        require_positive(viscosity=self.viscosity)

    def variables(self) -> tuple[Variable, ...]:
        """Initial state, ring length, time between frames and viscosity (inputs), u over time (output)."""
        return (
            Variable("initial", ("x",), "1", "u at time 0, on the attractor", "input", -20.0, 20.0),
            Variable("domain_length", (), "1", "length of the periodic box", "input", 0.0),
            Variable("frame_interval", (), "1", "time between frames", "input", 0.0),
            Variable("viscosity", (), "1", "viscosity", "input", 0.0),
            Variable("u", ("time", "x"), "1", "velocity of the front", "output", -20.0, 20.0),
        )

    def coordinates(self, grid: int) -> dict[str, np.ndarray]:
        """Nominal time from the end of the warm-up and nominal x.

        Scale them by frame_interval / clock.interval and domain_length / length.
        """
        return {"time": self.clock.times(), "x": self.length * np.arange(grid) / grid}

    def draw(self, seeds: Sequence[int], grid: int, device: torch.device | str = "cpu") -> Problem:
        """States after the warm-up `(batch, x)`, ring lengths, frame intervals and viscosities `(batch,)`."""
        numbers = uniform(seeds, (3 + NUMBERS,)).to(device)
        start, (length, interval, viscosity) = sine_waves(numbers[:, 3:], grid), numbers[:, :3].unbind(1)
        scalars = {
            "domain_length": self.length * linear(length, (1.0 - self.spread, 1.0 + self.spread)),
            "frame_interval": self.clock.interval * linear(interval, (1.0 - self.time_spread, 1.0 + self.time_spread)),
            "viscosity": linear(viscosity, self.viscosity),
        }
        return Problem({"initial": self._evolve(start, scalars, warm=True)}, scalars)

    def solve(self, problem: Problem) -> dict[str, Tensor]:
        """Trajectory `(batch, time, x)` from the live modes of `initial`; differentiable in all inputs."""
        initial, scalars = problem.fields["initial"], problem.scalars
        return {"initial": initial, **scalars, "u": self._evolve(initial, scalars)}

    def residual(self, fields: Mapping[str, Tensor]) -> Tensor:
        """Defect of each frame after one interval of the integrator, per unit time, `(batch, time - 1, x)`."""
        return spectral.step_residual(
            self,
            fields["u"],
            fields["domain_length"],
            self.clock,
            parameters={"viscosity": fields["viscosity"]},
            interval=fields["frame_interval"],
        )

    def invariants(self, fields: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """`mean` of u (conserved) and `energy`, the mean of u^2 / 2 (bounded), `(batch, time)`."""
        u = fields["u"]
        return {"mean": u.mean(-1), "energy": 0.5 * u.square().mean(-1)}

    def inner_description(self, grid: int) -> dict[str, object]:
        """Integrator, nominal inner step and dealiasing."""
        step = self.clock.interval / self.clock.steps
        return {"method": "Fourier pseudo-spectral, ETDRK4", "step": step, "dealiasing": "2/3 rule"}

    def symbol(self, modes: spectral.Modes) -> Tensor:
        """k^2 - nu k^4."""
        return modes.squared - modes.parameter("viscosity") * modes.squared**2

    def nonlinear(self, modes: spectral.Modes) -> Callable[[Tensor], Tensor]:
        """-(u^2 / 2)_x."""
        return self_advection(modes)

    def _evolve(self, start: Tensor, scalars: Mapping[str, Tensor], warm: bool = False) -> Tensor:
        return spectral.evolve(
            self,
            start,
            scalars["domain_length"],
            self.clock,
            parameters={"viscosity": scalars["viscosity"]},
            interval=scalars["frame_interval"],
            warm=warm,
        )
