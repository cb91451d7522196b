"""The Allen-Cahn equation in two dimensions: phases that separate, and coarsen by the curvature of their walls."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
import torch
from torch import Tensor

from pdediff.pdes import spectral
from pdediff.pdes.base import Clock, Problem, Variable
from pdediff.pdes.periodic_gaussian import PeriodicGaussian
from pdediff.types import Positive


@dataclass(frozen=True)
class AllenCahn:
    """Phase separation, the gradient flow of a double well: surrogates that must keep bounds and lose energy.

    u_t = width^2 laplace u + u - u^3, periodic on the unit square, nondimensional (Allen and Cahn 1979). Start:
    u = tanh(g), g a Gaussian field (`start`): |u| < 1, and stays so. Walls tanh(d / (sqrt 2 width)) form within a few
    time units and move by curvature, a disc of radius R shrinking as R R_t = -width^2. Fourier, ETDRK4 with diffusion
    and linear growth exact; the cubic product is filtered by the 2/3 rule, which frees it of aliases only where
    its spectrum has decayed by |m| = n / 3.
    Good values: width 0.02 on grid 128, 0.03 on 64, so that a wall takes 5 cells or more; step 0.1.
    """

    name: ClassVar[str] = "allen_cahn"
    formula: ClassVar[str] = "u_t = width^2 laplace u + u - u^3"
    boundary: ClassVar[str] = "periodic on the unit square"
    symmetries: ClassVar[str] = "square"
    levels: ClassVar[Mapping[str, Mapping[str, Any]]] = {}
    conserved: ClassVar[Mapping[str, float]] = {}

    width: Positive = 0.02
    start: PeriodicGaussian = PeriodicGaussian(sigma=1200.0, alpha=3.0, tau=15.0)
    clock: Clock = Clock(frames=51, interval=1.0, step=0.1)

    def variables(self) -> tuple[Variable, ...]:
        """Initial state (input), u over time (output)."""
        return (
            Variable("initial", ("y", "x"), "1", "u at time 0", "input", -1.05, 1.05),
            Variable("u", ("time", "y", "x"), "1", "phase, -1 or 1", "output", -1.05, 1.05),
        )

    def coordinates(self, grid: int) -> dict[str, np.ndarray]:
        """Time from the end of the warm-up, points of the square."""
        points = np.arange(grid) / grid
        return {"time": self.clock.times(), "y": points, "x": points.copy()}

    def draw(self, seeds: Sequence[int], grid: int, device: torch.device | str = "cpu") -> Problem:
        """States after the warm-up, `(batch, y, x)`."""
        start = torch.tanh(self.start.draw(seeds, grid, 2)).to(device)
        return Problem({"initial": spectral.evolve(self, start, _box(start), self.clock, warm=True)})

    def solve(self, problem: Problem) -> dict[str, Tensor]:
        """Trajectory `(batch, time, y, x)` from `initial`, its first frame; differentiable in `initial`."""
        initial = problem.fields["initial"]
        return {"initial": initial, "u": spectral.evolve(self, initial, _box(initial), self.clock)}

    def residual(self, fields: Mapping[str, Tensor]) -> Tensor:
        """Defect of each frame after one interval of the integrator, per unit time, `(batch, time - 1, y, x)`."""
        return spectral.step_residual(self, fields["u"], _box(fields["u"]), self.clock)

    def invariants(self, fields: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """`mean`, and `energy`, the mean of width^2 |grad u|^2 / 2 + (1 - u^2)^2 / 4, which falls; `(batch, time)`."""
        u = fields["u"].double()
        modes = spectral.Modes(u.shape[-1], 2, _box(u))
        spectrum = modes.project(u)
        slopes = [modes.to_space(1j * k * spectrum).square().mean((-2, -1)) for k in modes.k]
        well = (1.0 - u.square()).square().mean((-2, -1))
        return {"mean": u.mean((-2, -1)), "energy": 0.5 * self.width**2 * (slopes[0] + slopes[1]) + 0.25 * well}

    def inner_description(self, grid: int) -> dict[str, object]:
        """Integrator, inner step and dealiasing."""
        return {
            "method": "Fourier pseudo-spectral, ETDRK4",
            "step": self.clock.interval / self.clock.steps,
            "dealiasing": "2/3 rule, cubic product not free of aliases",
        }

    def symbol(self, modes: spectral.Modes) -> Tensor:
        """1 - width^2 k^2."""
        return 1.0 - self.width**2 * modes.squared

    def nonlinear(self, modes: spectral.Modes) -> Callable[[Tensor], Tensor]:
        """-u^3."""
        minus = modes.weigh(torch.full_like(modes.squared, -1.0))

        def well(v: Tensor) -> Tensor:
            u = modes.to_space(v)
            return minus(torch.mul(u * u, u, out=spectral.spare(u)))

        return well


def _box(like: Tensor) -> Tensor:
    return torch.ones(1, dtype=torch.float64, device=like.device)
