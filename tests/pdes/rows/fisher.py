"""Fisher-KPP fronts: a travelling wave in closed form, the slowest speed, and logistic growth."""

from __future__ import annotations

import math

import torch
from torch import Tensor
from verification import Exact, Order, Row

from pdediff.pdes import PDE, Clock, FisherKPP, Problem

SMALL: dict[str, tuple[PDE, int]] = {"fisher": (FisherKPP(length=40.0, clock=Clock(4, 0.4, 0.2, warm_up=1)), 64)}
GRIDS = {"fisher1d": 256}


def _problem(initial: Tensor, diffusivity: float, growth: float) -> Problem:
    numbers = {"diffusivity": diffusivity, "growth": growth}
    rates = {name: torch.full((len(initial),), n, dtype=torch.float64) for name, n in numbers.items()}
    return Problem({"initial": initial}, rates)


def _wave(t: float, points: int, length: float, diffusivity: float, growth: float) -> Tensor:
    """(1 + exp((d - c t) / w))^-2 with w = sqrt(6 D / r), c = 5 sqrt(r D / 6) (Ablowitz and Zeppetella 1979)."""
    d = (torch.arange(points, dtype=torch.float64) / points - 0.5).abs() * length - 0.2 * length
    scaled = (d - 5.0 * math.sqrt(growth * diffusivity / 6.0) * t) / math.sqrt(6.0 * diffusivity / growth)
    return (1.0 + torch.exp(scaled)).pow(-2)


def _time(h: float) -> float:
    # two such fronts, run apart: each feels the other by exp(-36) at most
    diffusivity, growth, time = 0.5, 2.0, 4.0
    pde = FisherKPP(length=120.0, clock=Clock(2, time, h))
    start = _wave(0.0, 512, 120.0, diffusivity, growth)
    u = pde.solve(_problem(start[None], diffusivity, growth))["u"][0, 1]
    exact = _wave(time, 512, 120.0, diffusivity, growth)
    return ((u - exact).norm() / exact.norm()).item()


def _logistic() -> float:
    pde = FisherKPP(clock=Clock(9, 0.5, 0.02))
    start = torch.tensor([0.05, 0.5, 1.0], dtype=torch.float64)[:, None]
    u = pde.solve(_problem(start.expand(3, 16), 1.0, 1.3))["u"]
    t = torch.from_numpy(pde.clock.times())[:, None]
    grown = start[:, None] * torch.exp(1.3 * t)
    return (u - grown / (1.0 - start[:, None] + grown)).abs().max().item()


def _speed() -> float:
    """Relative error of 2 sqrt(r D), the speed of the point u = 1/2 that starts from a heap, extrapolated in time.

    v(t) = 2 - 3 / (2 t) + 3 sqrt(pi) / (2 t^(3/2)) + O(1 / t^2) in units of r = D = 1 (Ebert and van Saarloos 2000);
    speeds at t = 17 and 27 eliminate the last term. Rounding ahead of the front grows as exp(t): no longer runs.
    """
    points, length, growth, diffusivity = 768, 80.0, 2.0, 0.5
    x = (torch.arange(points, dtype=torch.float64) / points - 0.5) * length
    pde = FisherKPP(length=length, clock=Clock(15, 2.0 / growth, 0.1 / growth))
    u = pde.solve(_problem(torch.exp(-0.5 * x.square())[None], diffusivity, growth))["u"][0, :, points // 2 :]
    behind = (u > 0.5).sum(-1) - 1
    near, far = (u[torch.arange(15), behind + i] for i in (0, 1))
    place = (behind + (near - 0.5) / (near - far)) * length / points
    moved = (place[1:] - place[:-1]) / (2.0 / growth) / math.sqrt(growth * diffusivity)
    (t1, v1), (t2, v2) = ((t, float(moved[frame])) for t, frame in ((17.0, 8), (27.0, 13)))
    late1, late2 = (v + 1.5 / t - 1.5 * math.sqrt(math.pi) / t**1.5 for t, v in ((t1, v1), (t2, v2)))
    return abs((t2**2 * late2 - t1**2 * late1) / (t2**2 - t1**2) / 2.0 - 1.0)


def _bound() -> float:
    """How far populations leave [0, 1]."""
    pde = FisherKPP()
    u = pde.solve(pde.draw(range(8), 256))["u"]
    return float((u - u.clamp(0.0, 1.0)).abs().max())


ROWS: list[Row] = [
    Order("fisher1d", "time", "travelling wave of speed 5 sqrt(r D / 6)", 4.0, (0.2, 0.1, 0.05), _time),
    Exact("fisher1d", "uniform states", "logistic growth", 1e-8, _logistic),
    Exact("fisher1d", "speed of a front", "2 sqrt(r D)", 5e-3, _speed),
    Exact("fisher1d", "distance from [0, 1]", "0, the maximum principle", 1e-6, _bound),
]
