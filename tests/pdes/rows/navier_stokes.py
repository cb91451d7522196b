"""Navier-Stokes flow: travelling vortices, another integrator in other variables, walls, and the drag of discs."""

from __future__ import annotations

import math
from dataclasses import replace
from functools import cache

import numpy as np
import torch
from torch import Tensor
from verification import Exact, Order, Row

from pdediff.pdes import PDE, Clock, NavierStokes, Problem
from pdediff.pdes.discs import Discs

WIDE = Discs(radius=(0.1, 0.15), gap=0.1, edge=0.08, penalty=0.05)
PAST_DISCS = NavierStokes(
    viscosity=(5e-3, 1e-2), flow=0.25, obstacles=(1, 2), discs=WIDE, clock=Clock(3, 0.2, 0.05, warm_up=1)
)
SMALL: dict[str, tuple[PDE, int]] = {"navier_stokes": (PAST_DISCS, 32)}

# Discs whose edge is this many times sqrt(viscosity penalty) act with their own radius (Hester, Vasil and Burns 2021).
UNMOVED = 2.648228


def square(n: int) -> tuple[Tensor, Tensor]:
    """y and x of the grid, each `(n, n)`."""
    points = torch.arange(n, dtype=torch.float64) / n
    y, x = torch.meshgrid(points, points, indexing="ij")
    return y, x


def problem(initial: Tensor, viscosity: float, obstacle: Tensor | None = None) -> Problem:
    """One problem of a vorticity `(y, x)`."""
    mask = torch.zeros_like(initial) if obstacle is None else obstacle
    fields = {"initial": initial[None], "obstacle": mask[None]}
    return Problem(fields, {"viscosity": torch.full((1,), viscosity, dtype=torch.float64)})


def _vortices(speed: float, time: float, viscosity: float) -> Tensor:
    """Taylor-Green vortices of wave numbers 2 pi (2, 1), carried at a speed along x while they decay."""
    y, x = square(24)
    decay = math.exp(-5.0 * (2.0 * math.pi) ** 2 * viscosity * time)
    return 6.0 * decay * torch.cos(4.0 * math.pi * y) * torch.cos(2.0 * math.pi * (x - speed * time))


def _travelling(h: float) -> float:
    pde = NavierStokes(forcing=0.0, flow=1.0, clock=Clock(2, 0.4, h))
    w = pde.solve(problem(_vortices(1.0, 0.0, 5e-3), 5e-3))["vorticity"][0, 1]
    exact = _vortices(1.0, 0.4, 5e-3)
    return ((w - exact).norm() / exact.norm()).item()


def _decay() -> float:
    pde = NavierStokes(forcing=0.0, clock=Clock(4, 0.5, 0.05))
    w = pde.solve(problem(_vortices(0.0, 0.0, 5e-3), 5e-3))["vorticity"][0]
    return max(float((frame - _vortices(0.0, 0.5 * i, 5e-3)).abs().max()) for i, frame in enumerate(w))


