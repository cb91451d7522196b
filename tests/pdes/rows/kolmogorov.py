"""Kolmogorov flow: an independent integration of the advective form, and the laminar profile."""

from __future__ import annotations

from functools import cache

import numpy as np
import torch
from torch import Tensor
from verification import Exact, Order, Row

from pdediff.pdes import PDE, Clock, KolmogorovFlow, Problem

SMALL: dict[str, tuple[PDE, int]] = {
    "kolmogorov": (KolmogorovFlow(viscosity=1e-2, clock=Clock(frames=3, interval=0.112, step=0.01, warm_up=2)), 32)
}
BASE = {"viscosity": 5e-3, "forcing": 3}


def _reference(w: np.ndarray, pde: KolmogorovFlow, time: float, steps: int) -> np.ndarray:
    """Runge-Kutta 4 on the advective form u . grad w, a grid twice as fine: nothing shared with the package."""
    n, fine = len(w), 2 * len(w)
    top = (n - 1) // 3
    m = np.fft.fftfreq(fine, 1.0 / fine)
    k_y, k_x = np.meshgrid(m, m, indexing="ij")
    k2 = k_x**2 + k_y**2
    keep = (np.abs(k_x) <= top) & (np.abs(k_y) <= top)
    y = 2.0 * np.pi * np.arange(fine) / fine
    curl = -pde.forcing * np.cos(pde.forcing * y)[:, None] * np.ones(fine)

    def space(v: np.ndarray) -> np.ndarray:
        return np.fft.ifft2(v).real * fine**2

    def rate(v: np.ndarray) -> np.ndarray:
        psi = np.where(k2 > 0, v / np.maximum(k2, 1.0), 0.0)
        advection = space(1j * k_y * psi) * space(1j * k_x * v) - space(1j * k_x * psi) * space(1j * k_y * v)
        return keep * (np.fft.fft2(curl - advection) / fine**2 - (pde.viscosity * k2 + pde.drag) * v)

    rows = np.arange(-top, top + 1)
    v = np.zeros((fine, fine), dtype=complex)
    v[np.ix_(rows, rows)] = (np.fft.fft2(w) / n**2)[np.ix_(rows, rows)]
    h = time / steps
    for _ in range(steps):
        a = rate(v)
        b = rate(v + 0.5 * h * a)
        c = rate(v + 0.5 * h * b)
        v = v + h / 6.0 * (a + 2 * b + 2 * c + rate(v + h * c))
    return space(v)[::2, ::2]


@cache
def _problem() -> tuple[Problem, Tensor]:
    pde = KolmogorovFlow(**BASE, clock=Clock(2, 0.4, 0.01, warm_up=5))
    problem = pde.draw((1,), 24)
    return problem, torch.from_numpy(_reference(problem.fields["initial"][0].numpy(), pde, 0.4, 400))


def _time(h: float) -> float:
    problem, exact = _problem()
    pde = KolmogorovFlow(**BASE, clock=Clock(2, 0.4, h * 24 / 64))
    return ((pde.solve(problem)["vorticity"][0, 1] - exact).norm() / exact.norm()).item()


def _laminar() -> float:
    pde = KolmogorovFlow(viscosity=0.5, drag=0.1, forcing=2, clock=Clock(5, 0.112, 0.01))
    y = 2.0 * torch.pi * torch.arange(32, dtype=torch.float64) / 32
    # u = sin(k y) / (nu k^2 + drag) along x, w = -u_y
    profile = (-2.0 * torch.cos(2.0 * y) / (0.5 * 4 + 0.1))[:, None].expand(32, 32)
    w = pde.solve(Problem({"initial": profile[None]}))["vorticity"]
    return (w - profile).abs().max().item()


ROWS: list[Row] = [
    Order("kolmogorov2d", "time", "Runge-Kutta 4, advective form", 4.0, (0.05, 0.025, 0.0125), _time),
    Exact("kolmogorov2d", "laminar profile", "sin(k y) / (nu k^2 + drag)", 1e-13, _laminar),
]
