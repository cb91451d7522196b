"""The Helmholtz equation with a constant wave number and a random source on the unit square."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from pdediff.errors import ConfigError
from pdediff.pdes import sine_transform
from pdediff.pdes.base import Problem, Variable
from pdediff.pdes.random_field import cosine_deviation, cosine_field
from pdediff.types import Positive

_GAP = 0.1


@dataclass(frozen=True)
class Helmholtz:
    """Standing wave of a random source in a box, for the recovery of one from a few sensors on the other.

    laplace u + k^2 u = f on (0, 1)^2, u = 0 on the edge, k = `wave_number`; all numbers are nondimensional. f is the
    Gaussian field of `Poisson`, set to 0 on the edge, so that posteriors are exact. Nodes i / (grid - 1), edge too;
    "five_point" is the second-order stencil, "spectral" the sine series, both solved exactly by sine transforms.
    Setting, sign and grid of the benchmark of Huang et al. (2024, DiffusionPDE, section 4): grid 128, five_point,
    wave_number 1, alpha 2, tau 3.
    Good values: k^2 far from the resonances pi^2 (m^2 + n^2), as 1, 2 pi and 6 pi are; the stencil lowers a resonance
    by up to k^4 h^2 / 12, so that 6 pi needs grid 64.
    Raises ConfigError where k^2 is within 0.1 of a resonance, or where the grid moves one close to it.
    """

    name: ClassVar[str] = "helmholtz"
    formula: ClassVar[str] = "laplace u + k^2 u = f"
    boundary: ClassVar[str] = "u = 0 on the edge of the unit square"
    symmetries: ClassVar[str] = "square"
    levels: ClassVar[Mapping[str, Mapping[str, Any]]] = {
        "low": {"wave_number": 1.0},
        "medium": {"wave_number": 6.2832},
        "high": {"wave_number": 18.85},
    }
    conserved: ClassVar[Mapping[str, float]] = {}
    clock: ClassVar[None] = None

    wave_number: Positive = 1.0
    alpha: Positive = 2.0
    tau: Positive = 3.0
    symbol: sine_transform.Symbol = "five_point"

    def __post_init__(self) -> None:
        if self._gap(258, "spectral") < _GAP:
            raise ConfigError(f"wave_number={self.wave_number:g}: its square is within {_GAP} of pi^2 (m^2 + n^2)")

    def variables(self) -> tuple[Variable, ...]:
        """Source (input) and wave (output)."""
        largest = 10.0 * cosine_deviation(self.alpha, self.tau, corner=True)
        bound = sine_transform.largest_solution(largest, self.wave_number**2)
        return (
            Variable("source", ("y", "x"), "1", "source", "input", -largest, largest),
            Variable("wave", ("y", "x"), "1", "amplitude of the wave", "output", -bound, bound),
        )

    def coordinates(self, grid: int) -> dict[str, np.ndarray]:
        """Nodes of the unit square, edge included. Raises ConfigError where the grid moves a resonance onto k."""
        if self._gap(grid, self.symbol) < 0.4 * self._gap(258, "spectral"):
            raise ConfigError(
                f"grid={grid} moves a resonance close to wave_number={self.wave_number:g}: take a finer one"
            )
        nodes = np.linspace(0.0, 1.0, grid)
        return {"y": nodes, "x": nodes.copy()}

    def draw(self, seeds: Sequence[int], grid: int, device: torch.device | str = "cpu") -> Problem:
        """Sources `(batch, y, x)`, 0 on the edge; a finer grid adds modes and moves the field by less than a cell.

        Raises ConfigError where the grid moves a resonance onto k.
        """
        self.coordinates(grid)
        f = cosine_field(seeds, grid, self.alpha, self.tau)
        return Problem({"source": F.pad(f[..., 1:-1, 1:-1], (1, 1, 1, 1)).to(device)})

    def solve(self, problem: Problem) -> dict[str, Tensor]:
        """Source and wave, to rounding."""
        f = problem.fields["source"].double()
        return {"source": f, "wave": sine_transform.solve(f, self.wave_number**2, self.symbol)}

    def residual(self, fields: Mapping[str, Tensor]) -> Tensor:
        """laplace u + k^2 u - f at the inner nodes, u on the edge, `(batch, y, x)`."""
        return sine_transform.residual(fields["wave"], fields["source"], self.wave_number**2, self.symbol)

    def invariants(self, fields: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """`outflow`: flux of -grad u through the edge, the integral of k^2 u - f over the inner nodes (five_point)."""
        return {"outflow": sine_transform.outflow(fields["wave"])}

    def inner_description(self, grid: int) -> dict[str, object]:
        """Discretisation and solver."""
        wave = 2.0 * math.pi * (grid - 1) / self.wave_number
        return {
            "method": f"{self.symbol} laplacian, sine transforms",
            "cell": 1.0 / (grid - 1),
            "cells_per_wavelength": wave,
        }

    def _gap(self, points: int, symbol: sine_transform.Symbol) -> float:
        """Distance of k^2 from the nearest eigenvalue of -laplace."""
        return float((sine_transform.eigenvalues(points, symbol) - self.wave_number**2).abs().min())