class _VelocityAndPressure:
    """The same truncated system in velocities, advective form, on a grid twice as fine: nothing of the package."""

    def __init__(self, pde: NavierStokes, case: Problem) -> None:
        self.n = case.fields["initial"].shape[-1]
        self.pde, self.viscosity = pde, float(case.scalars["viscosity"])
        self.chi = case.fields["obstacle"][0].numpy()
        fine, top = 2 * self.n, (self.n - 1) // 3
        m = np.fft.fftfreq(fine, 1.0 / fine)
        self.k_y, self.k_x = (2.0 * np.pi * k for k in np.meshgrid(m, m, indexing="ij"))
        self.k2 = np.maximum(self.k_x**2 + self.k_y**2, 1e-300)
        self.keep = (np.abs(self.k_x) <= 2.0 * np.pi * top + 1) & (np.abs(self.k_y) <= 2.0 * np.pi * top + 1)
        self.rows = np.arange(-top, top + 1)
        points = np.arange(fine) / fine
        phase = 2.0 * np.pi * (points[:, None] + points)
        # the force whose curl is a (sin + cos): (phi_y, -phi_x) with -laplace phi = a (sin + cos)
        slope = pde.forcing / (4.0 * np.pi) * (np.cos(phase) - np.sin(phase))
        self.force = np.stack([np.fft.fft2(slope), np.fft.fft2(-slope)]) / fine**2

    def coarse(self, spectrum: np.ndarray) -> np.ndarray:
        """Values on the grid of n points."""
        small = np.zeros((*spectrum.shape[:-2], self.n, self.n), dtype=complex)
        pick = (..., *np.ix_(self.rows, self.rows))
        small[pick] = spectrum[pick]
        return np.fft.ifft2(small).real * self.n**2

    def rate(self, u: np.ndarray) -> np.ndarray:
        """Rate of the velocity spectra `(2, fine, fine)`, free of divergence, the mean unchanged."""
        fine = 2 * self.n
        values, along_x, along_y = (
            np.fft.ifft2(part).real * fine**2 for part in (u, 1j * self.k_x * u, 1j * self.k_y * u)
        )
        rate = -np.fft.fft2(values[0] * along_x + values[1] * along_y) / fine**2 + self.force
        damped = np.fft.fft2(self.chi / self.pde.discs.penalty * self.coarse(u)) / self.n**2
        pick = (..., *np.ix_(self.rows, self.rows))
        rate[pick] -= damped[pick]
        rate *= self.keep
        pressure = (self.k_x * rate[0] + self.k_y * rate[1]) / self.k2
        rate -= np.stack([self.k_x, self.k_y]) * pressure
        rate[:, 0, 0] = 0.0
        return rate - self.viscosity * self.k2 * u * self.keep

    def run(self, w: np.ndarray, time: float, steps: int) -> np.ndarray:
        """Vorticity on the grid after `time`, by Runge-Kutta 4."""
        spectrum = np.zeros_like(self.k_x, dtype=complex)
        spectrum[np.ix_(self.rows, self.rows)] = (np.fft.fft2(w) / self.n**2)[np.ix_(self.rows, self.rows)]
        u = np.stack([1j * self.k_y, -1j * self.k_x]) * spectrum / self.k2
        u[:, 0, 0] = self.pde.flow, 0.0
        h = time / steps
        for _ in range(steps):
            a = self.rate(u)
            b = self.rate(u + 0.5 * h * a)
            c = self.rate(u + 0.5 * h * b)
            u = u + h / 6.0 * (a + 2 * b + 2 * c + self.rate(u + h * c))
        return self.coarse(1j * self.k_x * u[1] - 1j * self.k_y * u[0])


FORCED = NavierStokes(viscosity=(2e-3, 2e-3), forcing=3.0, clock=Clock(2, 0.4, 0.05, warm_up=5))
PAST = replace(FORCED, flow=0.5, forcing=5.0, obstacles=(2, 2), discs=replace(WIDE, penalty=0.1))


@cache
def _reference(pde: NavierStokes) -> tuple[Problem, Tensor]:
    case = pde.draw((1,), 24)
    return case, torch.from_numpy(_VelocityAndPressure(pde, case).run(case.fields["initial"][0].numpy(), 0.4, 200))


def _time(pde: NavierStokes, h: float) -> float:
    case, exact = _reference(pde)
    w = replace(pde, clock=Clock(2, 0.4, h)).solve(case)["vorticity"][0, 1]
    return ((w - exact).norm() / exact.norm()).item()


def _inviscid() -> float:
    pde = NavierStokes(forcing=0.0, flow=0.3, clock=Clock(5, 0.6, 0.005))
    start = 4.0 * pde.start.draw((3,), 32, 2)[0]
    fields = pde.solve(problem(start, 1e-12))
    w, monitored = fields["vorticity"][0], pde.invariants(fields)
    assert (w[0] - w[-1]).norm() > 0.1 * w[0].norm()
    drift = [(monitored[name] / monitored[name][:, :1] - 1.0).abs().max() for name in ("energy", "enstrophy")]
    return max(float(d) for d in drift)


