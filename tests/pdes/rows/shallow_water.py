"""Shallow water: a moving vortex, a steady stream over a ridge, standing waves, dam breaks, lakes at rest."""

from __future__ import annotations

import math
from functools import cache
from typing import Literal

import numpy as np
import riemann
import torch
from scipy.integrate import solve_ivp
from torch import Tensor
from verification import Exact, Order, Row

from pdediff.pdes import PDE, Clock, Problem, ShallowWater
from pdediff.pdes.saint_venant import SaintVenant

Walls = Literal["reflective", "periodic"]

SMALL: dict[str, tuple[PDE, int]] = {
    "water_walls": (ShallowWater(thickness=0.2, rise=(0.2, 0.4), clock=Clock(3, 0.03, 0.004, warm_up=4)), 16),
    "water_periodic": (
        ShallowWater("bumps", "periodic", rise=(0.1, 0.3), clock=Clock(3, 0.03, 0.004, warm_up=6)),
        16,
    ),
}


def problem(depth: Tensor, u: Tensor, v: Tensor, bottom: Tensor) -> Problem:
    """A problem from depth, velocities and bottom, `(y, x)` each."""
    parts = {"bottom": bottom, "initial_depth": depth, "initial_velocity_x": u, "initial_velocity_y": v}
    return Problem({name: part[None] for name, part in parts.items()})


def centres(grid: int) -> tuple[Tensor, Tensor]:
    """y and x of the cell centres."""
    points = (torch.arange(grid, dtype=torch.float64) + 0.5) / grid
    y, x = torch.meshgrid(points, points, indexing="ij")
    return y, x


def final(walls: Walls, parts: tuple[Tensor, Tensor, Tensor, Tensor], time: float, step: float) -> dict[str, Tensor]:
    """Depth and velocities `(y, x)` after a time."""
    grid = parts[0].shape[-1]
    fields = ShallowWater(walls=walls, clock=Clock(2, time, step * grid / 64)).solve(problem(*parts))
    return {name: fields[name][0, 1] for name in ("depth", "velocity_x", "velocity_y")}


def vortex(grid: int, time: float) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Vortex carried by the velocity (1, 1): depth 1 - g^2 / 2, g = 0.3 exp((1 - r^2) / 2)."""
    y, x = (((part - time) % 1.0 - 0.5) / 0.08 for part in centres(grid))
    g = 0.3 * torch.exp(0.5 * (1.0 - x * x - y * y))
    return 1.0 - 0.5 * g * g, 1.0 - g * y, 1.0 + g * x, torch.zeros_like(g)


def _vortex(cell: float) -> float:
    grid = round(1.0 / cell)
    # steps that fall with cell^(5/3), so that the third order in time does not show
    found = final("periodic", vortex(grid, 0.0), 0.02, 0.15 / 32.0 * (32.0 * cell) ** (5.0 / 3.0))
    return (found["depth"] - vortex(grid, 0.02)[0]).abs().mean().item()


def stream(grid: int) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Steady stream over a ridge, slower than its waves: discharge 0.3, and u^2 / 2 + h + b = 1.2 everywhere."""
    _, x = centres(grid)
    bottom = 0.3 * torch.exp(3.0 * torch.cos(2.0 * math.pi * (x - 0.5)) - 3.0)
    depth = 1.2 - bottom
    for _ in range(60):
        depth = 1.2 - bottom - 0.045 / depth**2
    return depth, 0.3 / depth, torch.zeros_like(depth), bottom


def _stream(cell: float) -> float:
    start = stream(round(1.0 / cell))
    return (final("periodic", start, 0.1, 0.3 * cell)["depth"] - start[0]).abs().mean().item()


def _standing(cell: float) -> float:
    """Relative error of a wave of height 1e-7 between walls, whose frequency is sqrt(g h) |k|, after a time of 1/4."""
    y, x = centres(round(1.0 / cell))
    shape = torch.cos(math.pi * x) * torch.cos(2.0 * math.pi * y)
    still = torch.zeros_like(x)
    found = final(
        "reflective", (1.0 + 1e-7 * shape, still, still, still), 0.25, 0.3 * (cell * 12.0) ** (5.0 / 3.0) / 12.0
    )
    exact = shape * math.cos(math.sqrt(5.0) * math.pi * 0.25)
    return ((found["depth"] - 1.0) * 1e7 - exact).abs().max().item()


