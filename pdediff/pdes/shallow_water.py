"""Shallow water over a bottom: dam breaks and spreading bumps in two dimensions."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, ClassVar, Literal

import numpy as np
import torch
from torch import Tensor

from pdediff.errors import ConfigError
from pdediff.pdes import runge_kutta
from pdediff.pdes.base import Clock, Problem, Variable
from pdediff.pdes.ranges import linear, require_order
from pdediff.pdes.saint_venant import SaintVenant, velocities
from pdediff.types import NonNegative, Positive, uniform

_FLOW = ("depth", "velocity_x", "velocity_y")
_BUMPS = 4


@dataclass(frozen=True)
class ShallowWater:
    """Waves and bores on a shallow layer, for the recovery of where the water came from or of the bottom below it.

    h_t + div(h u) = 0, (h u)_t + div(h u u) + g h grad(h + b) = 0 on the unit square; h is the depth and b the height
    of the bottom, all numbers are nondimensional with depths of order one. Water is released from rest.
    `initial`: "dam_break" (a column within 0.15 of the centre, of radius U[0.1, 0.25], higher than the rest by a
    number of `rise`; its edge is a tanh of width `thickness`, 0 for a jump) or "bumps" (four Gaussian bumps anywhere,
    of radius U[0.05, 0.1] and height from `rise`). The bottom is the sum of four such bumps, `bottom` high in all; 0
    is flat. The surface elsewhere is `depth` above the lowest bottom. Walls reflect, or there are none (periodic).
    A-WENO of fifth order with HLL fluxes, third-order Runge-Kutta of step at most 64 `clock.step` / grid; lakes at rest
    stay at rest to rounding, also with dry shores, and depths do not fall below zero.
    Good values: Courant numbers (|u| + c) step 64 below 0.5, reported as the invariant `courant`.
    Raises ConfigError where `rise` is not in order, falls below zero, or where `bottom` reaches `depth`.
    """

    name: ClassVar[str] = "shallow_water"
    formula: ClassVar[str] = "h_t + div(h u) = 0, (h u)_t + div(h u u) + g h grad(h + b) = 0"
    symmetries: ClassVar[str] = "none"
    levels: ClassVar[Mapping[str, Mapping[str, Any]]] = {
        "low": {"rise": (0.02, 0.1)},
        "medium": {"rise": (0.2, 0.5)},
        "high": {"rise": (0.8, 1.6)},
    }
    conserved: ClassVar[Mapping[str, float]] = {"mass": 1e-6}

    initial: Literal["dam_break", "bumps"] = "dam_break"
    walls: Literal["reflective", "periodic"] = "reflective"
    gravity: Positive = 1.0
    depth: Positive = 1.0
    rise: tuple[float, float] = (0.2, 1.0)
    bottom: NonNegative = 0.3
    thickness: NonNegative = 0.0
    clock: Clock = Clock(frames=51, interval=0.02, step=0.004)

    def __post_init__(self) -> None:
        require_order(rise=self.rise)
        if self.rise[0] < 0.0:
            raise ConfigError(f"rise=[{self.rise[0]:g}, {self.rise[1]:g}] must not fall below zero")
        if self.bottom >= self.depth:
            raise ConfigError(f"bottom={self.bottom:g} must stay below depth={self.depth:g}")

    @property
    def boundary(self) -> str:
        """Periodic, or walls on all sides."""
        return "periodic" if self.walls == "periodic" else "reflective walls"

    def variables(self) -> tuple[Variable, ...]:
        """Bottom, initial depth and velocities (inputs), depth and velocities over time (outputs)."""
        spans = ((0.0, math.inf), (-100.0, 100.0), (-100.0, 100.0))
        named = list(zip(_FLOW, spans, strict=True))
        return (
            Variable("bottom", ("y", "x"), "1", "height of the bottom", "input", -100.0, 100.0),
            *(Variable(f"initial_{n}", ("y", "x"), "1", f"{n} at time 0", "input", *span) for n, span in named),
            *(Variable(n, ("time", "y", "x"), "1", n, "output", *span) for n, span in named),
        )

    def coordinates(self, grid: int) -> dict[str, np.ndarray]:
        """Time and cell centres of the unit square."""
        centres = (np.arange(grid) + 0.5) / grid
        return {"time": self.clock.times(), "y": centres, "x": centres.copy()}

    def draw(self, seeds: Sequence[int], grid: int, device: torch.device | str = "cpu") -> Problem:
        """Bottom, depth and velocities after the warm-up, `(batch, y, x)`; the same on every grid without it."""
        centres = (torch.arange(grid, dtype=torch.float64) + 0.5) / grid
        y, x = torch.meshgrid(centres, centres, indexing="ij")
        numbers = uniform(seeds, (4 + 8 * _BUMPS,))[:, :, None, None]
        below, above = numbers[:, 4:].unflatten(1, (2, 4, _BUMPS)).unbind(1)
        shares = below[:, 3] / below[:, 3].sum(1, keepdim=True)
        bottom = self.bottom * (shares * _gaussians(below, x, y)).sum(1)
        if self.initial == "bumps":
            raised = (linear(above[:, 3], self.rise) * _gaussians(above, x, y)).sum(1)
        else:
            raised = self._column(numbers[:, :4], x, y)
        depth = (self.depth - bottom + raised).to(device)
        bottom = bottom.to(device)
        rest = torch.zeros_like(depth)
        start = torch.stack([depth, rest, rest], 1)
        water = self._water
        clock = self._clock(grid)
        warm = runge_kutta.evolve(water.advance, start, clock, statics=water.bottom(bottom), warm=True)
        flow = dict(zip(_FLOW, velocities(warm.double()), strict=True))
        return Problem({"bottom": bottom, **{f"initial_{name}": part for name, part in flow.items()}})

    def solve(self, problem: Problem) -> dict[str, Tensor]:
        """Trajectories `(batch, time, y, x)` from the initial fields, their first frames; differentiable in them."""
        inputs = {name: problem.fields[name] for name in ("bottom", *(f"initial_{n}" for n in _FLOW))}
        bottom, *start = inputs.values()
        clock, water = self._clock(bottom.shape[-1]), self._water
        states = runge_kutta.evolve(water.advance, _state(start), clock, statics=water.bottom(bottom))
        outputs = {
            name: torch.cat([first.to(clock.dtype).unsqueeze(1), rest], 1)
            for name, first, rest in zip(_FLOW, start, velocities(states[:, 1:], 2), strict=True)
        }
        return {**inputs, **outputs}

    def residual(self, fields: Mapping[str, Tensor]) -> Tensor:
        """Defect of depth and discharges of each frame after one interval of the integrator, per unit time.

        `(batch, time - 1, 3, y, x)`.
        """
        states = _state([fields[name] for name in _FLOW], 2)
        water = self._water
        statics = water.bottom(fields["bottom"])
        return runge_kutta.step_residual(water.advance, states, self._clock(states.shape[-1]), statics=statics)

    def invariants(self, fields: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """`mass` (mean depth, constant), `energy` (falls at bores) and the `courant` number, `(batch, time)`.

        energy is the mean of h |u|^2 / 2 + g ((h + b)^2 - b^2) / 2; `courant` is the largest (|u| + c) h / dx of a
        direction.
        """
        depth, u, v = (fields[name] for name in _FLOW)
        potential = self.gravity * depth * (depth + 2.0 * fields["bottom"].unsqueeze(1))
        energy = 0.5 * (depth * (u.square() + v.square()) + potential)
        speed = torch.maximum(u.abs(), v.abs()) + (self.gravity * depth).sqrt()
        clock, grid = self._clock(depth.shape[-1]), depth.shape[-1]
        return {
            "mass": depth.mean((-2, -1)),
            "energy": energy.mean((-2, -1)),
            "courant": speed.amax((-2, -1)) * (clock.interval / clock.steps * grid),
        }

    def inner_description(self, grid: int) -> dict[str, object]:
        """Scheme and inner step."""
        clock = self._clock(grid)
        return {
            "method": "well-balanced A-WENO of fifth order, WENO5-Z in characteristic variables, HLL fluxes, SSPRK3",
            "step": clock.interval / clock.steps,
            "limiter": "hydrostatic reconstruction of first order where water is thinner than 0.03 or would be lost",
        }

    @property
    def _water(self) -> SaintVenant:
        return SaintVenant(self.gravity, self.walls)

    def _clock(self, grid: int) -> Clock:
        return replace(self.clock, step=self.clock.step * 64.0 / grid)

    def _column(self, numbers: Tensor, x: Tensor, y: Tensor) -> Tensor:
        centre_x, centre_y = 0.35 + 0.3 * numbers[:, 0], 0.35 + 0.3 * numbers[:, 1]
        radius, rise = 0.1 + 0.15 * numbers[:, 2], linear(numbers[:, 3], self.rise)
        inside = radius - ((x - centre_x).square() + (y - centre_y).square()).sqrt()
        if self.thickness == 0.0:
            return rise * (inside > 0.0)
        return rise * torch.sigmoid(inside * (2.0 / self.thickness))


def _state(flow: Sequence[Tensor], dim: int = 1) -> Tensor:
    """Depth and discharges from depth and velocities."""
    depth, velocity_x, velocity_y = flow
    return torch.stack([depth, depth * velocity_x, depth * velocity_y], dim)


def _gaussians(numbers: Tensor, x: Tensor, y: Tensor) -> Tensor:
    """Bumps `(batch, _BUMPS, y, x)` of height one on a periodic square, by places and radius in [0, 1)."""
    place_x, place_y, size = numbers[:, 0], numbers[:, 1], 0.05 + 0.05 * numbers[:, 2]
    squares = torch.sin(math.pi * (x - place_x)).square() + torch.sin(math.pi * (y - place_y)).square()
    return torch.exp(squares / (-2.0 * math.pi**2 * size.square()))
