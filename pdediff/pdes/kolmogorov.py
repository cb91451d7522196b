"""Two-dimensional Navier-Stokes flow in vorticity form, driven by a sine force (Kolmogorov flow)."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import ClassVar

import numpy as np
import torch
from torch import Tensor

from pdediff.errors import ConfigError
from pdediff.pdes import spectral
from pdediff.pdes.base import Problem, Variable
from pdediff.pdes.random_field import periodic_field
from pdediff.types import NonNegative, NonNegativeInt, Positive, PositiveInt

# Spectrum of the initial vorticity: energy near wave number 4, smooth at small scales.
_ALPHA, _TAU = 6.0, 4.0


@dataclass(frozen=True)
class KolmogorovFlow:
    """Driven two-dimensional turbulence, the standard test of super-resolution and of flow assimilation.

    w_t + u . grad w = nu laplace w - drag w - k cos(k y), periodic on (0, 2 pi)^2, all numbers nondimensional.
    Signs: w = v_x - u_y, (u, v) = (psi_y, -psi_x), laplace psi = -w; the force is sin(k y) along x, whose curl is
    -k cos(k y). Initial vorticity: a Gaussian field of standard deviation `vorticity`, carried over `warm_up` frames.
    Flux form with four transforms, (d_yy - d_xx)(u v) + d_xy(u^2 - v^2) = -u . grad w, 2/3 rule, ETDRK4 in float64
    of step at most 64 `step` / grid, so that (|u| + |v|) k_max h stays near 1, below the limit 2.8 of the scheme.
    Good values: viscosity 1e-3 (Reynolds 1000) is resolved from grid 256 on; at 64 the truncated system is another,
    coarser flow; viscosity 1e-2 is resolved at 64. step 0.01 has error 1e-4 per frame.
    """

    name: ClassVar[str] = "kolmogorov_flow"
    formula: ClassVar[str] = "w_t + u . grad w = nu laplace w - drag w - k cos(k y), w = v_x - u_y"
    boundary: ClassVar[str] = "periodic on (0, 2 pi)^2"
    symmetries: ClassVar[str] = "none"

    viscosity: Positive = 1e-3
    drag: NonNegative = 0.1
    forcing: PositiveInt = 4
    frames: PositiveInt = 64
    frame_step: Positive = 0.112
    warm_up: NonNegativeInt = 360
    step: Positive = 0.01
    vorticity: Positive = 4.0

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
        return {"time": self.frame_step * np.arange(self.frames), "y": points, "x": points.copy()}

    def draw(self, seeds: Sequence[int], grid: int) -> Problem:
        """Vorticity after the warm-up, `(batch, y, x)`. Raises ConfigError where the grid drops the force."""
        self.coordinates(grid)
        start = self.vorticity * periodic_field(seeds, grid, _ALPHA, _TAU)
        return Problem({"initial": self._evolve(start, 1, self.warm_up)[:, 0]})

    def solve(self, problem: Problem) -> dict[str, Tensor]:
        """Trajectory `(batch, time, y, x)` from `initial`, its first frame; differentiable in `initial`."""
        initial = problem.fields["initial"].double()
        return {"initial": initial, "vorticity": self._evolve(initial, self.frames, 0)}

    def residual(self, fields: Mapping[str, Tensor]) -> Tensor:
        """Defect of each frame after one `frame_step` of the integrator, per unit time, `(batch, time - 1, y, x)`."""
        w = fields["vorticity"]
        return spectral.step_residual(self, w, _box(w), self.frame_step, self._step(w.shape[-1]))

    def invariants(self, fields: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """`mean` vorticity (stays 0), `energy` (mean |u|^2 / 2) and `enstrophy` (mean w^2 / 2), `(batch, time)`."""
        w = fields["vorticity"]
        modes = spectral.Modes(w.shape[-1], 2, _box(w))
        velocity = modes.to_space(_velocity_factors(modes).unsqueeze(1) * modes.project(w))
        energy = 0.5 * velocity.square().sum(0).mean((-2, -1))
        return {"mean": w.mean((-2, -1)), "energy": energy, "enstrophy": 0.5 * w.square().mean((-2, -1))}

    def inner_description(self, grid: int) -> dict[str, object]:
        """Integrator, inner step and dealiasing."""
        steps = spectral.substeps(self.frame_step, self._step(grid))
        return {
            "method": "Fourier pseudo-spectral vorticity, flux form, ETDRK4",
            "step": self.frame_step / steps,
            "dealiasing": "2/3 rule",
        }

    def symbol(self, modes: spectral.Modes) -> Tensor:
        """-nu |k|^2 - drag."""
        return -self.viscosity * modes.squared - self.drag

    def nonlinear(self, modes: spectral.Modes) -> Callable[[Tensor], Tensor]:
        """Transport in flux form, and the curl of the force."""
        k_y, k_x = modes.k
        velocity_factors = _velocity_factors(modes)
        mixed, crossed = k_x**2 - k_y**2, -k_x * k_y
        force = torch.zeros_like(mixed)
        force[..., [self.forcing, -self.forcing], 0] = -0.5 * self.forcing
        flux_factors = torch.stack([mixed, crossed]).to(torch.complex128)

        def transport(w: Tensor) -> Tensor:
            u, v = modes.to_space(velocity_factors * w).unbind(0)
            flux = flux_factors * modes.to_modes(torch.stack([u * v, (u - v) * (u + v)]))
            return flux[0] + flux[1] + force

        return transport

    def _evolve(self, start: Tensor, frames: int, warm_up: int) -> Tensor:
        h = self._step(start.shape[-1])
        return spectral.evolve(self, start, _box(start), frames, self.frame_step, h, warm_up)

    def _step(self, grid: int) -> float:
        return self.step * 64.0 / grid


def _box(like: Tensor) -> Tensor:
    return torch.full((1,), 2.0 * math.pi, dtype=torch.float64, device=like.device)


def _velocity_factors(modes: spectral.Modes) -> Tensor:
    """Factors of w that give u and v, `(2, 1, *modes)`; the mean flow is zero."""
    k_y, k_x = modes.k
    inverse = torch.where(modes.squared > 0, 1.0 / modes.squared.clamp(min=1e-300), 0.0)
    return torch.stack([1j * k_y * inverse, -1j * k_x * inverse])
