"""Compressible Euler equations of an ideal gas in two dimensions: shocks, contacts and shear layers."""

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
from pdediff.pdes.gas_dynamics import FLOOR, GasDynamics, conserved, primitive
from pdediff.pdes.ranges import linear, require_positive
from pdediff.types import NonNegative, Positive, uniform

_NAMES = ("density", "velocity_x", "velocity_y", "pressure")
_MODES = 6


@dataclass(frozen=True)
class Euler:
    """Gas flow with shocks, for the recovery of what happened before them.

    rho_t + div m = 0, m_t + div(m u) + grad p = 0, E_t + div((E + p) u) = 0 on the unit square, m = rho u,
    E = p / (gamma - 1) + rho |u|^2 / 2; all numbers are nondimensional. Values are point values at cell centres.
    `initial`: "quadrants" (four constant states around a point within 0.1 of the centre, density, pressure and both
    velocities drawn evenly; outflow at the edge) or "kelvin_helmholtz" (two shear layers at y = 1/4 and 3/4, each
    displaced by six sines of height 0.02 in all; speeds -velocity outside and +velocity inside, one density for
    each, one pressure, across the layers sines of height 0.02 velocity; periodic). `thickness` is the width of the
    tanh between states, 0 for jumps.
    `scheme`: fifth-order A-WENO (Jiang, Shu and Zhang 2013), WENO5-Z in characteristic variables, with HLLC fluxes or
    with central-upwind fluxes (Kurganov and Lin 2007); third-order Runge-Kutta (Shu and Osher 1988) of step at most
    64 `clock.step` / grid; where density or pressure would be lost, limited fluxes.
    Good values: Courant numbers (|u| + c) step 64 below 0.5, reported as the invariant `courant`.
    Raises ConfigError where a range is not in order or not above zero, and where gamma is not above 1.
    """

    name: ClassVar[str] = "euler"
    formula: ClassVar[str] = "rho_t + div(rho u) = 0, (rho u)_t + div(rho u u) + grad p = 0, E_t + div((E + p) u) = 0"
    symmetries: ClassVar[str] = "none"
    levels: ClassVar[Mapping[str, Mapping[str, Any]]] = {
        "low": {"velocity": 0.1},
        "medium": {"velocity": 0.4},
        "high": {"velocity": 0.8},
    }

    initial: Literal["quadrants", "kelvin_helmholtz"] = "quadrants"
    scheme: Literal["hllc_aweno", "central_upwind_aweno"] = "hllc_aweno"
    gamma: Positive = 1.4
    density: tuple[float, float] = (0.2, 1.0)
    pressure: tuple[float, float] = (0.2, 1.0)
    velocity: Positive = 0.4
    thickness: NonNegative = 0.0
    clock: Clock = Clock(frames=21, interval=0.02, step=0.002)

    def __post_init__(self) -> None:
        require_positive(density=self.density, pressure=self.pressure)
        if self.gamma <= 1.0:
            raise ConfigError(f"gamma={self.gamma:g} must be above 1")

    @property
    def boundary(self) -> str:
        """Periodic, or gas leaves through all edges."""
        return "periodic" if self.initial == "kelvin_helmholtz" else "outflow: zero gradient at the edges"

    @property
    def conserved(self) -> Mapping[str, float]:
        """Mass, momentum and energy where nothing leaves; float32 storage rounds them by 1e-7."""
        kept = ("mass", "momentum_x", "momentum_y", "energy") if self.initial == "kelvin_helmholtz" else ()
        return dict.fromkeys(kept, 1e-6)

    def variables(self) -> tuple[Variable, ...]:
        """Initial density, velocities and pressure (inputs), the same over time (outputs)."""
        most = math.inf
        bounds = ((FLOOR, most), (-100.0, 100.0), (-100.0, 100.0), (FLOOR, most))
        named = list(zip(_NAMES, bounds, strict=True))
        return (
            *(Variable(f"initial_{n}", ("y", "x"), "1", f"{n} at time 0", "input", *span) for n, span in named),
            *(Variable(n, ("time", "y", "x"), "1", n, "output", *span) for n, span in named),
        )

    def coordinates(self, grid: int) -> dict[str, np.ndarray]:
        """Time and cell centres of the unit square."""
        centres = (np.arange(grid) + 0.5) / grid
        return {"time": self.clock.times(), "y": centres, "x": centres.copy()}

    def draw(self, seeds: Sequence[int], grid: int, device: torch.device | str = "cpu") -> Problem:
        """Density, velocities and pressure after the warm-up, `(batch, y, x)`; the same on every grid without it."""
        centres = (torch.arange(grid, dtype=torch.float64) + 0.5) / grid
        y, x = torch.meshgrid(centres, centres, indexing="ij")
        states = self._quadrants if self.initial == "quadrants" else self._shear_layers
        start = conserved(states(seeds, x, y), self.gamma).to(device)
        warm = runge_kutta.evolve(self._gas.advance, start, self._clock(grid), warm=True)
        parts = primitive(warm.double(), self.gamma)
        return Problem({f"initial_{name}": part for name, part in zip(_NAMES, parts, strict=True)})

    def solve(self, problem: Problem) -> dict[str, Tensor]:
        """Trajectories `(batch, time, y, x)` from the initial fields, their first frames; differentiable in them."""
        inputs = {f"initial_{name}": problem.fields[f"initial_{name}"] for name in _NAMES}
        start = tuple(inputs.values())
        clock = self._clock(start[0].shape[-1])
        states = runge_kutta.evolve(self._gas.advance, conserved(start, self.gamma), clock)
        parts = primitive(states[:, 1:], self.gamma, 2)
        outputs = {
            name: torch.cat([first.to(clock.dtype).unsqueeze(1), rest], 1)
            for name, first, rest in zip(_NAMES, start, parts, strict=True)
        }
        return {**inputs, **outputs}

    def residual(self, fields: Mapping[str, Tensor]) -> Tensor:
        """Defect of density, momenta and energy of each frame after one interval of the integrator, per unit time.

        `(batch, time - 1, 4, y, x)`.
        """
        states = self._states(fields)
        return runge_kutta.step_residual(self._gas.advance, states, self._clock(states.shape[-1]))

    def invariants(self, fields: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Means of `mass`, `momentum_x`, `momentum_y` and `energy`, and the `courant` number, `(batch, time)`.

        The first four are constant where nothing leaves; `courant` is the largest (|u| + c) h / dx of a direction.
        """
        means = self._states(fields).mean((-2, -1)).unbind(2)
        sound = (self.gamma * fields["pressure"] / fields["density"]).sqrt()
        speed = torch.maximum(fields["velocity_x"].abs(), fields["velocity_y"].abs()) + sound
        grid = speed.shape[-1]
        clock = self._clock(grid)
        names = ("mass", "momentum_x", "momentum_y", "energy")
        return {
            **dict(zip(names, means, strict=True)),
            "courant": speed.amax((-2, -1)) * (clock.interval / clock.steps * grid),
        }

    def inner_description(self, grid: int) -> dict[str, object]:
        """Scheme and inner step."""
        fluxes = "HLLC" if self.scheme == "hllc_aweno" else "central-upwind"
        clock = self._clock(grid)
        return {
            "method": f"A-WENO of fifth order, WENO5-Z in characteristic variables, {fluxes} fluxes, SSPRK3",
            "step": clock.interval / clock.steps,
            "limiter": "convex limiting towards Rusanov fluxes where density or pressure would be lost",
        }

    @property
    def _gas(self) -> GasDynamics:
        return GasDynamics(self.gamma, "periodic" if self.boundary == "periodic" else "outflow", self.scheme)

    def _clock(self, grid: int) -> Clock:
        return replace(self.clock, step=self.clock.step * 64.0 / grid)

    def _states(self, fields: Mapping[str, Tensor]) -> Tensor:
        parts = [fields[name].flatten(0, 1) for name in _NAMES]
        return conserved(parts, self.gamma).unflatten(0, fields["density"].shape[:2])

    def _rise(self, distance: Tensor) -> Tensor:
        """From 0 to 1 across the zero of a signed distance."""
        if self.thickness == 0.0:
            return (distance > 0.0).to(distance)
        return torch.sigmoid(distance * (2.0 / self.thickness))

    def _quadrants(self, seeds: Sequence[int], x: Tensor, y: Tensor) -> tuple[Tensor, ...]:
        numbers = uniform(seeds, (18,))[:, :, None, None]
        right = self._rise(x - 0.4 - 0.2 * numbers[:, 0])
        top = self._rise(y - 0.4 - 0.2 * numbers[:, 1])
        shares = torch.stack([(1 - top) * (1 - right), (1 - top) * right, top * (1 - right), top * right], 1)
        speeds = (-self.velocity, self.velocity)
        spans = (self.density, speeds, speeds, self.pressure)
        values = numbers[:, 2:].unflatten(1, (4, 4)).unbind(1)
        return tuple((linear(n, span) * shares).sum(1) for n, span in zip(values, spans, strict=True))

    def _shear_layers(self, seeds: Sequence[int], x: Tensor, y: Tensor) -> tuple[Tensor, ...]:
        numbers = uniform(seeds, (3 + 6 * _MODES,))[:, :, None, None]
        heights, phases = numbers[:, 3:].unflatten(1, (2, 3, _MODES)).unbind(1)
        modes = torch.arange(1.0, _MODES + 1.0, dtype=torch.float64)[:, None, None]
        waves = (heights * torch.sin(2.0 * math.pi * (modes * x + phases))).sum(2) * (0.02 / _MODES)
        common, opposite, across = waves.unbind(1)
        # zero near y = 1/4 + common + opposite and y = 3/4 + common - opposite, with slope one
        distance = -torch.cos(2.0 * math.pi * (y - common)) / (2.0 * math.pi) - opposite
        inside = self._rise(distance)
        outer, inner = (linear(numbers[:, i], self.density) for i in (0, 1))
        density = outer + (inner - outer) * inside
        along = self.velocity * (2.0 * inside - 1.0)
        pressure = linear(numbers[:, 2], self.pressure).expand_as(density)
        return density, along, self.velocity * across, pressure.contiguous()
