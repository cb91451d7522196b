"""Linear equations of constant coefficients: translated functions and images of Gaussians, no Fourier modes."""

from __future__ import annotations

import math

import torch
from torch import Tensor
from verification import Exact, Row

from pdediff.pdes import PDE, Advection, AdvectionDiffusion, Clock, Heat, Problem

_CLOCK = Clock(5, 0.1, 0.1, warm_up=2)
SMALL: dict[str, tuple[PDE, int]] = {
    "advection": (Advection(length=2.0, speed=(-1.0, 1.5), clock=_CLOCK), 32),
    "heat": (Heat(length=2.0, clock=_CLOCK), 32),
    "advection_diffusion": (AdvectionDiffusion(length=2.0, clock=_CLOCK), 32),
    "advection_diffusion_2d": (AdvectionDiffusion(dims=2, clock=_CLOCK), 16),
}

_LENGTH = 1.3  # no float32 number


def _numbers(*values: float) -> Tensor:
    return torch.tensor(values, dtype=torch.float64)


def _wave(x: Tensor) -> Tensor:
    """A period whose modes beyond 32 are below 1e-16."""
    return torch.exp(torch.sin(2.0 * torch.pi * x / _LENGTH) + 0.5 * torch.cos(4.0 * torch.pi * x / _LENGTH))


def _images(x: Tensor, spread: Tensor) -> Tensor:
    """Heat kernel of the ring at the age where diffusivity * age is `spread`: a sum of Gaussians."""
    images = torch.arange(-8.0, 9.0, dtype=torch.float64) * _LENGTH
    distance = torch.remainder(x, _LENGTH)[..., None] + images
    return (torch.exp(-distance.square() / (4.0 * spread[..., None])).sum(-1)) / torch.sqrt(4.0 * torch.pi * spread)


def _translation() -> float:
    pde = Advection(length=_LENGTH, clock=Clock(9, 0.3, 0.3))
    speed = _numbers(-1.7, 0.0, 0.4, 1.1)
    x = torch.from_numpy(pde.coordinates(128)["x"])
    u = pde.solve(Problem({"initial": _wave(x).expand(4, -1)}, {"speed": speed}))["u"]
    time = torch.from_numpy(pde.clock.times())[:, None]
    return (u - _wave(x - speed[:, None, None] * time)).abs().max().item()


def _spreading() -> float:
    pde = Heat(length=_LENGTH, clock=Clock(6, 0.1, 0.1))
    diffusivity = _numbers(0.005, 0.01, 0.03)
    x, time = (torch.from_numpy(pde.coordinates(128)[name]) for name in ("x", "time"))
    exact = _images(x, 0.01 + diffusivity[:, None, None] * time[:, None])
    u = pde.solve(Problem({"initial": exact[:, 0]}, {"diffusivity": diffusivity}))["u"]
    return ((u - exact).abs().max() / exact.max()).item()


def _plume(dims: int) -> float:
    """A plume that drifts and spreads: a product of images of Gaussians, every axis with its own velocity."""
    pde = AdvectionDiffusion(dims=dims, length=_LENGTH, clock=Clock(4, 0.2, 0.2))  # type: ignore[arg-type]
    winds = dict(zip(("velocity_x", "velocity_y"), (_numbers(0.7, -1.3), _numbers(-0.2, 0.9)), strict=True))
    diffusivity = _numbers(0.01, 0.02)
    coordinates = pde.coordinates(96)
    exact = torch.ones((), dtype=torch.float64)
    for axis, name in enumerate(("x", "y")[:dims]):
        row = (2, -1, *[1] * dims)
        time = torch.from_numpy(coordinates["time"]).reshape(1, -1, *[1] * dims)
        x = torch.from_numpy(coordinates[name]).reshape(-1, *[1] * axis)
        moved = x - winds[f"velocity_{name}"].reshape(row) * time
        exact = exact * _images(moved, 0.01 + diffusivity.reshape(row) * time)
    scalars = {name: winds[name] for name in winds if name[-1] in coordinates} | {"diffusivity": diffusivity}
    u = pde.solve(Problem({"initial": exact[:, 0]}, scalars))["u"]
    return ((u - exact).abs().max() / exact.max()).item()


def _drift(pde: PDE, name: str) -> float:
    value = pde.invariants(pde.solve(pde.draw(range(4), 64)))[name]
    return (value - value[:, :1]).abs().max().item()


def _decay() -> float:
    """d/dt mean u^2 / 2 = -D mean |grad u|^2, integrated over a frame by Gauss's rule of five points."""
    pde = AdvectionDiffusion(dims=2, clock=Clock(2, 0.01, 0.01))
    problem = pde.draw((3,), 48)
    energy = pde.invariants(pde.solve(problem))["energy"][0]
    lost, k = 0.0, 2.0 * math.pi * torch.fft.fftfreq(48, 1.0 / 48, dtype=torch.float64)
    squared = k.square()[:, None] + k.square()
    for node, weight in zip(*_gauss(), strict=True):
        at = AdvectionDiffusion(dims=2, clock=Clock(2, 0.01 * node, 0.01)).solve(problem)["u"][0, 1]
        lost += 0.01 * weight * (squared * torch.fft.fft2(at, norm="forward").abs().square()).sum().item()
    return abs((energy[0] - energy[1]).item() / (problem.scalars["diffusivity"].item() * lost) - 1.0)


def _gauss() -> tuple[list[float], list[float]]:
    a, b = (math.sqrt(5.0 + sign * 2.0 * math.sqrt(10.0 / 7.0)) / 3.0 for sign in (-1.0, 1.0))
    wide, narrow = ((322.0 + sign * 13.0 * math.sqrt(70.0)) / 1800.0 for sign in (1.0, -1.0))
    nodes, weights = [-b, -a, 0.0, a, b], [narrow, wide, 64.0 / 225.0, wide, narrow]
    return [0.5 * (1.0 + node) for node in nodes], weights


_PHASE, _EXPONENT = "the phase of every mode is exact", "the exponential of every mode is exact"

ROWS: list[Row] = [
    Exact("advection1d", "error up to 2.4", "translated exp(sin)", 2e-13, _translation, no_order=_PHASE),
    Exact("advection1d", "drift of the mean", "0", 1e-15, lambda: _drift(Advection(), "mean")),
    Exact("advection1d", "drift of the energy", "0", 1e-15, lambda: _drift(Advection(), "energy")),
    Exact("heat1d", "error up to 0.5", "images of a Gaussian", 1e-14, _spreading, no_order=_EXPONENT),
    Exact("heat1d", "drift of the mean", "0", 1e-15, lambda: _drift(Heat(), "mean")),
    Exact("advection_diffusion1d", "error up to 0.6", "drifting plume", 1e-13, lambda: _plume(1), no_order=_EXPONENT),
    Exact("advection_diffusion1d", "drift of the mean", "0", 1e-15, lambda: _drift(AdvectionDiffusion(), "mean")),
    Exact("advection_diffusion2d", "error up to 0.6", "drifting plume", 1e-13, lambda: _plume(2), no_order=_EXPONENT),
    Exact("advection_diffusion2d", "drift of the mean", "0", 1e-15, lambda: _drift(AdvectionDiffusion(dims=2), "mean")),
    Exact("advection_diffusion2d", "energy lost in 0.01", "its dissipation", 1e-9, _decay),
]
