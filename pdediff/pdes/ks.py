"""The Kuramoto-Sivashinsky equation in one dimension."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import ClassVar

import numpy as np
import torch
from torch import Tensor

from pdediff.pdes import spectral
from pdediff.pdes.base import Problem, Variable
from pdediff.types import Fraction, NonNegativeInt, Positive, PositiveInt, uniform

_SINES = 10


@dataclass(frozen=True)
class KuramotoSivashinsky:
    """Chaotic fronts on a ring, the standard test of long rollouts and of data assimilation.

    u_t + u u_x + u_xx + u_xxxx = 0, periodic; all numbers are nondimensional (Lyapunov time about 10).
    Initial state: ten sines of amplitude U[-0.5, 0.5], wave number 1 or 2 and random phase on a ring of
    length * U[1 - spread, 1 + spread], carried over `warm_up` frames to the attractor (Brandstetter, Welling and
    Worrall 2022, section 4). ETDRK4 of step at most `step`, 2/3 rule, float64.
    Good values: grid 256 for length 64 (spectrum resolved to rounding); step 0.05 (error 3e-7 per 0.2, fourth order).
    """

    name: ClassVar[str] = "kuramoto_sivashinsky"
    formula: ClassVar[str] = "u_t + u u_x + u_xx + u_xxxx = 0"
    boundary: ClassVar[str] = "periodic"
    symmetries: ClassVar[str] = "none"

    length: Positive = 64.0
    spread: Fraction = 0.1
    frames: PositiveInt = 140
    frame_step: Positive = 0.2
    warm_up: NonNegativeInt = 360
    step: Positive = 0.05

    def variables(self) -> tuple[Variable, ...]:
        """Initial state and ring length (inputs), u over time (output)."""
        return (
            Variable("initial", ("x",), "1", "u at time 0, on the attractor", "input", -20.0, 20.0),
            Variable("domain_length", (), "1", "length of the periodic box", "input", 0.0),
            Variable("u", ("time", "x"), "1", "velocity of the front", "output", -20.0, 20.0),
        )

    def coordinates(self, grid: int) -> dict[str, np.ndarray]:
        """Time from the end of the warm-up; x for the nominal length (scale by domain_length / length)."""
        return {"time": self.frame_step * np.arange(self.frames), "x": self.length * np.arange(grid) / grid}

    def draw(self, seeds: Sequence[int], grid: int) -> Problem:
        """States after the warm-up `(batch, x)` and ring lengths `(batch,)`."""
        numbers = uniform(seeds, (1 + 3 * _SINES,))
        domain_length = self.length * (1.0 + self.spread * (2.0 * numbers[:, 0] - 1.0))
        amplitude, wave, phase = numbers[:, 1:].unflatten(1, (3, _SINES, 1)).unbind(1)
        x = torch.arange(grid, dtype=torch.float64) / grid
        angle = 2.0 * math.pi * ((1.0 + (wave >= 0.5)) * x + phase)
        start = ((amplitude - 0.5) * torch.sin(angle)).sum(1)
        initial = spectral.evolve(self, start, domain_length, 1, self.frame_step, self.step, self.warm_up)[:, 0]
        return Problem({"initial": initial}, {"domain_length": domain_length})

    def solve(self, problem: Problem) -> dict[str, Tensor]:
        """Trajectory `(batch, time, x)` from `initial`, its first frame; differentiable in `initial` and length."""
        initial, domain_length = problem.fields["initial"].double(), problem.scalars["domain_length"]
        u = spectral.evolve(self, initial, domain_length, self.frames, self.frame_step, self.step)
        return {"initial": initial, "domain_length": domain_length, "u": u}

    def residual(self, fields: Mapping[str, Tensor]) -> Tensor:
        """Defect of each frame after one `frame_step` of the integrator, per unit time, `(batch, time - 1, x)`."""
        return spectral.step_residual(self, fields["u"], fields["domain_length"], self.frame_step, self.step)

    def invariants(self, fields: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """`mean` of u (conserved) and `energy`, the mean of u^2 / 2 (bounded), `(batch, time)`."""
        u = fields["u"]
        return {"mean": u.mean(-1), "energy": 0.5 * u.square().mean(-1)}

    def inner_description(self, grid: int) -> dict[str, object]:
        """Integrator, inner step and dealiasing."""
        steps = spectral.substeps(self.frame_step, self.step)
        return {"method": "Fourier pseudo-spectral, ETDRK4", "step": self.frame_step / steps, "dealiasing": "2/3 rule"}

    def symbol(self, modes: spectral.Modes) -> Tensor:
        """k^2 - k^4."""
        return modes.squared - modes.squared**2

    def nonlinear(self, modes: spectral.Modes) -> Callable[[Tensor], Tensor]:
        """-(u^2 / 2)_x."""
        factor = -0.5j * modes.k[0]

        def transport(v: Tensor) -> Tensor:
            u = modes.to_space(v)
            return factor * modes.to_modes(u * u)

        return transport
