"""Burgers: the Cole-Hopf solution by quadrature, the conserved mean, the dissipation of energy."""

from __future__ import annotations

from functools import cache

import numpy as np
import torch
from torch import Tensor
from verification import Exact, Order, Row

from pdediff.pdes import PDE, Burgers, Clock, Problem

SMALL: dict[str, tuple[PDE, int]] = {
    "burgers": (Burgers(length=2.0, viscosity=(0.02, 0.05), clock=Clock(4, 0.05, 0.01, warm_up=1)), 32)
}

_VISCOSITY, _LENGTH = np.array([0.02, 0.03]), 1.25


def _start(x: np.ndarray) -> np.ndarray:
    """Three waves about a mean of 0.3."""
    s = 2.0 * np.pi * x / _LENGTH
    return 0.3 + 0.5 * np.sin(s) + 0.2 * np.cos(2.0 * s + 1.0) - 0.1 * np.sin(3.0 * s)


def _potential(x: np.ndarray) -> np.ndarray:
    """The integral of the start without its mean."""
    s = 2.0 * np.pi * x / _LENGTH
    return (-0.5 * np.cos(s) + 0.1 * np.sin(2.0 * s + 1.0) + 0.1 / 3.0 * np.cos(3.0 * s)) * _LENGTH / (2.0 * np.pi)


def cole_hopf(x: np.ndarray, t: float, nu: float) -> np.ndarray:
    """The exact solution: a mean of (x - y) / t over y, with weights that are all positive (Hopf 1950, equation 10).

    The weights are the heat kernel times exp(-potential / (2 nu)); the mean 0.3 is a moving frame. The trapezoidal
    rule is spectrally accurate on the line.
    """
    moved = x - 0.3 * t
    reach = 14.0 * np.sqrt(2.0 * nu * t)
    z = np.linspace(-reach, reach, 1201)
    y = moved[:, None] - z
    exponent = -(z**2) / (4.0 * nu * t) - _potential(y) / (2.0 * nu)
    weights = np.exp(exponent - exponent.max(1, keepdims=True))
    return 0.3 + (weights * z).sum(1) / weights.sum(1) / t


@cache
def _exact(n: int) -> Tensor:
    x = _LENGTH * np.arange(n) / n
    return torch.from_numpy(np.stack([cole_hopf(x, 0.4, nu) for nu in _VISCOSITY]))


def _error(n: int, h: float) -> float:
    # `step` is meant for 128 points
    pde = Burgers(length=_LENGTH, clock=Clock(2, 0.4, h * n / 128))
    start = torch.from_numpy(_start(_LENGTH * np.arange(n) / n)).expand(2, -1)
    u = pde.solve(Problem({"initial": start}, {"viscosity": torch.from_numpy(_VISCOSITY)}))["u"][:, 1]
    return ((u - _exact(n)).norm() / _exact(n).norm()).item()


def _mean() -> float:
    pde = Burgers()
    value = pde.invariants(pde.solve(pde.draw(range(4), 128)))["mean"]
    return (value - value[:, :1]).abs().max().item()


def _energy() -> float:
    """d/dt mean u^2 / 2 = -nu mean u_x^2, by a centred difference of steps 2e-4, relative."""
    pde = Burgers(viscosity=(0.01, 0.01), clock=Clock(3, 2e-4, 4e-4, warm_up=500))
    fields = pde.solve(pde.draw(range(4), 256))
    energy = pde.invariants(fields)["energy"]
    k = 2.0 * np.pi * torch.arange(129, dtype=torch.float64)
    power = 2.0 * torch.fft.rfft(fields["u"][:, 1], norm="forward").abs().square()
    lost = 0.01 * (k.square() * power).sum(-1)
    return ((energy[:, 0] - energy[:, 2]) / 4e-4 / lost - 1.0).abs().max().item()


ROWS: list[Row] = [
    Order("burgers1d", "time", "Cole-Hopf quadrature", 4.0, (0.02, 0.01, 0.005), lambda h: _error(192, h)),
    Exact("burgers1d", "error at time 0.4 on 192 points", "Cole-Hopf quadrature", 1e-12, lambda: _error(192, 2.5e-4)),
    Exact("burgers1d", "drift of the mean", "0", 1e-15, _mean),
    Exact("burgers1d", "rate of energy loss", "its dissipation", 1e-5, _energy),
]
