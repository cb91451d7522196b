"""Burgers without viscosity or nearly so: characteristics before the shock, the Riemann solution after it."""

from __future__ import annotations

from functools import cache

import numpy as np
import torch
from rows.burgers import cole_hopf
from scipy.integrate import solve_ivp
from torch import Tensor
from verification import Exact, Order, Row

from pdediff.pdes import PDE, BurgersShock, Clock, Problem

SMALL: dict[str, tuple[PDE, int]] = {
    "burgers_shock": (BurgersShock(length=2.0, viscosity=(1e-3, 2e-3), clock=Clock(4, 0.05, 0.01, warm_up=1)), 32)
}

_ZERO = torch.zeros(1, dtype=torch.float64)


def _solve(start: np.ndarray, time: float, h: float, viscosity: Tensor = _ZERO) -> dict[str, Tensor]:
    """Two frames by steps of `h`; the step of the clock is meant for 128 cells."""
    pde = BurgersShock(clock=Clock(2, time, h * len(start) / 128))
    return pde.solve(Problem({"initial": torch.from_numpy(start)[None]}, {"viscosity": viscosity}))


def _before_shock(n: int, t: float) -> np.ndarray:
    """Cell means of 0.3 + sin(2 pi x) / 4 carried along its characteristics x = xi + u t, exact until t = 0.64.

    The integral of u dx is that of u_0 (1 + u_0' t) dxi.
    """
    x = np.arange(n + 1) / n
    xi = x.copy()
    for _ in range(50):
        start, slope = 0.3 + 0.25 * np.sin(2.0 * np.pi * xi), 0.5 * np.pi * np.cos(2.0 * np.pi * xi)
        xi -= (xi + start * t - x) / (1.0 + slope * t)
    start = 0.3 + 0.25 * np.sin(2.0 * np.pi * xi)
    return n * np.diff(0.3 * xi - np.cos(2.0 * np.pi * xi) / (8.0 * np.pi) + 0.5 * t * start**2)


def _smooth(cell: float) -> float:
    n = round(1.0 / cell)
    # steps as cells^(5/3): the third order in time then falls as fast as the fifth in space
    u = _solve(_before_shock(n, 0.0), 0.3, 3.0 * cell ** (5 / 3))["u"][0, 1].numpy()
    return float(np.abs(u - _before_shock(n, 0.3)).mean())


@cache
def _in_continuous_time() -> np.ndarray:
    """The same cells and fluxes, carried by another integrator."""
    pde = BurgersShock()

    def rate(_: float, u: np.ndarray) -> np.ndarray:
        v = torch.from_numpy(u)[None]
        return (pde.advance(v, 1.0, _ZERO[None]) - v)[0].numpy()

    return solve_ivp(rate, (0.0, 0.3), _before_shock(64, 0.0), method="DOP853", rtol=1e-12, atol=1e-13).y[:, -1]


def _steps(h: float) -> float:
    u = _solve(_before_shock(64, 0.0), 0.3, h)["u"][0, 1].numpy()
    return float(np.abs(u - _in_continuous_time()).mean())


def _riemann(n: int, t: float) -> np.ndarray:
    """Cell means for 1 on (0.2, 0.5) and -0.25 elsewhere: a sonic rarefaction and a shock of speed 0.375."""
    x = np.arange(n + 1) / n
    tail, head, shock = 0.2 - 0.25 * t, 0.2 + t, 0.5 + 0.375 * t
    fan = np.clip(x, tail, head)
    ramp = (fan - 0.2) ** 2 / (2.0 * t) - (tail - 0.2) ** 2 / (2.0 * t) if t > 0.0 else 0.0
    outside = np.minimum(x, tail) + np.maximum(x - shock, 0.0)
    return n * np.diff(-0.25 * outside + ramp + np.clip(x, head, shock) - head)


def _after_shock(cell: float) -> float:
    n = round(1.0 / cell)
    u = _solve(_riemann(n, 0.0), 0.2, 0.3 * cell)["u"][0, 1].numpy()
    return float(np.abs(u - _riemann(n, 0.2)).mean())


def _position() -> float:
    """Where u falls through the middle of the jump, off by how many cells."""
    u = _solve(_riemann(400, 0.0), 0.2, 7.5e-4)["u"][0, 1].numpy()
    i = int(np.flatnonzero((u[:-1] > 0.375) & (u[1:] <= 0.375))[-1])
    return abs(i + 0.5 + (u[i] - 0.375) / (u[i] - u[i + 1]) - 400 * (0.5 + 0.375 * 0.2))


def _excess(name: str) -> float:
    """Largest growth of an invariant from frame to frame, relative to its start, in the default distribution."""
    pde = BurgersShock(viscosity=(0.0, 0.0), clock=Clock(21, 0.05, 1.25e-3))
    value = pde.invariants(pde.solve(pde.draw(range(4), 128)))[name]
    return (value.diff(dim=1) / value[:, :1]).max().clamp(min=0.0).item()


def _mean() -> float:
    pde = BurgersShock(clock=Clock(11, 0.1, 1.25e-3))
    value = pde.invariants(pde.solve(pde.draw(range(4), 128)))["mean"]
    return (value - value[:, :1]).abs().max().item()


def _viscous(cell: float) -> float:
    """Against the Cole-Hopf solution on the ring of length 1.25, whose values are averaged by Gauss's rule."""
    n, nodes = round(1.0 / cell), np.polynomial.legendre.leggauss(5)
    pde = BurgersShock(length=1.25, viscosity=(0.02, 0.02), clock=Clock(2, 0.2, 5.0 * cell**2 * n / 128))

    def means(t: float) -> np.ndarray:
        points = 1.25 * cell * (np.arange(n)[:, None] + 0.5 + 0.5 * nodes[0])
        values = cole_hopf(points.ravel(), t, 0.02).reshape(points.shape)
        return 0.5 * (values * nodes[1]).sum(1)

    numbers = {"viscosity": torch.tensor([0.02], dtype=torch.float64)}
    u = pde.solve(Problem({"initial": torch.from_numpy(means(0.1))[None]}, numbers))["u"][0, 1].numpy()
    return float(np.abs(u - means(0.3)).mean())


ROWS: list[Row] = [
    Order("burgers1d_shock", "space", "characteristics", 5.0, (1 / 64, 1 / 128, 1 / 256), _smooth),
    Order("burgers1d_shock", "time", "the same fluxes, DOP853 at 1e-12", 3.0, (1 / 50, 1 / 100, 1 / 200), _steps),
    Order("burgers1d_shock", "space, viscous", "Cole-Hopf quadrature", 5.0, (1 / 32, 1 / 64, 1 / 128), _viscous),
    Order("burgers1d_shock", "space, with a shock", "Riemann solution", 1.0, (1 / 200, 1 / 400, 1 / 800), _after_shock),
    Exact("burgers1d_shock", "cells between the shocks", "Riemann solution", 0.1, _position),
    Exact("burgers1d_shock", "growth of the total variation", "0", 1e-3, lambda: _excess("variation")),
    Exact("burgers1d_shock", "growth of the energy", "0", 1e-15, lambda: _excess("energy")),
    Exact("burgers1d_shock", "drift of the mean", "0", 1e-15, _mean),
]
