"""Kuramoto-Sivashinsky: an independent Galerkin integration, the energy balance, symmetries, the Lyapunov exponent."""

from __future__ import annotations

from functools import cache

import numpy as np
import torch
from scipy.integrate import solve_ivp
from torch import Tensor
from verification import Exact, Order, Row

from pdediff.pdes import PDE, Clock, KuramotoSivashinsky, Problem

SMALL: dict[str, tuple[PDE, int]] = {
    "ks": (KuramotoSivashinsky(length=22.0, viscosity=(0.8, 1.2), clock=Clock(4, 0.2, 0.05, warm_up=10)), 32)
}


def galerkin(initial: np.ndarray, length: float, viscosity: float, time: float) -> np.ndarray:
    """Modes |m| < n/3 by DOP853 at tolerance 1e-12; the product is a convolution, so no grid and no dealiasing."""
    n = len(initial)
    top = (n - 1) // 3
    m = np.arange(-top, top + 1)
    k = 2.0 * np.pi * m / length

    def rate(_: float, v: np.ndarray) -> np.ndarray:
        square = np.convolve(v, v)[top : 3 * top + 1]
        return (k**2 - viscosity * k**4) * v - 0.5j * k * square

    start = np.fft.fft(initial)[m] / n
    end = solve_ivp(rate, (0.0, time), start, method="DOP853", rtol=1e-12, atol=1e-13).y[:, -1]
    return (end @ np.exp(2j * np.pi * np.outer(m, np.arange(n)) / n)).real


@cache
def _problem(grid: int, interval: float) -> tuple[Problem, Tensor]:
    """Two samples that differ in length, viscosity and interval, and their exact state one interval later."""
    length = 22.0 if grid == 32 else 64.0
    pde = KuramotoSivashinsky(length=length, viscosity=(0.9, 1.3), clock=Clock(2, interval, 0.05, warm_up=40))
    problem = pde.draw((1, 2), grid)
    numbers = zip(*(problem.scalars[name].tolist() for name in problem.scalars), strict=True)
    states = [
        galerkin(u.numpy(), length, viscosity, time)
        for u, (length, time, viscosity) in zip(problem.fields["initial"], numbers, strict=True)
    ]
    return problem, torch.from_numpy(np.stack(states))


def _error(grid: int, interval: float, h: float) -> float:
    problem, exact = _problem(grid, interval)
    u = KuramotoSivashinsky(clock=Clock(2, interval, h)).solve(problem)["u"][:, 1]
    return ((u - exact).norm() / exact.norm()).item()


@cache
def _attractor(length: float, rows: int, grid: int) -> Problem:
    clock = Clock(1, 1.0, 0.1, warm_up=150)
    return KuramotoSivashinsky(length=length, spread=0.0, time_spread=0.0, clock=clock).draw(range(rows), grid)


def _solve(problem: Problem, clock: Clock, **changed: Tensor) -> dict[str, Tensor]:
    """A trajectory whose frames are the clock's apart, with changed inputs."""
    rows = len(problem)
    scalars = problem.scalars | {"frame_interval": torch.full((rows,), clock.interval, dtype=torch.float64)}
    inputs = {**problem.fields, **scalars, **changed}
    fields = {"initial": inputs.pop("initial")}
    return KuramotoSivashinsky(clock=clock).solve(Problem(fields, inputs))


def _mean() -> float:
    pde = KuramotoSivashinsky(clock=Clock(40, 0.2, 0.05, warm_up=100))
    return pde.invariants(pde.solve(pde.draw((3,), 256)))["mean"].abs().max().item()


def _energy() -> float:
    """d/dt mean u^2 / 2 = mean u_x^2 - mean u_xx^2; the centred difference errs by 4e-6 / 6 of the third derivative."""
    fields = _solve(_attractor(22.0, 2, 64), Clock(3, 0.002, 0.002))
    energy = 0.5 * fields["u"].square().mean(-1)
    k = 2j * torch.pi * torch.fft.rfftfreq(64, 1.0 / 64, dtype=torch.float64) / 22.0
    slope, bend = (torch.fft.irfft(k**order * torch.fft.rfft(fields["u"][:, 1]), n=64) for order in (1, 2))
    expected = (slope.square() - bend.square()).mean(-1)
    return ((energy[:, 2] - energy[:, 0]) / 0.004 - expected).abs().max().item()


def _galilean() -> float:
    """u(x - c t) + c solves the equation when u does; c carries the wave three points of 64 in time 1."""
    problem, clock, c = _attractor(22.0, 2, 64), Clock(2, 1.0, 0.00625), 3 * 22.0 / 64
    u = _solve(problem, clock)["u"][:, 1]
    moved = _solve(problem, clock, initial=problem.fields["initial"] + c)["u"][:, 1]
    return (moved - u.roll(3, -1) - c).abs().max().item()


def _scaled() -> float:
    """With nu = s^2 the solution is u(x / s, t / s^2) / s of the ring that is s times shorter at nu = 1."""
    problem, s = _attractor(22.0, 2, 64), 1.3
    u = _solve(problem, Clock(2, 1.0, 0.05))["u"][:, 1]
    numbers = {name: torch.full((2,), value, dtype=torch.float64) for name, value in (("n", s**2), ("l", 22.0 * s))}
    changed = {"initial": problem.fields["initial"] / s, "viscosity": numbers["n"], "domain_length": numbers["l"]}
    longer = Clock(2, s**2, 0.05 * s**2)
    return (s * _solve(problem, longer, **changed)["u"][:, 1] - u).abs().max().item()


def _lyapunov() -> float:
    """Growth of a small difference, rescaled after each unit of time (Benettin et al. 1980), 24 rows of 120."""
    problem, clock, size = _attractor(64.0, 24, 128), Clock(2, 1.0, 0.1), 1e-6
    u = problem.fields["initial"]
    difference = torch.randn(u.shape, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    growth = []
    twice = Problem({"initial": u}, {name: value.repeat(2) for name, value in problem.scalars.items()})
    for _ in range(140):
        difference = difference * (size / difference.norm(dim=-1, keepdim=True))
        both = torch.cat([u, u + difference])
        carried = KuramotoSivashinsky(clock=clock).solve(Problem({"initial": both}, twice.scalars))["u"][:, 1]
        u, difference = carried[:24], carried[24:] - carried[:24]
        growth.append(torch.log(difference.norm(dim=-1) / size))
    return abs(torch.stack(growth[20:]).mean().item() - 0.09)


ROWS: list[Row] = [
    # the stiff fourth derivative delays the asymptotic order: 3.3 at h = 0.1, 3.6 at 0.05, 3.9 at 0.01
    Order("ks1d", "time", "Galerkin, DOP853 at 1e-12", 4.0, (0.05, 0.0125, 0.00625), lambda h: _error(32, 2.0, h)),
    Exact("ks1d", "error of a frame, 256 points", "Galerkin, DOP853 at 1e-12", 1e-6, lambda: _error(256, 0.2, 0.05)),
    Exact("ks1d", "drift of the mean", "0", 1e-13, _mean),
    Exact("ks1d", "rate of energy", "production less dissipation", 1e-5, _energy),
    Exact("ks1d", "change in a moving frame", "Galilean invariance", 1e-7, _galilean),
    Exact("ks1d", "change with the viscosity", "scaling of length and time", 1e-12, _scaled),
    # Edson, Bunder, Mattner and Roberts (2019): 0.09 on long rings; the mean of these rows scatters by 0.004
    Exact("ks1d", "leading Lyapunov exponent at length 64", "0.09", 0.012, _lyapunov),
]
