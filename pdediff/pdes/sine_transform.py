"""Sine transforms on the square, for constant coefficients and u = 0 on the edge: solvers by diagonalisation."""

from __future__ import annotations

import math
from functools import lru_cache
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor

Symbol = Literal["five_point", "spectral"]


def eigenvalues(points: int, symbol: Symbol) -> Tensor:
    """Those of -laplace on the unit square with u = 0 on the edge, `(points - 2, points - 2)`, float64.

    `points` nodes a side, edge included, h = 1 / (points - 1). "five_point": 4 / h^2 (sin^2(pi k h / 2) +
    sin^2(pi l h / 2)), those of the second-order stencil; "spectral": pi^2 (k^2 + l^2).
    """
    k = torch.arange(1, points - 1, dtype=torch.float64)
    if symbol == "spectral":
        one = (math.pi * k) ** 2
    else:
        one = 4.0 * (points - 1) ** 2 * torch.sin(math.pi / (2 * (points - 1)) * k) ** 2
    return one[:, None] + one[None, :]


def multiply(values: Tensor, factor: Tensor) -> Tensor:
    """`values` on the nodes `(batch, points, points)` with every sine mode times its `factor`; zero on the edge.

    The sines sin(pi k i h) of the inner nodes; values on the edge are not read. Four matrix products.
    """
    points = values.shape[-1]
    inner = points - 2
    sines = _sines(points, values.dtype, values.device).expand(len(values), -1, -1)
    # Sides of a multiple of 8 numbers: else the products of a row would round differently with its place in the batch.
    spare = sines.shape[-1] - inner
    modes = torch.bmm(torch.bmm(sines, F.pad(values[..., 1:-1, 1:-1], (0, spare, 0, spare))), sines)
    modes = modes * F.pad(factor.to(values), (0, spare, 0, spare))
    return F.pad(torch.bmm(torch.bmm(sines, modes), sines)[..., :inner, :inner], (1, 1, 1, 1))


def laplacian(u: Tensor) -> Tensor:
    """Five-point laplacian at the inner nodes, `(batch, points - 2, points - 2)`; reads the values on the edge."""
    neighbours = u[..., :-2, 1:-1] + u[..., 2:, 1:-1] + u[..., 1:-1, :-2] + u[..., 1:-1, 2:]
    return (u.shape[-1] - 1) ** 2 * (neighbours - 4.0 * u[..., 1:-1, 1:-1])


def solve(f: Tensor, shift: float, symbol: Symbol) -> Tensor:
    """u with laplace u + shift u = f inside and u = 0 on the edge, `(batch, points, points)`."""
    return multiply(f, 1.0 / (shift - eigenvalues(f.shape[-1], symbol)))


def residual(u: Tensor, f: Tensor, shift: float, symbol: Symbol) -> Tensor:
    """laplace u + shift u - f at the inner nodes, u on the edge, `(batch, points, points)`."""
    if symbol == "five_point":
        inside = laplacian(u) + shift * u[..., 1:-1, 1:-1]
    else:
        inside = multiply(u, shift - eigenvalues(u.shape[-1], symbol))[..., 1:-1, 1:-1]
    left = F.pad(inside - f[..., 1:-1, 1:-1], (1, 1, 1, 1))
    edge = F.pad(torch.zeros_like(inside), (1, 1, 1, 1), value=1.0)
    return left + edge * u


def largest_solution(largest_source: float, shift: float) -> float:
    """Bound of |u| for |f| <= `largest_source`: |f|_2 times |G(x, .)|_2, G as a sum of sines; a factor 2 to spare."""
    squared = torch.sum((shift - eigenvalues(258, "spectral")) ** -2.0)
    return 4.0 * largest_source * math.sqrt(float(squared))


def outflow(u: Tensor) -> Tensor:
    """Flux of -grad u through the edge, `(batch,)`: minus the sum of h^2 times the five-point laplacian."""
    inner, edge = u[..., 1:-1, 1:-1], (u[..., 0, 1:-1], u[..., -1, 1:-1], u[..., 1:-1, 0], u[..., 1:-1, -1])
    beside = (inner[..., 0, :], inner[..., -1, :], inner[..., :, 0], inner[..., :, -1])
    return sum(
        ((near - far).sum(-1) for near, far in zip(beside, edge, strict=True)), start=torch.zeros_like(u[:, 0, 0])
    )


@lru_cache(maxsize=8)
def _sines(points: int, dtype: torch.dtype, device: torch.device) -> Tensor:
    """Orthonormal and symmetric, its own inverse; filled up with zeros to a multiple of 8 rows and columns."""
    k = torch.arange(1, points - 1, dtype=torch.float64)
    matrix = math.sqrt(2.0 / (points - 1)) * torch.sin(math.pi / (points - 1) * k[:, None] * k[None, :])
    spare = -len(k) % 8
    return F.pad(matrix, (0, spare, 0, spare)).to(device, dtype)