def _mean() -> float:
    fields = PAST_DISCS.solve(PAST_DISCS.draw((1, 2), 32))
    return PAST_DISCS.invariants(fields)["mean"].abs().max().item()


def _slip_length(penalty: float) -> float:
    """How far behind a wall the parabola of a channel flow would vanish, relative to the thinnest layer."""
    n, viscosity, height = 64, 1.0, 0.5
    y, _ = square(n)
    discs = Discs(edge=1e-4, penalty=penalty)
    inside = 0.5 * height - (y - 0.5).abs()
    wall = 0.5 * (1.0 - torch.tanh(2.0 / discs.edge * inside))
    time = 0.2 / viscosity
    pde = NavierStokes(forcing=0.0, flow=1.0, discs=discs, clock=Clock(2, time, 1.5 * penalty))
    fields = pde.solve(problem(torch.zeros_like(y), viscosity, wall))
    spectrum = torch.fft.fft(fields["vorticity"][0, 1, :, 0])
    k = 2.0 * torch.pi * torch.fft.fftfreq(n, 1.0 / n, dtype=torch.float64)
    # w = -u_y, and the mean of u is 1
    u = 1.0 + torch.fft.ifft(torch.where(k == 0, 0.0, 1j * spectrum / k.where(k != 0, torch.ones_like(k)))).real
    middle, quarter = u[n // 2], u[n // 2 + n // 8]
    curvature = (middle - quarter) / (n // 8 / n) ** 2
    return float((middle / curvature - 0.25 * height**2) / height)


def _drag(penalty: float, fraction: float, table: float, n: int = 64) -> float:
    """Relative error of the force on a square array of discs in a flow so slow that inertia does not count."""
    discs = Discs(edge=UNMOVED * math.sqrt(penalty), penalty=penalty)
    disc = torch.tensor([[[0.5, 0.5, math.sqrt(fraction / math.pi)]]], dtype=torch.float64)
    pde = NavierStokes(forcing=0.0, flow=1e-2, discs=discs, clock=Clock(2, 0.15, 2.0 * penalty))
    fields = pde.solve(problem(torch.zeros((n, n), dtype=torch.float64), 1.0, discs.mask(disc, n)[0]))
    return abs(float(pde.invariants(fields)["drag"][0, -1]) / 1e-2 / table - 1.0)


LAYERS = tuple((cells / 64) ** 2 for cells in (1.0, 0.8, 0.6))
THICK = tuple(layer**2 for layer in (0.06, 0.042, 0.03))
OTHER = "Runge-Kutta 4 of velocity and pressure"

ROWS: list[Row] = [
    Order("navier_stokes2d", "time", OTHER, 4.0, (0.05, 0.025, 0.0125), lambda h: _time(FORCED, h)),
    Order("navier_stokes2d_decaying", "time", "travelling Taylor-Green vortices", 4.0, (0.05, 0.025), _travelling),
    Order("navier_stokes2d_obstacles", "time", OTHER, 4.0, (0.05, 0.025, 0.0125), lambda h: _time(PAST, h)),
    Order("navier_stokes2d_obstacles", "penalty (slip)", "no slip at a channel's walls", 0.5, THICK, _slip_length),
    Order(
        "navier_stokes2d_obstacles",
        "penalty (drag)",
        "array of discs, Sangani and Acrivos 1982",
        1.0,
        LAYERS,
        lambda penalty: _drag(penalty, 0.1, 24.83),
    ),
    Exact("navier_stokes2d", "energy and enstrophy drift", "inviscid flow", 2e-7, _inviscid),
    Exact("navier_stokes2d_decaying", "vorticity", "Taylor-Green vortices", 1e-13, _decay),
    Exact("navier_stokes2d_obstacles", "mean vorticity", "0", 1e-15, _mean),
    Exact(
        "navier_stokes2d_obstacles",
        "drag of an array of discs, 20 % solid",
        "Sangani and Acrivos 1982, table 1",
        0.01,
        lambda: _drag((0.4 / 64) ** 2, 0.2, 51.53),
    ),
]
