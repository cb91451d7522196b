"""Scattering of a plane wave by a random medium: the Helmholtz equation in the plane."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
import torch
from torch import Tensor

from pdediff.pdes.base import Problem, Variable
from pdediff.pdes.radiation import radiate
from pdediff.pdes.random_field import cosine_deviation, cosine_field
from pdediff.types import Positive, PositiveInt, uniform

# Width of the margin in which the medium fades, and the largest amplitude of an accepted wave.
_MARGIN, _LARGEST = 0.15, 30.0


@dataclass(frozen=True)
class HelmholtzScattering:
    """Wave scattered by an inhomogeneous square in free space, for the recovery of the medium from the wave.

    laplace u + k^2 (1 + q) u = -k^2 q w in the plane, u outgoing, w = exp(i k (cos(angle) x' + sin(angle) y')) with
    x', y' from the centre of the square, k = `wave_number`; all numbers are nondimensional, time factor exp(-i k t).
    q(x, y) lies in [0, contrast]: contrast times the logistic function of a Gaussian field of covariance proportional
    to (-laplace + tau^2)^(-alpha), fading to 0 at the edge of (0, 1)^2. The angle is uniform.
    Cell-centred five-point differences, perfectly matched layer of `layer` cells outside the square, sparse LU
    (`radiation.radiate`, which takes any sources). Second order: a wave crossing the square is off by the phase
    k^3 h^2 / 24, 0.02 for k = 20 on grid 128.
    Good values: 20 cells a wavelength and more (grid >= 3.2 k); layer 12 sends back 1e-5 of the wave; contrast 0.5.
    """

    name: ClassVar[str] = "helmholtz_scattering"
    formula: ClassVar[str] = "laplace u + k^2 (1 + q) u = -k^2 q exp(i k d . x)"
    boundary: ClassVar[str] = "outgoing waves, perfectly matched layer around the unit square"
    symmetries: ClassVar[str] = "none"
    levels: ClassVar[Mapping[str, Mapping[str, Any]]] = {
        "low": {"wave_number": 10.0, "contrast": 0.5},
        "medium": {"wave_number": 20.0, "contrast": 0.5},
        "high": {"wave_number": 40.0, "contrast": 1.0},
    }
    conserved: ClassVar[Mapping[str, float]] = {}
    clock: ClassVar[None] = None

    wave_number: Positive = 20.0
    contrast: Positive = 0.5
    alpha: Positive = 3.0
    tau: Positive = 6.0
    layer: PositiveInt = 12

    def variables(self) -> tuple[Variable, ...]:
        """Medium and direction (inputs), real and imaginary part of the scattered wave (outputs)."""
        highest = max(self.contrast, float(np.float32(self.contrast)))
        bounds = (-_LARGEST, _LARGEST)
        return (
            Variable("contrast", ("y", "x"), "1", "squared refractive index minus 1", "input", 0.0, highest),
            Variable("angle", (), "1", "direction of the incoming wave from the x axis", "input", 0.0, 6.2832),
            Variable("real", ("y", "x"), "1", "real part of the scattered wave", "output", *bounds),
            Variable("imaginary", ("y", "x"), "1", "imaginary part of the scattered wave", "output", *bounds),
        )

    def coordinates(self, grid: int) -> dict[str, np.ndarray]:
        """Cell centres of the unit square."""
        centres = (np.arange(grid) + 0.5) / grid
        return {"y": centres, "x": centres.copy()}

    def draw(self, seeds: Sequence[int], grid: int, device: torch.device | str = "cpu") -> Problem:
        """Media `(batch, y, x)`, the same with more modes on a finer grid, and directions `(batch,)`."""
        g = cosine_field(seeds, grid, self.alpha, self.tau)
        centres = torch.from_numpy(self.coordinates(grid)["x"])
        fade = torch.sin(0.5 * math.pi * (torch.minimum(centres, 1.0 - centres) / _MARGIN).clamp(max=1.0)) ** 2
        q = self.contrast * fade[:, None] * fade * torch.sigmoid(2.0 / cosine_deviation(self.alpha, self.tau) * g)
        angle = 2.0 * math.pi * uniform(seeds, (1,))[:, 0]
        return Problem({"contrast": q}, {"angle": angle}).to(device)

    def solve(self, problem: Problem) -> dict[str, Tensor]:
        """Medium, direction and scattered wave; differentiable in both inputs.

        Raises NumericalError where the medium is not finite.
        """
        q, angle = problem.fields["contrast"].double(), problem.scalars["angle"]
        source = -(self.wave_number**2) * q * self.incoming(angle, q.shape[-1])
        u = radiate(q, source.unsqueeze(1), self.wave_number, self.layer)[:, 0]
        return {"contrast": q, "angle": angle, "real": u.real, "imaginary": u.imag}

    def incoming(self, angle: Tensor, grid: int) -> Tensor:
        """Plane waves w travelling in the directions `angle`, `(batch, y, x)`, complex."""
        x = torch.from_numpy(self.coordinates(grid)["x"]).to(angle.device) - 0.5
        angle = angle.double()[:, None, None]
        phase = self.wave_number * (torch.cos(angle) * x + torch.sin(angle) * x[:, None])
        return torch.complex(torch.cos(phase), torch.sin(phase))

    def residual(self, fields: Mapping[str, Tensor]) -> Tensor:
        """Left minus right side, real and imaginary part, at the cells off the edge `(batch, 2, y - 2, x - 2)`."""
        q, u = fields["contrast"], torch.complex(fields["real"], fields["imaginary"])
        grid = q.shape[-1]
        waves = self.wave_number**2 * (u + q * (u + self.incoming(fields["angle"], grid)))
        neighbours = u[:, :-2, 1:-1] + u[:, 2:, 1:-1] + u[:, 1:-1, :-2] + u[:, 1:-1, 2:]
        left = grid**2 * (neighbours - 4.0 * u[:, 1:-1, 1:-1]) + waves[:, 1:-1, 1:-1]
        return torch.view_as_real(left).movedim(-1, 1)

    def invariants(self, fields: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """`scattered`: power of the scattered wave out of the square, `extinguished`: power lost by the incoming one.

        Both are fluxes of Im(conj(u) grad u), and equal as the medium does not absorb.
        """
        q, u = fields["contrast"], torch.complex(fields["real"], fields["imaginary"])
        inner = u[:, 1:-1, 1:-1]
        pairs = (
            *((inner[:, 0], u[:, 0, 1:-1]), (inner[:, -1], u[:, -1, 1:-1])),
            *((inner[:, :, 0], u[:, 1:-1, 0]), (inner[:, :, -1], u[:, 1:-1, -1])),
        )
        scattered = torch.stack([(near.conj() * far).imag.sum(-1) for near, far in pairs]).sum(0)
        taken = (q * u * self.incoming(fields["angle"], q.shape[-1]).conj()).imag[:, 1:-1, 1:-1]
        return {"scattered": scattered, "extinguished": (self.wave_number / q.shape[-1]) ** 2 * taken.sum((1, 2))}

    def inner_description(self, grid: int) -> dict[str, object]:
        """Discretisation and solver."""
        return {
            "method": "cell-centred five-point differences, cubic perfectly matched layer, complex sparse LU",
            "cell": 1.0 / grid,
            "layer": self.layer / grid,
            "cells_per_wavelength": 2.0 * math.pi * grid / self.wave_number,
        }
