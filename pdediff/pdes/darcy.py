"""Steady Darcy flow with a random permeability on the unit square."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, Literal

import numpy as np
import torch
from torch import Tensor

from pdediff.errors import ConfigError
from pdediff.pdes import finite_volume
from pdediff.pdes.base import Problem, Variable
from pdediff.pdes.random_field import cosine_field
from pdediff.types import Positive


@dataclass(frozen=True)
class Darcy:
    """Pressure of a flow through a porous square, for the recovery of its permeability from a few sensors.

    -div(a grad u) = 1 on (0, 1)^2, u = 0 on the edge; all numbers are nondimensional.
    With g a Gaussian field of covariance tau^(2 alpha - 2) (-laplace + tau^2)^(-alpha), Neumann, zero mean:
    a = high where g >= 0 and low elsewhere ("two_phase"; Li et al. 2021, section 5.2) or a = exp(log_scale g)
    ("log_normal"). Cell-centred finite volumes with harmonic face means: second order for smooth a.
    Good values: low 3, high 12, alpha 2, tau 3 (g has standard deviation 0.29); log_scale 3 gives a
    log-permeability of standard deviation near 0.9 and a contrast near 60. Levels differ by contrast: 2, 4 and 100 of
    the two phases, near 8, 60 and 1000 of log-normal fields.
    Raises ConfigError where high is not above low.
    """

    name: ClassVar[str] = "darcy"
    formula: ClassVar[str] = "-div(a grad u) = 1"
    boundary: ClassVar[str] = "u = 0 on the edge of the unit square"
    symmetries: ClassVar[str] = "square"
    levels: ClassVar[Mapping[str, Mapping[str, Any]]] = {
        "low": {"low": 3.0, "high": 6.0, "log_scale": 1.5},
        "medium": {"low": 3.0, "high": 12.0, "log_scale": 3.0},
        "high": {"low": 3.0, "high": 300.0, "log_scale": 5.0},
    }
    conserved: ClassVar[Mapping[str, float]] = {}
    clock: ClassVar[None] = None

    permeability: Literal["two_phase", "log_normal"] = "two_phase"
    low: Positive = 3.0
    high: Positive = 12.0
    log_scale: Positive = 3.0
    alpha: Positive = 2.0
    tau: Positive = 3.0

    def __post_init__(self) -> None:
        if self.high <= self.low:
            raise ConfigError(f"high must be above low, got low={self.low:g} and high={self.high:g}")

    def variables(self) -> tuple[Variable, ...]:
        """Permeability (input) and pressure (output)."""
        lower, upper, highest = 0.0, math.inf, math.inf
        if self.permeability == "two_phase":
            lower = min(self.low, float(np.float32(self.low)))
            upper = max(self.high, float(np.float32(self.high)))
            # Talenti (1976): u is at most that of a disc of equal area with a = low, 1 / (4 pi low)
            highest = 0.1 / self.low
        return (
            Variable("permeability", ("y", "x"), "1", "permeability", "input", lower, upper),
            Variable("pressure", ("y", "x"), "1", "pressure", "output", 0.0, highest),
        )

    def coordinates(self, grid: int) -> dict[str, np.ndarray]:
        """Cell centres of the unit square."""
        centres = (np.arange(grid) + 0.5) / grid
        return {"y": centres, "x": centres.copy()}

    def draw(self, seeds: Sequence[int], grid: int, device: torch.device | str = "cpu") -> Problem:
        """Permeability fields `(batch, y, x)`; a finer grid shows the same field with more modes."""
        g = cosine_field(seeds, grid, self.alpha, self.tau).to(device)
        if self.permeability == "log_normal":
            return Problem({"permeability": torch.exp(self.log_scale * g)})
        return Problem({"permeability": torch.full_like(g, self.low).masked_fill_(g >= 0, self.high)})

    def solve(self, problem: Problem) -> dict[str, Tensor]:
        """Permeability and pressure; relative residual 1e-10 by conjugate gradients, or direct factorisation.

        Differentiable to any order, forwards and backwards (`finite_volume.solve`).
        Raises NumericalError where the permeability is not positive and finite.
        """
        a = problem.fields["permeability"].double()
        return {"permeability": a, "pressure": finite_volume.solve(a, torch.ones_like(a))}

    def residual(self, fields: Mapping[str, Tensor]) -> Tensor:
        """-div(a grad u) - 1 at the cell centres, `(batch, y, x)`."""
        return finite_volume.apply(fields["permeability"], fields["pressure"]) - 1.0

    def invariants(self, fields: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """`outflow`: flux through the edge, which equals the integral of the source, 1."""
        return {"outflow": finite_volume.outflow(fields["permeability"], fields["pressure"])}

    def inner_description(self, grid: int) -> dict[str, object]:
        """Discretisation and solver."""
        return {
            "method": "cell-centred finite volumes, harmonic face means, half-cell Dirichlet",
            "solver": f"sine-preconditioned conjugate gradients to {finite_volume.TOLERANCE:g}; "
            f"sparse LU for rough a of contrast above {finite_volume.ROUGH_CONTRAST:g}",
            "cell": 1.0 / grid,
        }
