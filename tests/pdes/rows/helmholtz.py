"""Helmholtz equation in a box: manufactured solutions, a dense solve of the published stencil, Gauss's law."""

from __future__ import annotations

import math

import numpy as np
import torch
from torch import Tensor
from verification import Exact, Order, Row

from pdediff.pdes import PDE, Helmholtz, Problem

SMALL: dict[str, tuple[PDE, int]] = {
    "helmholtz": (Helmholtz(), 17),
    "helmholtz_high": (Helmholtz(wave_number=18.85), 64),
    "helmholtz_spectral": (Helmholtz(wave_number=6.2832, symbol="spectral"), 16),
}
WAVE = 18.85


def _nodes(grid: int) -> tuple[Tensor, Tensor]:
    points = torch.linspace(0.0, 1.0, grid, dtype=torch.float64)
    y, x = torch.meshgrid(points, points, indexing="ij")
    return y, x


def _solved(f: Tensor, pde: Helmholtz) -> Tensor:
    return pde.solve(Problem({"source": f[None]}))["wave"][0]


def _space(cell: float) -> float:
    """u = sin(2 pi x) y (1 - y) exp(y) at a high wave number: its laplacian by hand."""
    y, x = _nodes(round(1.0 / cell) + 1)
    sine, rise = torch.sin(2 * math.pi * x), y * (1.0 - y) * torch.exp(y)
    f = sine * (-y * (3.0 + y)) * torch.exp(y) + (WAVE**2 - 4.0 * math.pi**2) * sine * rise
    return (_solved(f, Helmholtz(wave_number=WAVE)) - sine * rise).abs().max().item()


def _sine() -> float:
    y, x = _nodes(24)
    u = torch.sin(3 * math.pi * x) * torch.sin(5 * math.pi * y)
    pde = Helmholtz(wave_number=WAVE, symbol="spectral")
    return (_solved((WAVE**2 - 34.0 * math.pi**2) * u, pde) - u).abs().max().item()


def _dense() -> float:
    """Rows of the edge are the identity, the others the five-point stencil and k^2: as the benchmark's generator."""
    n = 12
    matrix = np.zeros((n, n, n, n))
    for i in range(n):
        for j in range(n):
            if 0 < i < n - 1 and 0 < j < n - 1:
                matrix[i, j, i, j] = 1.0 - 4.0 * (n - 1) ** 2
                for p, q in ((i - 1, j), (i + 1, j), (i, j - 1), (i, j + 1)):
                    matrix[i, j, p, q] = (n - 1) ** 2
            else:
                matrix[i, j, i, j] = 1.0
    pde = Helmholtz()
    problem = pde.draw((1,), n)
    f = problem.fields["source"][0].numpy()
    exact = torch.from_numpy(np.linalg.solve(matrix.reshape(n * n, -1), f.ravel()).reshape(n, n))
    return ((pde.solve(problem)["wave"][0] - exact).abs().max() / exact.abs().max()).item()


def _gauss() -> float:
    pde = Helmholtz(wave_number=WAVE)
    fields = pde.solve(pde.draw(range(3), 64))
    inner = WAVE**2 * fields["wave"] - fields["source"]
    flux = inner[:, 1:-1, 1:-1].sum((1, 2)) / 63**2
    return ((pde.invariants(fields)["outflow"] - flux).abs().max() / flux.abs().max()).item()


ROWS: list[Row] = [
    Order("helmholtz2d", "space", "manufactured, k = 6 pi", 2.0, (1 / 64, 1 / 128, 1 / 256), _space),
    Exact("helmholtz2d", "one sine, spectral symbol", "closed form", 1e-12, _sine),
    Exact("helmholtz2d", "benchmark setting", "dense solve of the benchmark's matrix", 1e-12, _dense),
    Exact("helmholtz2d", "flux through the edge", "source and wave", 1e-11, _gauss),
]
