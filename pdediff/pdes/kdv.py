"""The Korteweg-de Vries equation on a ring, pseudo-spectral."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
import torch
from torch import Tensor

from pdediff.pdes import spectral
from pdediff.pdes.base import Clock, Problem, Variable
from pdediff.pdes.self_advection import self_advection
from pdediff.pdes.sine_waves import NUMBERS, sine_waves
from pdediff.types import Fraction, Positive, uniform


@dataclass(frozen=True)
class KortewegDeVries:
    """Solitons that pass through each other, a test of dispersion and of long-time phase.

    u_t + u u_x + u_xxx = 0, periodic; all numbers are nondimensional. Initial state: ten sines of amplitude
    U[-0.5, 0.5], wave number 1 or 2 and random phase on a ring of length * U[1 - spread, 1 + spread], carried over the
    warm-up, in which it breaks up into solitons 3 c sech^2(sqrt(c) (x - c t) / 2) (Brandstetter, Welling and Worrall
    2022, section 4). ETDRK4 with complex coefficients, 2/3 rule: with their real parts alone, the symbol being
    imaginary, the order would fall to one.
    Good values: step 0.025 (error 1e-6 per 0.4 or less); grid 256 for length 128, 512 where steep draws count.
    """

    name: ClassVar[str] = "korteweg_de_vries"
    formula: ClassVar[str] = "u_t + u u_x + u_xxx = 0"
    boundary: ClassVar[str] = "periodic"
    symmetries: ClassVar[str] = "none"
    levels: ClassVar[Mapping[str, Mapping[str, Any]]] = {}
    conserved: ClassVar[Mapping[str, float]] = {"mass": 1e-6, "momentum": 1e-3, "hamiltonian": 1e-3}

    length: Positive = 128.0
    spread: Fraction = 0.1
    clock: Clock = Clock(frames=140, interval=0.4, step=0.025, warm_up=110)

    def variables(self) -> tuple[Variable, ...]:
        """Initial state and ring length (inputs), u over time (output)."""
        return (
            Variable("initial", ("x",), "1", "u at time 0", "input", -20.0, 20.0),
            Variable("domain_length", (), "1", "length of the periodic box", "input", 0.0),
            Variable("u", ("time", "x"), "1", "height of the wave", "output", -20.0, 20.0),
        )

    def coordinates(self, grid: int) -> dict[str, np.ndarray]:
        """Time from the end of the warm-up; x for the nominal length (scale by domain_length / length)."""
        return {"time": self.clock.times(), "x": self.length * np.arange(grid) / grid}

    def draw(self, seeds: Sequence[int], grid: int, device: torch.device | str = "cpu") -> Problem:
        """States after the warm-up `(batch, x)` and ring lengths `(batch,)`."""
        numbers = uniform(seeds, (1 + NUMBERS,)).to(device)
        domain_length = self.length * (1.0 + self.spread * (2.0 * numbers[:, 0] - 1.0))
        start = sine_waves(numbers[:, 1:], grid)
        initial = spectral.evolve(self, start, domain_length, self.clock, warm=True)
        return Problem({"initial": initial}, {"domain_length": domain_length})

    def solve(self, problem: Problem) -> dict[str, Tensor]:
        """Trajectory `(batch, time, x)` from the live modes of `initial`; differentiable in `initial` and length."""
        initial, domain_length = problem.fields["initial"], problem.scalars["domain_length"]
        u = spectral.evolve(self, initial, domain_length, self.clock)
        return {"initial": initial, "domain_length": domain_length, "u": u}

    def residual(self, fields: Mapping[str, Tensor]) -> Tensor:
        """Defect of each frame after one interval of the integrator, per unit time, `(batch, time - 1, x)`."""
        return spectral.step_residual(self, fields["u"], fields["domain_length"], self.clock)

    def invariants(self, fields: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Conserved means over the ring, `(batch, time)`: of u, u^2 / 2 and u_x^2 / 2 - u^3 / 6.

        They are `mass`, `momentum` and `hamiltonian`; modes below n/3 leave no alias in the mean of u^3.
        """
        u = fields["u"]
        modes = spectral.Modes(u.shape[-1], 1, fields["domain_length"], dtype=u.dtype)
        slope = modes.to_space(modes.cast(1j * modes.k[0]).unsqueeze(1) * modes.project(u))
        hamiltonian = (0.5 * slope.square() - u * u * u / 6.0).mean(-1)
        return {"mass": u.mean(-1), "momentum": 0.5 * u.square().mean(-1), "hamiltonian": hamiltonian}

    def inner_description(self, grid: int) -> dict[str, object]:
        """Integrator, inner step and dealiasing."""
        step = self.clock.interval / self.clock.steps
        return {"method": "Fourier pseudo-spectral, complex ETDRK4", "step": step, "dealiasing": "2/3 rule"}

    def symbol(self, modes: spectral.Modes) -> Tensor:
        """i k^3."""
        return 1j * modes.k[0] ** 3

    def nonlinear(self, modes: spectral.Modes) -> Callable[[Tensor], Tensor]:
        """-(u^2 / 2)_x."""
        return self_advection(modes)
