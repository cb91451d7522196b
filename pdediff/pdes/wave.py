"""Acoustic waves in a medium of variable speed: from an initial pressure to the pressure over time."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, ClassVar

import numpy as np
import torch
from torch import Tensor

from pdediff.errors import ConfigError
from pdediff.pdes.acoustics import LARGEST_COURANT, Acoustics, State
from pdediff.pdes.base import Clock, Problem, Variable
from pdediff.pdes.random_field import cosine_deviation, cosine_field
from pdediff.types import NonNegativeInt, Positive, PositiveInt, uniform

# Rows of a tile stay near the cache.
TILE_POINTS = 32768
# The grid that the step of the clock belongs to; it shrinks with the cell.
_GRID = 64
# Spectrum of the speed: (-laplace + tau^2)^(-alpha).
_ALPHA, _TAU = 3.0, 6.0


@dataclass(frozen=True)
class AcousticWave:
    """Sound pulses in a random medium, for the recovery of the speed or of the initial state from a few microphones.

    p_tt = c(y, x)^2 laplace p on (0, 1)^2, p_t = 0 at time 0; all numbers are nondimensional. Waves leave the square
    through `layer` matched cells around it; with layer 0 the edge reflects them, p = 0. Speed: the logistic function of
    a smooth Gaussian field, between `low` and `high`. Initial pressure: `pulses` Gaussian bumps of width
    `width` * U[0.75, 1.25], amplitude U[0.5, 1] of either sign and centre U[0.3, 0.7]^2.
    Staggered differences, fourth order in space, leapfrog of second order in time (`acoustics.Acoustics`), of step at
    most 64 `clock.step` / grid: c step / cell is the same on every grid.
    Good values: width 0.06 on grid 64 and more (4 cells); high * clock.step 0.2 / 64 (the limit is 0.6 / 64), so that
    the errors of space and time balance; layer 12 sends back 1e-5.
    `shots.shot_gather` is the forward model of full waveform inversion.
    Raises ConfigError where high is not above low, the step is too large for it, or the clock warms up.
    """

    name: ClassVar[str] = "acoustic_wave"
    formula: ClassVar[str] = "p_tt = c^2 laplace p"
    boundary: ClassVar[str] = "matched layer around the unit square, or p = 0 on its edge"
    symmetries: ClassVar[str] = "square"
    levels: ClassVar[Mapping[str, Mapping[str, Any]]] = {
        "low": {"low": 1.0, "high": 1.25},
        "medium": {"low": 1.0, "high": 2.0},
        "high": {"low": 1.0, "high": 3.0},
    }
    conserved: ClassVar[Mapping[str, float]] = {}

    low: Positive = 1.0
    high: Positive = 2.0
    pulses: PositiveInt = 3
    width: Positive = 0.06
    layer: NonNegativeInt = 12
    clock: Clock = Clock(frames=33, interval=0.03125, step=0.0015625)

    def __post_init__(self) -> None:
        if self.high <= self.low:
            raise ConfigError(f"high must be above low, got low={self.low:g} and high={self.high:g}")
        limit = LARGEST_COURANT / (_GRID * self.high)
        if self.clock.step > limit:
            raise ConfigError(f"clock.step={self.clock.step:g} must be at most {limit:.4g} for high={self.high:g}")
        if self.clock.warm_up:
            raise ConfigError(f"clock.warm_up={self.clock.warm_up} must be 0: the wave starts at rest")

    def variables(self) -> tuple[Variable, ...]:
        """Speed and initial pressure (inputs), pressure over time (output)."""
        lowest, highest = min(self.low, float(np.float32(self.low))), max(self.high, float(np.float32(self.high)))
        # amplitudes add up, and a slow spot may focus: 4 times their sum has not been seen
        largest = 4.0 * self.pulses
        return (
            Variable("speed", ("y", "x"), "1", "speed of sound", "input", lowest, highest),
            Variable("initial", ("y", "x"), "1", "pressure at time 0", "input", -largest, largest),
            Variable("pressure", ("time", "y", "x"), "1", "pressure", "output", -largest, largest),
        )

    def coordinates(self, grid: int) -> dict[str, np.ndarray]:
        """Time, and the cell centres of the unit square."""
        centres = (np.arange(grid) + 0.5) / grid
        return {"time": self.clock.times(), "y": centres, "x": centres.copy()}

    def draw(self, seeds: Sequence[int], grid: int, device: torch.device | str = "cpu") -> Problem:
        """Speeds and pressures `(batch, y, x)`; a finer grid adds modes to the speed."""
        field = torch.sigmoid(cosine_field(seeds, grid, _ALPHA, _TAU) / (0.5 * cosine_deviation(_ALPHA, _TAU)))
        speed = self.low + (self.high - self.low) * field
        amplitude, y, x, width = uniform(seeds, (4, self.pulses, 1, 1)).unbind(1)
        centres = torch.from_numpy(self.coordinates(grid)["x"])
        distance = (centres[:, None] - 0.3 - 0.4 * y) ** 2 + (centres - 0.3 - 0.4 * x) ** 2
        signed = torch.where(amplitude < 0.5, amplitude - 1.0, amplitude)
        bumps = signed * torch.exp(-0.5 * distance / (self.width * (0.75 + 0.5 * width)) ** 2)
        return Problem({"speed": speed, "initial": bumps.sum(1)}).to(device)

    def solve(self, problem: Problem) -> dict[str, Tensor]:
        """Speed, initial pressure and pressure `(batch, time, y, x)`; differentiable in both inputs.

        Under autograd one state per frame is kept and the steps between are recomputed.
        Raises NumericalError where a speed is not positive, or so large that the step is unstable.
        """
        speed, initial = problem.fields["speed"].double(), problem.fields["initial"].double()
        tiles = []
        tile = max(1, TILE_POINTS // speed[0].numel())
        for c, start in zip(speed.split(tile), initial.split(tile), strict=True):
            acoustics = self._acoustics(c)
            tiles.append(torch.stack([acoustics.pressure(state) for state in self._states(acoustics, start)], 1))
        return {"speed": speed, "initial": initial, "pressure": torch.cat(tiles)}

    def residual(self, fields: Mapping[str, Tensor]) -> Tensor:
        """Defect of each frame after one interval of the integrator, per unit time, `(batch, time - 1, y, x)`.

        A frame is carried with the velocities, and the waves in the layer, that the inputs give at its time.
        """
        pressure = fields["pressure"].to(self.clock.dtype)
        acoustics = self._acoustics(fields["speed"])
        steps = self._clock(pressure.shape[-1]).steps
        carried = []
        for state, frame in zip(self._states(acoustics, fields["initial"]), pressure.unbind(1)[:-1], strict=False):
            carried.append(acoustics.pressure(acoustics.recomputed(acoustics.with_pressure(state, frame), steps)))
        return (pressure[:, 1:] - torch.stack(carried, 1)) / self.clock.interval

    def invariants(self, fields: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """`energy` in the square, `(batch, time)`, with the velocities that the inputs give: constant with layer 0."""
        pressure = fields["pressure"].to(self.clock.dtype)
        acoustics = self._acoustics(fields["speed"])
        states = self._states(acoustics, fields["initial"])
        energy = [
            acoustics.energy(acoustics.with_pressure(state, frame))
            for state, frame in zip(states, pressure.unbind(1), strict=True)
        ]
        return {"energy": torch.stack(energy, 1)}

    def inner_description(self, grid: int) -> dict[str, object]:
        """Discretisation, step and layer."""
        clock = self._clock(grid)
        return {
            "method": "staggered differences of fourth order, leapfrog, split perfectly matched layer",
            "step": clock.interval / clock.steps,
            "cell": 1.0 / grid,
            "layer": self.layer / grid,
        }

    def _clock(self, grid: int) -> Clock:
        return replace(self.clock, step=self.clock.step * _GRID / grid)

    def _acoustics(self, speed: Tensor) -> Acoustics:
        clock = self._clock(speed.shape[-1])
        return Acoustics(speed, clock.interval / clock.steps, self.layer, self.high, clock.dtype)

    def _states(self, acoustics: Acoustics, initial: Tensor) -> Iterator[State]:
        """The state of every frame."""
        steps = self._clock(initial.shape[-1]).steps
        state = acoustics.start(initial)
        yield state
        for _ in range(self.clock.frames - 1):
            state = acoustics.recomputed(state, steps)
            yield state
