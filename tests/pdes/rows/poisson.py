"""Poisson equation: manufactured solutions, a point value of the classical series, and Gauss's law."""

from __future__ import annotations

import math

import torch
from torch import Tensor
from verification import Exact, Order, Row

from pdediff.pdes import PDE, Poisson, Problem

SMALL: dict[str, tuple[PDE, int]] = {
    "poisson": (Poisson(), 17),
    "poisson_spectral": (Poisson(symbol="spectral"), 16),
}


def nodes(grid: int) -> tuple[Tensor, Tensor]:
    """y and x of every node."""
    points = torch.linspace(0.0, 1.0, grid, dtype=torch.float64)
    y, x = torch.meshgrid(points, points, indexing="ij")
    return y, x


def _solved(f: Tensor, pde: Poisson) -> Tensor:
    return pde.solve(Problem({"source": f[None]}))["potential"][0]


def _space(cell: float) -> float:
    """u = x (1 - x) sinh(y) (1 - y), neither a sine nor even: its laplacian by hand."""
    y, x = nodes(round(1.0 / cell) + 1)
    hump, rise = x * (1.0 - x), torch.sinh(y) * (1.0 - y)
    f = -2.0 * rise + hump * (torch.sinh(y) * (1.0 - y) - 2.0 * torch.cosh(y))
    return (_solved(f, Poisson()) - hump * rise).abs().max().item()


def _sine() -> float:
    y, x = nodes(24)
    u = torch.sin(3 * math.pi * x) * torch.sin(5 * math.pi * y)
    return (_solved(-34.0 * math.pi**2 * u, Poisson(symbol="spectral")) - u).abs().max().item()


def _centre() -> float:
    """laplace u = -1 at the centre of the square, by the series of the torsion problem (one sum of cosh)."""
    odd = torch.arange(1, 200, 2, dtype=torch.float64)
    signs = 1.0 - 2.0 * ((odd - 1) / 2 % 2)
    exact = 0.125 - (4.0 / math.pi**3 * signs / odd**3 / torch.cosh(odd * math.pi / 2)).sum()
    coarse, fine = (_solved(torch.full((n + 1, n + 1), -1.0).double(), Poisson())[n // 2, n // 2] for n in (32, 64))
    return abs(((4.0 * fine - coarse) / 3.0 - exact) / exact).item()


def _gauss() -> float:
    pde = Poisson()
    fields = pde.solve(pde.draw(range(3), 32))
    flux = -fields["source"][:, 1:-1, 1:-1].sum((1, 2)) / 31**2
    return (pde.invariants(fields)["outflow"] / flux - 1.0).abs().max().item()


ROWS: list[Row] = [
    Order("poisson2d", "space", "manufactured", 2.0, (1 / 16, 1 / 32, 1 / 64), _space),
    Exact("poisson2d", "one sine, spectral symbol", "closed form", 1e-13, _sine),
    Exact("poisson2d", "centre, extrapolated", "series of the torsion problem", 1e-6, _centre),
    Exact("poisson2d", "flux through the edge", "the source", 1e-11, _gauss),
]
