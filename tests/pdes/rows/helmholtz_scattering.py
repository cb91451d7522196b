"""Scattering: free-space and radial solutions, a manufactured one, the layer's echo, reciprocity, power balance."""

from __future__ import annotations

from functools import cache

import numpy as np
import torch
from scipy.integrate import solve_ivp
from scipy.special import h1vp, hankel1, jv, jvp
from torch import Tensor
from verification import Exact, Order, Row

from pdediff.pdes import PDE, HelmholtzScattering, Problem
from pdediff.pdes.radiation import radiate

SMALL: dict[str, tuple[PDE, int]] = {"helmholtz_scattering": (HelmholtzScattering(wave_number=10.0, layer=6), 16)}
K = 20.0


def _centres(n: int) -> tuple[Tensor, Tensor]:
    x = (torch.arange(n, dtype=torch.float64) + 0.5) / n
    y, x = torch.meshgrid(x, x, indexing="ij")
    return y, x


def _far_field(cell: float) -> float:
    """Outside of it a Gaussian source of width s radiates i/4 H0(k r) exp(-k^2 s^2 / 2): its transform at k."""
    y, x = _centres(round(1.0 / cell))
    squared, s = (x - 0.5) ** 2 + (y - 0.45) ** 2, 0.05
    source = -torch.exp(-squared / (2.0 * s**2)) / (2.0 * torch.pi * s**2)
    u = radiate(torch.zeros_like(x)[None], source[None, None] + 0j, K, 12)[0, 0]
    outside = squared > 0.35**2
    exact = 0.25j * hankel1(0, K * squared[outside].sqrt().numpy()) * np.exp(-0.5 * (K * s) ** 2)
    return float(np.abs(u[outside].numpy() - exact).max() / np.abs(exact).max())


@cache
def _partial_waves(k: float, contrast: float, width: float, radius: float) -> np.ndarray:
    """Amplitudes b_m of the outgoing waves of q = contrast exp(-r^2 / 2 width^2), joined to Bessel waves at `radius`.

    R'' + R' / r + (k^2 (1 + q) - m^2 / r^2) R = 0 from r^m at the centre, R = J_m(k r) + b_m H_m(k r) outside.
    """
    m, start = np.arange(26), 1e-3

    def rate(r: float, state: np.ndarray) -> np.ndarray:
        value, slope = state.reshape(2, -1)
        inside = k**2 * (1.0 + contrast * np.exp(-(r**2) / (2.0 * width**2)))
        return np.concatenate([slope, -slope / r - (inside - (m / r) ** 2) * value])

    slope = m / start - k**2 * (1.0 + contrast) * start / (2.0 * (m + 1))
    first = np.concatenate([np.ones_like(slope), slope])
    last = solve_ivp(rate, (start, radius), first, method="DOP853", rtol=1e-9, atol=0.0).y[:, -1]
    ratio = last[26:] / last[:26]
    z = k * radius
    return (k * jvp(m, z) - ratio * jv(m, z)) / (ratio * hankel1(m, z) - k * h1vp(m, z))


def _radial(cell: float) -> float:
    """The wave scattered by a radial medium, outside of it: sum of i^m b_m H_m(k r) exp(i m (phi - angle))."""
    contrast, width, angle, radius = 0.5, 0.08, 0.7, 0.45
    y, x = (v - 0.5 for v in _centres(round(1.0 / cell)))
    q = contrast * torch.exp(-(x**2 + y**2) / (2.0 * width**2))
    problem = Problem({"contrast": q[None]}, {"angle": torch.tensor([angle], dtype=torch.float64)})
    fields = HelmholtzScattering(wave_number=K).solve(problem)
    outside = (x**2 + y**2) > radius**2
    u = torch.complex(fields["real"], fields["imaginary"])[0][outside].numpy()
    r, phi = torch.hypot(x, y)[outside].numpy(), torch.atan2(y, x)[outside].numpy() - angle
    exact = np.zeros_like(u)
    for m, b in enumerate(_partial_waves(K, contrast, width, radius)):
        exact += (1.0 if m == 0 else 2.0) * 1j**m * b * hankel1(m, K * r) * np.cos(m * phi)
    return float(np.abs(u - exact).max() / np.abs(exact).max())


def _manufactured(cell: float) -> float:
    """u = exp(-r^2 / 2 s^2 + 9 i x) with r from (0.45, 0.55), and q = 0.4 sin(4 x + 2 y)^2."""
    y, x = _centres(round(1.0 / cell))
    s2, dx, dy = 0.06**2, x - 0.45, y - 0.55
    u = torch.exp(torch.complex(-(dx**2 + dy**2) / (2.0 * s2), 9.0 * x))
    q = 0.4 * torch.sin(4.0 * x + 2.0 * y) ** 2
    laplacian = u * ((9j - dx / s2) ** 2 + (dy / s2) ** 2 - 2.0 / s2)
    source = laplacian + K**2 * (1.0 + q) * u
    return (radiate(q[None], source[None, None], K, 12)[0, 0] - u).abs().max().item()


def _points(layer: int, wave_number: float) -> Tensor:
    """Waves of two point sources, `(source, y, x)`, in a medium."""
    q = HelmholtzScattering().draw((1,), 64).fields["contrast"]
    sources = torch.zeros(1, 2, 64, 64, dtype=torch.complex128)
    sources[0, 0, 5, 20] = sources[0, 1, 50, 41] = -(64.0**2)
    return radiate(q, sources, wave_number, layer)[0]


def _echo() -> float:
    usual, wide = (_points(layer, K)[0] for layer in (12, 64))
    return ((usual - wide).abs().max() / wide.abs().max()).item()


def _reciprocity() -> float:
    first, second = _points(12, K)
    return ((first[50, 41] - second[5, 20]).abs() / first[50, 41].abs()).item()


def _power() -> float:
    pde = HelmholtzScattering()
    found = pde.invariants(pde.solve(pde.draw((1, 2), 64)))
    return ((found["scattered"] - found["extinguished"]).abs() / found["scattered"]).max().item()


NAME = "helmholtz_scattering2d"
CELLS = (1 / 32, 1 / 64, 1 / 128)
ROWS: list[Row] = [
    Order(NAME, "space", "Hankel function, free space", 2.0, CELLS, _far_field),
    Order(NAME, "space", "partial waves of a radial medium", 2.0, CELLS, _radial),
    Order(NAME, "space", "manufactured, variable medium", 2.0, CELLS, _manufactured),
    Exact(NAME, "echo of the layer", "a layer five times as wide", 2e-5, _echo),
    Exact(NAME, "swap of source and receiver", "reciprocity", 1e-10, _reciprocity),
    Exact(NAME, "power scattered", "power taken from the incoming wave", 1e-9, _power),
]
