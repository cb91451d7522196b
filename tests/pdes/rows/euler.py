"""Gas dynamics: a moving vortex, shock tubes, waves of sound in time, what is conserved and what stays positive."""

from __future__ import annotations

import math
from functools import cache, partial
from typing import Literal

import muscl
import numpy as np
import riemann
import torch
from scipy.integrate import solve_ivp
from torch import Tensor
from verification import Exact, Order, Row

from pdediff.pdes import PDE, Clock, Euler, Problem, runge_kutta
from pdediff.pdes.gas_dynamics import GasDynamics, conserved, primitive
from pdediff.pdes.weno import pad

Scheme = Literal["hllc_aweno", "central_upwind_aweno"]
HLLC, CENTRAL = "hllc_aweno", "central_upwind_aweno"
NAMES = ("density", "velocity_x", "velocity_y", "pressure")

SMALL: dict[str, tuple[PDE, int]] = {
    "gas_quadrants": (
        Euler(thickness=0.3, velocity=0.3, density=(0.5, 1.0), pressure=(0.5, 1.0), clock=Clock(3, 0.03, 0.004)),
        16,
    ),
    "gas_layers": (
        Euler(
            initial="kelvin_helmholtz",
            density=(1.0, 2.0),
            pressure=(1.0, 1.5),
            thickness=0.2,
            clock=Clock(3, 0.02, 0.0025, warm_up=20),
        ),
        16,
    ),
}


def problem(parts: tuple[Tensor, ...]) -> Problem:
    """A problem from density, velocities and pressure."""
    return Problem({f"initial_{name}": part for name, part in zip(NAMES, parts, strict=True)})


def centres(grid: int) -> tuple[Tensor, Tensor]:
    """y and x of the cell centres."""
    points = (torch.arange(grid, dtype=torch.float64) + 0.5) / grid
    y, x = torch.meshgrid(points, points, indexing="ij")
    return y, x


def vortex(grid: int, time: float, radius: float = 0.08, strength: float = 0.3) -> tuple[Tensor, ...]:
    """Isentropic vortex carried by the velocity (1, 1) across the periodic square, `(1, y, x)` each.

    With g = strength exp((1 - r^2) / 2): velocity (1 - g y, 1 + g x), temperature 1 - (gamma - 1) g^2 / (2 gamma).
    """
    y, x = ((part - time) % 1.0 - 0.5 for part in centres(grid))
    y, x = y / radius, x / radius
    g = strength * torch.exp(0.5 * (1.0 - x * x - y * y))
    temperature = 1.0 - 0.4 / 2.8 * g * g
    return tuple(part[None] for part in (temperature**2.5, 1.0 - g * y, 1.0 + g * x, temperature**3.5))


def _space(cell: float, scheme: Scheme) -> float:
    grid = round(1.0 / cell)
    # steps that fall with cell^(5/3), so that the third order in time does not show
    step = 0.15 / 32.0 * (32.0 * cell) ** (5.0 / 3.0)
    pde = Euler(initial="kelvin_helmholtz", scheme=scheme, clock=Clock(2, 0.02, step * grid / 64))
    density = pde.solve(problem(vortex(grid, 0.0)))["density"][:, 1]
    return (density - vortex(grid, 0.02)[0]).abs().mean().item()


@cache
def _in_time() -> tuple[tuple[Tensor, ...], Tensor]:
    """A start on 12 x 12 cells, and its density at 0.2 by DOP853 at 1e-12 on the fluxes of the package."""
    y, x = (2.0 * math.pi * part for part in centres(12))
    waves = (torch.sin(x + y), torch.sin(x - 1.0), torch.sin(y + 1.0), torch.sin(x - y))
    start = tuple((mean + 0.2 * wave)[None] for mean, wave in zip((1.0, 0.5, 0.3, 1.0), waves, strict=True))
    gas = GasDynamics(1.4, "periodic", HLLC)
    state = conserved(start, 1.4)

    def rate(_: float, v: np.ndarray) -> np.ndarray:
        now = torch.from_numpy(v).reshape(state.shape)
        return ((gas.advance(now, 1e-3) - now) / 1e-3).numpy().ravel()

    end = solve_ivp(rate, (0.0, 0.2), state.numpy().ravel(), method="DOP853", rtol=1e-11, atol=1e-12).y[:, -1]
    return start, torch.from_numpy(end).reshape(state.shape)[:, 0]


def _time(h: float) -> float:
    start, exact = _in_time()
    pde = Euler(initial="kelvin_helmholtz", clock=Clock(2, 0.2, h * 12 / 64))
    return (pde.solve(problem(start))["density"][:, 1] - exact).abs().max().item()


