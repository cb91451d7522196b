"""The Poisson equation with a random source on the unit square."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
import torch
from torch import Tensor

from pdediff.pdes import sine_transform
from pdediff.pdes.base import Problem, Variable
from pdediff.pdes.random_field import cosine_deviation, cosine_field
from pdediff.types import Positive


@dataclass(frozen=True)
class Poisson:
    """Potential of a random source, for the recovery of one from a few sensors on the other; posteriors are exact.

    laplace u = f on (0, 1)^2, u = 0 on the edge; all numbers are nondimensional. f is a Gaussian field of covariance
    tau^(2 alpha - 2) (-laplace + tau^2)^(-alpha), Neumann, zero mean, so that u is Gaussian too. Nodes i / (grid - 1),
    edge included. "five_point" is the second-order stencil, solved exactly by sine transforms; "spectral" sums the
    sine series (exact for sines; f need not vanish on the edge, so it converges no faster for these sources).
    Setting, sign and grid of the benchmark of Huang et al. (2024, DiffusionPDE, section 4): grid 128, five_point,
    alpha 2, tau 3. As there, value i of the field (drawn for cell centres) lies on node i, and values of f on
    the edge belong to the sample though no u depends on them.
    Good values: alpha 2, tau 3 (f has standard deviation 0.29 inside, 0.47 in a corner); alpha above 1.
    """

    name: ClassVar[str] = "poisson"
    formula: ClassVar[str] = "laplace u = f"
    boundary: ClassVar[str] = "u = 0 on the edge of the unit square"
    symmetries: ClassVar[str] = "square"
    levels: ClassVar[Mapping[str, Mapping[str, Any]]] = {}
    conserved: ClassVar[Mapping[str, float]] = {}
    clock: ClassVar[None] = None

    alpha: Positive = 2.0
    tau: Positive = 3.0
    symbol: sine_transform.Symbol = "five_point"

    def variables(self) -> tuple[Variable, ...]:
        """Source (input) and potential (output)."""
        largest = 10.0 * cosine_deviation(self.alpha, self.tau, corner=True)
        bound = sine_transform.largest_solution(largest, 0.0)
        return (
            Variable("source", ("y", "x"), "1", "source", "input", -largest, largest),
            Variable("potential", ("y", "x"), "1", "potential", "output", -bound, bound),
        )

    def coordinates(self, grid: int) -> dict[str, np.ndarray]:
        """Nodes of the unit square, edge included."""
        nodes = np.linspace(0.0, 1.0, grid)
        return {"y": nodes, "x": nodes.copy()}

    def draw(self, seeds: Sequence[int], grid: int, device: torch.device | str = "cpu") -> Problem:
        """Sources `(batch, y, x)`; a finer grid shows the same field, moved by less than a cell, with more modes."""
        return Problem({"source": cosine_field(seeds, grid, self.alpha, self.tau).to(device)})

    def solve(self, problem: Problem) -> dict[str, Tensor]:
        """Source and potential, to rounding."""
        f = problem.fields["source"].double()
        return {"source": f, "potential": sine_transform.solve(f, 0.0, self.symbol)}

    def residual(self, fields: Mapping[str, Tensor]) -> Tensor:
        """laplace u - f at the inner nodes, u on the edge, `(batch, y, x)`."""
        return sine_transform.residual(fields["potential"], fields["source"], 0.0, self.symbol)

    def invariants(self, fields: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """`outflow`: flux of -grad u through the edge, minus the integral of f over the inner nodes (five_point)."""
        return {"outflow": sine_transform.outflow(fields["potential"])}

    def inner_description(self, grid: int) -> dict[str, object]:
        """Discretisation and solver."""
        return {"method": f"{self.symbol} laplacian, sine transforms", "cell": 1.0 / (grid - 1)}
