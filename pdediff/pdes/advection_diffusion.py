"""Advection and diffusion with constant coefficients on a periodic box, solved exactly mode by mode."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, Literal

import numpy as np
import torch
from torch import Tensor

from pdediff.pdes.base import Clock, Problem, Variable
from pdediff.pdes.periodic_gaussian import PeriodicGaussian
from pdediff.pdes.ranges import linear, logarithmic, require_order, require_positive
from pdediff.pdes.spectral import Modes
from pdediff.types import Positive, uniform

BOUND = 12.0
"""Standard deviations of the initial state that no sample exceeds."""
# Frames of a tile of rows: more leave the cache and cost up to twice as much per row.
TILE_NUMBERS = 1 << 20


def propagate(
    initial: Tensor, times: Tensor, length: float, dtype: torch.dtype, velocity: Sequence[Tensor], diffusivity: Tensor
) -> Tensor:
    """Frames `(batch, frames, *space)` at `times` of u_t + velocity . grad u = diffusivity laplace u.

    Each live mode of `initial` `(batch, *space)` times exp(-(i velocity . k + diffusivity |k|^2) t): exact at any
    time. `velocity` holds one number per row `(batch,)` for each axis in array order (nothing at all: no velocity),
    `diffusivity` one number per row; the coefficients are float64, the state has the type `dtype`. On a processor
    rows run in tiles that fit its cache.
    """
    rows = len(initial)
    size = max(2, TILE_NUMBERS // max(1, len(times) * initial[0].numel())) if initial.device.type == "cpu" else rows
    count = -(-rows // size)
    tiles = [slice(rows * i // count, rows * (i + 1) // count) for i in range(count)]
    numbers = [([v[tile] for v in velocity], diffusivity[tile]) for tile in tiles]
    return torch.cat([_frames(initial[t], times, length, dtype, *n) for t, n in zip(tiles, numbers, strict=True)])


def _frames(
    initial: Tensor, times: Tensor, length: float, dtype: torch.dtype, velocity: Sequence[Tensor], diffusivity: Tensor
) -> Tensor:
    if initial.ndim == 2 and len(initial) == 1:  # a lone 1-D transform takes another path and rounds differently
        rates = ([v.expand(2) for v in velocity], diffusivity.expand(2))
        return _frames(initial.expand(2, *initial.shape[1:]), times, length, dtype, *rates)[:1]
    dims = initial.ndim - 1
    row = (-1, *[1] * (dims + 1))
    box = torch.full((1,), length, dtype=torch.float64, device=initial.device)
    modes = Modes(initial.shape[-1], dims, box, dtype=dtype)
    t = times.to(initial.device).reshape(1, *row[:-1])
    factor = torch.exp(-diffusivity.double().reshape(row) * modes.squared * t)
    if velocity:
        frequency = torch.zeros_like(modes.squared)
        for v, k in zip(velocity, modes.k, strict=True):
            frequency = frequency + v.double().reshape(row) * k
        factor = torch.polar(factor, -frequency * t)
    return modes.to_space(modes.cast(factor) * modes.project(initial).unsqueeze(1))


def propagated_residual(
    frames: Tensor, clock: Clock, length: float, velocity: Sequence[Tensor], diffusivity: Tensor
) -> Tensor:
    """(next frame - frame carried one interval forward) / interval, `(batch, frames - 1, *space)`."""
    count = frames.shape[1] - 1
    rates = ([v.repeat_interleave(count) for v in velocity], diffusivity.repeat_interleave(count))
    times = torch.tensor([clock.interval], dtype=torch.float64)
    carried = propagate(frames[:, :-1].flatten(0, 1), times, length, clock.dtype, *rates)[:, 0]
    return (frames[:, 1:] - carried.unflatten(0, (-1, count))) / clock.interval


@dataclass(frozen=True)
class AdvectionDiffusion:
    """Concentration carried by a uniform wind while it spreads: linear and Gaussian, so posteriors are exact.

    u_t + v . grad u = D laplace u, periodic on (0, length)^dims; all numbers are nondimensional. Initial state: a
    Gaussian field of known spectrum (`start`). Each sample draws every component of its velocity v evenly from
    `velocity` and its diffusivity D from `diffusivity`, evenly in the logarithm; equal ends fix the number, and given
    v and D the state at any time is Gaussian. Exact exponential of each Fourier mode, no time stepping: the step of
    the clock is no limit and changes nothing.
    Good values: length 1, velocity -1 to 1, diffusivity 1e-3 to 1e-2 (mode m decays at the rate 39 D m^2).
    Raises ConfigError where a range is not in order or a diffusivity is not positive.
    """

    name: ClassVar[str] = "advection_diffusion"
    formula: ClassVar[str] = "u_t + v . grad u = D laplace u"
    boundary: ClassVar[str] = "periodic"
    symmetries: ClassVar[str] = "none"
    levels: ClassVar[Mapping[str, Mapping[str, Any]]] = {}
    conserved: ClassVar[Mapping[str, float]] = {"mean": 1e-6}

    dims: Literal[1, 2] = 1
    length: Positive = 1.0
    velocity: tuple[float, float] = (-1.0, 1.0)
    diffusivity: tuple[float, float] = (1e-3, 1e-2)
    start: PeriodicGaussian = PeriodicGaussian()
    clock: Clock = Clock(frames=51, interval=0.02, step=0.02)

    def __post_init__(self) -> None:
        require_order(velocity=self.velocity)
        require_positive(diffusivity=self.diffusivity)

    def variables(self) -> tuple[Variable, ...]:
        """Initial state, velocity of each axis and diffusivity (inputs), u over time (output)."""
        bound = BOUND * self.start.deviation(self.dims)
        winds = [Variable(f"velocity_{axis}", (), "1", f"velocity along {axis}", "input") for axis in self._axes]
        return (
            Variable("initial", self._axes, "1", "u at time 0", "input", -bound, bound),
            *winds,
            Variable("diffusivity", (), "1", "diffusivity", "input", 0.0),
            Variable("u", ("time", *self._axes), "1", "concentration", "output", -bound, bound),
        )

    @property
    def _axes(self) -> tuple[str, ...]:
        return ("x",) if self.dims == 1 else ("y", "x")

    def coordinates(self, grid: int) -> dict[str, np.ndarray]:
        """Time, and the points of the box."""
        points = self.length * np.arange(grid) / grid
        return {"time": self.clock.times()} | {axis: points.copy() for axis in self._axes}

    def draw(self, seeds: Sequence[int], grid: int, device: torch.device | str = "cpu") -> Problem:
        """States `(batch, [y,] x)`, velocities and diffusivities `(batch,)`."""
        numbers = uniform(seeds, (1 + self.dims,)).to(device)
        winds = [f"velocity_{axis}" for axis in self._axes]
        scalars = {name: linear(n, self.velocity) for name, n in zip(winds, numbers[:, 1:].unbind(1), strict=True)}
        scalars["diffusivity"] = logarithmic(numbers[:, 0], self.diffusivity)
        initial = self.start.draw(seeds, grid, self.dims).to(device)
        warm = torch.tensor([self.clock.warm_up * self.clock.interval], dtype=torch.float64)
        return Problem({"initial": self._propagate(initial, warm, scalars)[:, 0]}, scalars)

    def solve(self, problem: Problem) -> dict[str, Tensor]:
        """Trajectory `(batch, time, [y,] x)` from the live modes of `initial`; differentiable in all inputs."""
        initial, scalars = problem.fields["initial"], problem.scalars
        u = self._propagate(initial, torch.from_numpy(self.clock.times()), scalars)
        return {"initial": initial, **scalars, "u": u}

    def residual(self, fields: Mapping[str, Tensor]) -> Tensor:
        """Defect of each frame after one exact interval, per unit time, `(batch, time - 1, [y,] x)`."""
        return propagated_residual(fields["u"], self.clock, self.length, *self._rates(fields))

    def invariants(self, fields: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """`mean` of u (conserved) and `energy`, the mean of u^2 / 2 (decays), `(batch, time)`."""
        u = fields["u"].flatten(2)
        return {"mean": u.mean(-1), "energy": 0.5 * u.square().mean(-1)}

    def inner_description(self, grid: int) -> dict[str, object]:
        """Method; there is no inner step."""
        return {"method": "exact exponential of each Fourier mode", "step": self.clock.interval}

    def _rates(self, numbers: Mapping[str, Tensor]) -> tuple[list[Tensor], Tensor]:
        return [numbers[f"velocity_{axis}"] for axis in self._axes], numbers["diffusivity"]

    def _propagate(self, initial: Tensor, times: Tensor, scalars: Mapping[str, Tensor]) -> Tensor:
        return propagate(initial, times, self.length, self.clock.dtype, *self._rates(scalars))
