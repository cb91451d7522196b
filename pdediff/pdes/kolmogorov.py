"""Two-dimensional Navier-Stokes flow in vorticity form, driven by a sine force (Kolmogorov flow)."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, ClassVar

import numpy as np
import torch
from torch import Tensor

from pdediff.errors import ConfigError
from pdediff.pdes import spectral
from pdediff.pdes.base import Clock, Problem, Variable
from pdediff.pdes.random_field import periodic_field
from pdediff.pdes.vorticity import flow_invariants, transport
from pdediff.types import NonNegative, Positive, PositiveInt

# Spectrum of the initial vorticity: energy near wave number 4, smooth at small scales.
_ALPHA, _TAU = 6.0, 4.0


@dataclass(frozen=True)
class KolmogorovFlow:
    """Driven two-dimensional turbulence, the standard test of super-resolution and of flow assimilation.

    w_t + u . grad w = nu laplace w - drag w - k cos(k y), periodic on (0, 2 pi)^2, all numbers nondimensional.
    Signs: w = v_x - u_y, (u, v) = (psi_y, -psi_x), laplace psi = -w; the force is sin(k y) along x, whose curl is
    -k cos(k y). Initial vorticity: a Gaussian field of standard deviation `vorticity`, carried over the warm-up.
    Flux form with four transforms, (d_yy - d_xx)(u v) + d_xy(u^2 - v^2) = -u . grad w, 2/3 rule, ETDRK4 in float64
    of step at most 64 `step` / grid, so that (|u| + |v|) k_max h stays near 1, below the limit 2.8 of the scheme.
    Good values: viscosity 1e-3 (Reynolds 1000) is resolved from grid 256 on; at 64 the truncated system is another,
    coarser flow; viscosity 1e-2 is resolved at 64. step 0.01 has error 1e-4 per frame.
    """

    name: ClassVar[str] = "kolmogorov_flow"
    formula: ClassVar[str] = "w_t + u . grad w = nu laplace w - drag w - k cos(k y), w = v_x - u_y"
    boundary: ClassVar[str] = "periodic on (0, 2 pi)^2"
    symmetries: ClassVar[str] = "none"
    levels: ClassVar[Mapping[str, Mapping[str, Any]]] = {}
    conserved: ClassVar[Mapping[str, float]] = {"mean": 1e-6}

    viscosity: Positive = 1e-3
    drag: NonNegative = 0.1
    forcing: PositiveInt = 4
    vorticity: Positive = 4.0
    clock: Clock = Clock(frames=64, interval=0.112, step=0.01, warm_up=360)

    def variables(self) -> tuple[Variable, ...]:
        """Initial vorticity (input) and vorticity over time (output)."""
        return (
            Variable("initial", ("y", "x"), "1", "vorticity at time 0", "input", -500.0, 500.0),
            Variable("vorticity", ("time", "y", "x"), "1", "vorticity v_x - u_y", "output", -500.0, 500.0),
        )

    def coordinates(self, grid: int) -> dict[str, np.ndarray]:
        """Time from the end of the warm-up, points of the box. Raises ConfigError where the grid drops the force."""
        if 3 * self.forcing >= grid:
            least = 3 * self.forcing + 1
            raise ConfigError(f"grid={grid} drops the force of wave number {self.forcing}: it must be at least {least}")
        points = 2.0 * np.pi * np.arange(grid) / grid
        return {"time": self.clock.times(), "y": points, "x": points.copy()}

    def draw(self, seeds: Sequence[int], grid: int, device: torch.device | str = "cpu") -> Problem:
        """Vorticity after the warm-up, `(batch, y, x)`. Raises ConfigError where the grid drops the force."""
        self.coordinates(grid)
        start = self.vorticity * periodic_field(seeds, grid, _ALPHA, _TAU).to(device)
        return Problem({"initial": spectral.evolve(self, start, _box(start), self._clock(grid), warm=True)})

    def solve(self, problem: Problem) -> dict[str, Tensor]:
        """Trajectory `(batch, time, y, x)` from `initial`, its first frame; differentiable in `initial`."""
        initial = problem.fields["initial"]
        vorticity = spectral.evolve(self, initial, _box(initial), self._clock(initial.shape[-1]))
        return {"initial": initial, "vorticity": vorticity}

    def residual(self, fields: Mapping[str, Tensor]) -> Tensor:
        """Defect of each frame after one interval of the integrator, per unit time, `(batch, time - 1, y, x)`."""
        w = fields["vorticity"]
        return spectral.step_residual(self, w, _box(w), self._clock(w.shape[-1]))

    def invariants(self, fields: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """`mean` vorticity (stays 0), `energy` (mean |u|^2 / 2) and `enstrophy` (mean w^2 / 2), `(batch, time)`."""
        return flow_invariants(fields["vorticity"], _box(fields["vorticity"]))

    def inner_description(self, grid: int) -> dict[str, object]:
        """Integrator, inner step and dealiasing."""
        clock = self._clock(grid)
        return {
            "method": "Fourier pseudo-spectral vorticity, flux form, ETDRK4",
            "step": clock.interval / clock.steps,
            "dealiasing": "2/3 rule",
        }

    def symbol(self, modes: spectral.Modes) -> Tensor:
        """-nu |k|^2 - drag."""
        return -self.viscosity * modes.squared - self.drag

    def nonlinear(self, modes: spectral.Modes) -> Callable[[Tensor], Tensor]:
        """Transport in flux form, and the curl of the force."""
        force = torch.zeros_like(modes.squared)
        force[..., [self.forcing, -self.forcing], 0] = -0.5 * self.forcing
        force, advect = modes.cast(force), transport(modes)
        return lambda w: advect(w) + force

    def _clock(self, grid: int) -> Clock:
        return replace(self.clock, step=self.clock.step * 64.0 / grid)


def _box(like: Tensor) -> Tensor:
    return torch.full((1,), 2.0 * math.pi, dtype=torch.float64, device=like.device)