def tube(scheme: Scheme, start: tuple[np.ndarray, ...], length: float, time: float, steps: int) -> Tensor:
    """Density, velocity and pressure `(3, n)` of one-dimensional flow, open at both ends, from its three parts."""
    gas = GasDynamics(1.4, "outflow", scheme)
    density, u, p = (torch.from_numpy(part).reshape(1, -1, 1) for part in start)

    def advance(v: Tensor, h: float) -> Tensor:
        flux, _ = gas.face_flux(pad(torch.stack(primitive(v, 1.4), 1), -2, "outflow"))
        return v - h * v.shape[-2] / length * flux.diff(dim=-2)

    v = conserved((density, u, torch.zeros_like(u), p), 1.4)
    for _ in range(steps):
        v = runge_kutta.ssprk3(advance, v, time / steps)
    density, u, _, p = primitive(v, 1.4)
    return torch.stack([density, u, p])[:, 0, :, 0]


def shock_tube(scheme: Scheme, left: riemann.State, right: riemann.State, cells: int, time: float) -> float:
    """Mean error of the density of a Riemann problem at 1/2 on the unit interval, Courant number 0.4."""
    x = (np.arange(cells) + 0.5) / cells
    start = tuple(np.where(x < 0.5, a, b) for a, b in zip(left, right, strict=True))
    density, u, p = riemann.gas(left, right, (x - 0.5) / time)
    fastest = (np.abs(u) + np.sqrt(1.4 * p / density)).max()
    found = tube(scheme, start, 1.0, time, math.ceil(time * fastest * cells / 0.4))
    return float(np.abs(found[0].numpy() - density).mean())


SOD = ((1.0, 0.0, 1.0), (0.125, 0.0, 0.1))
LAX = ((0.445, 0.698, 3.528), (0.5, 0.0, 0.571))


@cache
def _fine() -> np.ndarray:
    return muscl.muscl(muscl.entropy_waves(1600), 10.0, 1.8, 3200).reshape(200, 8).mean(1)


def entropy_waves(scheme: Scheme, cells: int) -> float:
    """Mean error of the density of a shock in sines, on cells of 200."""
    density = tube(scheme, muscl.entropy_waves(cells), 10.0, 1.8, 2 * cells)[0].numpy()
    return float(np.abs(density.reshape(200, -1).mean(1) - _fine()).mean())


def _drift(name: str) -> float:
    pde = Euler(
        initial="kelvin_helmholtz",
        density=(1.0, 2.0),
        pressure=(2.5, 2.5),
        velocity=0.5,
        clock=Clock(6, 0.04, 0.0025),
    )
    value = pde.invariants(pde.solve(pde.draw((1, 2), 32)))[name]
    return (value - value[:, :1]).abs().max().item()


def _vacuum(scheme: Scheme) -> float:
    """Cells without positive density and pressure after gas at rest is torn apart faster than it can follow."""
    pde = Euler(scheme=scheme, clock=Clock(2, 0.04, 0.0008))
    y, x = centres(32)
    away = torch.where(x > 0.5, 4.5, -4.5)
    fields = pde.solve(problem(tuple(part[None] for part in (1.0 + 0.0 * x, away, 0.0 * y, 0.4 + 0.0 * x))))
    return float((~((fields["density"] > 0.0) & (fields["pressure"] > 0.0))).sum())


CELLS = (1 / 48, 1 / 64, 1 / 96)
CONSERVED = ("mass", "momentum_x", "momentum_y", "energy")
TUBES = (1 / 100, 1 / 200, 1 / 400)
WAVES = "shock in entropy waves, MUSCL 1600 cells"
ROWS: list[Row] = [
    Order("euler2d_kh", "space", "moving vortex", 5.0, CELLS, lambda c: _space(c, HLLC)),
    Order("euler2d_kh", "space, central-upwind", "moving vortex", 5.0, CELLS, lambda c: _space(c, CENTRAL)),
    Order("euler2d_kh", "time", "DOP853, same fluxes", 3.0, (0.01, 0.005, 0.0025), _time),
    # mean errors fall at order one at the shock and 5/6 at the contact
    Order("euler2d", "space", "tube of Sod", 1.0, TUBES, lambda c: shock_tube(HLLC, *SOD, round(1 / c), 0.2)),
    *(Exact("euler2d_kh", f"{name} drift", "0", 1e-13, partial(_drift, name)) for name in CONSERVED),
    Exact("euler2d", "density, 200 cells", "tube of Lax", 0.012, lambda: shock_tube(HLLC, *LAX, 200, 0.13)),
    Exact("euler2d", "density, 200 cells, central", "tube of Lax", 0.012, lambda: shock_tube(CENTRAL, *LAX, 200, 0.13)),
    Exact("euler2d", "density, 200 cells", WAVES, 0.045, lambda: entropy_waves(HLLC, 200)),
    Exact("euler2d", "density, 200 cells, central", WAVES, 0.045, lambda: entropy_waves(CENTRAL, 200)),
    Exact("euler2d", "cells without gas", "0, a vacuum opens", 0.0, lambda: _vacuum(HLLC)),
    Exact("euler2d", "cells without gas, central", "0, a vacuum opens", 0.0, lambda: _vacuum(CENTRAL)),
]
