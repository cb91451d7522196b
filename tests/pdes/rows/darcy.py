"""Darcy flow: manufactured solutions, smooth and with a jump, a dense assembly, and the flux through the edge."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor
from verification import Exact, Order, Row

from pdediff.pdes import PDE, Darcy
from pdediff.pdes import finite_volume as fv

SMALL: dict[str, tuple[PDE, int]] = {
    "two_phase": (Darcy(), 16),
    "two_phase_high": (Darcy(high=300.0), 16),
    "log_normal": (Darcy(permeability="log_normal"), 32),
}


def _centres(n: int) -> tuple[Tensor, Tensor]:
    x = (torch.arange(n, dtype=torch.float64) + 0.5) / n
    y, x = torch.meshgrid(x, x, indexing="ij")
    return y, x


def _smooth(cell: float) -> float:
    """a = 2 + sin(3x + y), u = sin(pi x) sin(2 pi y) and f = -grad a . grad u - a laplace u."""
    y, x = _centres(round(1.0 / cell))
    pi = torch.pi
    a, slope = 2.0 + torch.sin(3 * x + y), torch.cos(3 * x + y)
    u = torch.sin(pi * x) * torch.sin(2 * pi * y)
    u_x, u_y = pi * torch.cos(pi * x) * torch.sin(2 * pi * y), 2 * pi * torch.sin(pi * x) * torch.cos(2 * pi * y)
    f = -slope * (3 * u_x + u_y) + 5 * pi**2 * a * u
    return (fv.solve(a[None], f[None])[0] - u).abs().max().item()


def _jump(cell: float) -> float:
    """a = 3 left and 12 right of x = 1/2, flux a w' = 0.35 - x, u = w(x) sin(pi y)."""
    y, x = _centres(round(1.0 / cell))
    left, integral = x < 0.5, 0.35 * x - 0.5 * x**2
    a = torch.where(left, 3.0, 12.0)
    w = torch.where(left, integral / 3.0, 0.05 / 3.0 + (integral - 0.05) / 12.0)
    f = (1.0 + a * torch.pi**2 * w) * torch.sin(torch.pi * y)
    return (fv.solve(a[None], f[None])[0] - w * torch.sin(torch.pi * y)).abs().max().item()


def _dense(pde: Darcy) -> float:
    """Fluxes between cells one by one: 2 a b / (a + b) to a neighbour, 2 a to the edge, times n^2."""
    n = 12
    fields = pde.solve(pde.draw((1,), n))
    a = fields["permeability"][0].numpy()
    matrix = np.zeros((n, n, n, n))
    for i in range(n):
        for j in range(n):
            for p, q in ((i - 1, j), (i + 1, j), (i, j - 1), (i, j + 1)):
                if 0 <= p < n and 0 <= q < n:
                    matrix[i, j, p, q] = -2.0 * n**2 / (1.0 / a[i, j] + 1.0 / a[p, q])
                    matrix[i, j, i, j] -= matrix[i, j, p, q]
                else:
                    matrix[i, j, i, j] += 2.0 * n**2 * a[i, j]
    exact = torch.from_numpy(np.linalg.solve(matrix.reshape(n * n, -1), np.ones(n * n)).reshape(n, n))
    return ((fields["pressure"][0] - exact).abs().max() / exact.max()).item()


def _outflow(pde: Darcy) -> float:
    fields = pde.solve(pde.draw(range(3), 32))
    return (pde.invariants(fields)["outflow"] - 1.0).abs().max().item()


CELLS = (1 / 16, 1 / 32, 1 / 64)
LOG_NORMAL = Darcy(permeability="log_normal")
ROWS: list[Row] = [
    Order("darcy", "space", "manufactured, a jumps", 2.0, CELLS, _jump),
    Order("darcy_lognormal", "space", "manufactured, smooth a", 2.0, CELLS, _smooth),
    Exact("darcy", "pressure", "dense solve, face by face", 1e-10, lambda: _dense(Darcy())),
    Exact("darcy_lognormal", "pressure", "dense solve, face by face", 1e-10, lambda: _dense(LOG_NORMAL)),
    Exact("darcy", "flux through the edge", "the source", 1e-9, lambda: _outflow(Darcy())),
    Exact("darcy_lognormal", "flux through the edge", "the source", 1e-9, lambda: _outflow(LOG_NORMAL)),
]
