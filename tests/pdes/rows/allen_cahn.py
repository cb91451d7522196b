"""Allen-Cahn walls: an independent adaptive integrator, uniform states, walls at rest and shrinking discs."""

from __future__ import annotations

import math
from dataclasses import replace
from functools import cache

import numpy as np
import torch
from scipy.integrate import solve_ivp
from torch import Tensor
from verification import Exact, Order, Row

from pdediff.pdes import PDE, AllenCahn, Clock, Problem

WALLS = AllenCahn(width=0.08, clock=Clock(2, 1.0, 0.1))
SMALL: dict[str, tuple[PDE, int]] = {"allen_cahn": (replace(WALLS, clock=Clock(3, 0.5, 0.25, warm_up=1)), 32)}


@cache
def _reference() -> tuple[Problem, Tensor]:
    """One interval of the truncated system by Dormand and Prince's eighth order, on complex coefficients of its own."""
    n, top = 24, 7
    case = WALLS.draw((1,), n)
    m = np.fft.fftfreq(n, 1.0 / n)
    squared = 4.0 * np.pi**2 * (m[:, None] ** 2 + m**2)
    keep = (np.abs(m)[:, None] <= top) & (np.abs(m) <= top)

    def rate(_: float, state: np.ndarray) -> np.ndarray:
        u = state.reshape(n, n)
        spectrum = np.fft.fft2(u - u**3) - WALLS.width**2 * squared * np.fft.fft2(u)
        return np.fft.ifft2(keep * spectrum).real.ravel()

    start = case.fields["initial"][0].numpy().ravel()
    end = solve_ivp(rate, (0.0, 1.0), start, "DOP853", rtol=1e-11, atol=1e-13).y[:, -1]
    return case, torch.from_numpy(end.reshape(n, n))


def _time(h: float) -> float:
    case, exact = _reference()
    u = replace(WALLS, clock=Clock(2, 1.0, h)).solve(case)["u"][0, 1]
    return ((u - exact).norm() / exact.norm()).item()


def _uniform() -> float:
    pde = AllenCahn(clock=Clock(9, 0.5, 0.02))
    start = torch.tensor([0.9, -0.3, 1e-3], dtype=torch.float64)[:, None, None]
    u = pde.solve(Problem({"initial": start.expand(3, 8, 8)}))["u"]
    t = torch.from_numpy(pde.clock.times())[:, None, None]
    growth = torch.exp(t)
    exact = start[:, None] * growth / torch.sqrt(1.0 + start[:, None] ** 2 * (growth**2 - 1.0))
    return (u - exact).abs().max().item()


def _wall() -> float:
    """Two walls half a box apart, tanh(d / (sqrt 2 width)), attract each other by exp(-sqrt 2 / (2 width)) only."""
    n = 128
    x = torch.arange(n, dtype=torch.float64) / n
    wall = torch.tanh((0.25 - (x - 0.5).abs()) / (math.sqrt(2.0) * 0.02)).expand(n, n)
    u = AllenCahn(width=0.02, clock=Clock(2, 2.0, 0.1)).solve(Problem({"initial": wall[None]}))["u"][0, 1]
    return (u - wall).abs().max().item()


def _disc() -> float:
    """Area lost by a disc of radius 0.3, over 2 pi width^2 t: motion by curvature, up to (width / radius)^2."""
    n, width, time = 96, 0.02, 25.0
    x = torch.arange(n, dtype=torch.float64) / n - 0.5
    disc = torch.tanh((0.3 - torch.hypot(x[:, None], x)) / (math.sqrt(2.0) * width))
    pde = AllenCahn(width=width, clock=Clock(3, time, 0.25))
    mean = pde.invariants(pde.solve(Problem({"initial": disc[None]})))["mean"][0]
    return abs(float(0.5 * (mean[1] - mean[2])) / (2.0 * math.pi * width**2 * time) - 1.0)


def _energy() -> float:
    """Largest rise of the energy from one frame to the next."""
    pde = AllenCahn(width=0.04, clock=Clock(21, 0.25, 0.25))
    energy = pde.invariants(pde.solve(pde.draw((1, 2), 48)))["energy"]
    assert (energy[:, -1] < 0.8 * energy[:, 0]).all()
    return (energy[:, 1:] - energy[:, :-1]).max().item()


def _bound() -> float:
    """How far a resolved state leaves [-1, 1]."""
    pde = AllenCahn(width=0.04, clock=Clock(11, 2.0, 0.1))
    u = pde.solve(pde.draw((1, 2), 64))["u"].abs().amax((0, 2, 3))
    assert u[-1] > 1.0 - 1e-5
    return u.max().item() - 1.0


ROWS: list[Row] = [
    Order("allen_cahn2d", "time", "Dormand-Prince 8 of the same modes", 4.0, (0.1, 0.05, 0.025), _time),
    Exact("allen_cahn2d", "uniform states", "u e^t / sqrt(1 + u^2 (e^2t - 1))", 1e-8, _uniform),
    Exact("allen_cahn2d", "walls at rest", "tanh(d / (sqrt 2 width))", 1e-4, _wall),
    Exact("allen_cahn2d", "area lost by a disc", "2 pi width^2 t", 0.02, _disc),
    Exact("allen_cahn2d", "rise of the energy", "0, a gradient flow", 0.0, _energy),
    Exact("allen_cahn2d", "excess over 1", "0, the maximum principle", 1e-8, _bound),
]