@cache
def _in_time() -> tuple[tuple[Tensor, Tensor, Tensor, Tensor], Tensor]:
    """A start on 12 x 12 cells, and its depth at 0.2 by DOP853 at 1e-11 on the fluxes of the package."""
    y, x = (2.0 * math.pi * part for part in centres(12))
    u, v = 0.3 + 0.2 * torch.sin(x - 1.0), 0.2 + 0.2 * torch.sin(y + 1.0)
    start = (1.0 + 0.2 * torch.sin(x + y), u, v, 0.2 * torch.cos(x))
    water = SaintVenant(1.0, "periodic")
    statics = water.bottom(start[3][None])
    state = torch.stack([start[0], start[0] * u, start[0] * v])[None]

    def rate(_: float, flat: np.ndarray) -> np.ndarray:
        now = torch.from_numpy(flat).reshape(state.shape)
        return ((water.advance(now, 1e-3, *statics) - now) / 1e-3).numpy().ravel()

    end = solve_ivp(rate, (0.0, 0.2), state.numpy().ravel(), method="DOP853", rtol=1e-11, atol=1e-12).y[:, -1]
    return start, torch.from_numpy(end).reshape(state.shape)[0, 0]


def _time(h: float) -> float:
    start, exact = _in_time()
    return (final("periodic", start, 0.2, h)["depth"] - exact).abs().max().item()


def dam_break(low: float, grid: int) -> tuple[dict[str, Tensor], np.ndarray]:
    """Flow after 0.15 from a dam of height one at 1/2, and the exact depth."""
    _, x = centres(grid)
    still = torch.zeros_like(x)
    depth = torch.where(x < 0.5, 1.0, low).double()
    found = final("reflective", (depth, still, still, still), 0.15, 0.12 / grid)
    return found, riemann.dam(1.0, low, (x[0].numpy() - 0.5) / 0.15)[0]


def _dam_break(low: float, cell: float) -> float:
    found, exact = dam_break(low, round(1.0 / cell))
    return float(np.abs(found["depth"].numpy() - exact).mean())


def lakes(grid: int) -> dict[str, Tensor]:
    """Bottoms below a surface of one: a hill under water, an island, and heights at random of which many are dry."""
    y, x = centres(grid)
    hill = torch.exp(-((x - 0.5).square() + (y - 0.4).square()) / 0.02)
    rough = torch.rand(grid, grid, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    return {"hill": 0.5 * hill, "island": 1.5 * hill, "rough": 0.9 * rough, "dry": 1.6 * rough}


def at_rest(walls: Walls, bottom: Tensor) -> float:
    """Largest motion of a lake after half a time unit."""
    depth, still = (1.0 - bottom).clamp(min=0.0), torch.zeros_like(bottom)
    found = final(walls, (depth, still, still, bottom), 0.5, 0.3 / len(bottom))
    moved = [(found["depth"] - depth), *(found["depth"] * found[f"velocity_{axis}"] for axis in "xy")]
    return max(part.abs().max().item() for part in moved)


def _lakes() -> float:
    return max(at_rest(walls, b) for walls in ("reflective", "periodic") for b in lakes(16).values())


def _drift() -> float:
    pde = ShallowWater(rise=(0.8, 1.6), clock=Clock(6, 0.1, 0.003))
    mass = pde.invariants(pde.solve(pde.draw((1, 2), 32)))["mass"]
    return (mass - mass[:, :1]).abs().max().item()


def _dry() -> float:
    """How far below zero depth falls where water runs over a dry bottom with hills."""
    bottom = lakes(24)["dry"]
    _, x = centres(24)
    still = torch.zeros_like(x)
    depth = torch.where(x < 0.4, 2.0 - bottom, 0.0)
    return max(0.0, -float(final("reflective", (depth, still, still, bottom), 0.4, 0.08 / 24)["depth"].min()))


CELLS = (1 / 48, 1 / 64, 1 / 96)
NAME = "shallow_water2d"
ROWS: list[Row] = [
    Order(NAME, "space", "moving vortex", 5.0, CELLS, _vortex),
    Order(NAME, "space, bottom", "steady stream over a ridge", 5.0, (1 / 48, 1 / 64, 1 / 96), _stream),
    Order(NAME, "space, walls", "standing gravity wave", 5.0, (1 / 24, 1 / 32, 1 / 48), _standing),
    Order(NAME, "time", "DOP853, same fluxes", 3.0, (0.02, 0.01, 0.005), _time),
    Exact(NAME, "depth, 64 cells", "dam break of Stoker", 0.008, lambda: _dam_break(0.1, 1 / 64)),
    Exact(NAME, "depth, 64 cells, dry bed", "dam break of Ritter", 0.006, lambda: _dam_break(0.0, 1 / 64)),
    Exact(NAME, "motion", "lakes at rest, dry shores", 1e-14, _lakes),
    Exact(NAME, "mass drift", "0", 1e-14, _drift),
    Exact(NAME, "depth below zero", "0, flood over dry hills", 0.0, _dry),
]
