"""Kolmogorov flow against an independent integrator and exact solutions."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
import torch
from torch import Tensor

from pdediff.errors import ConfigError
from pdediff.pdes import KolmogorovFlow, Problem, spectral


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


def test_fourth_order_towards_an_independent_solution() -> None:
    base = {"viscosity": 5e-3, "frames": 2, "frame_step": 0.4, "warm_up": 5, "forcing": 3}
    problem = KolmogorovFlow(**base).draw((1,), 24)
    exact = torch.from_numpy(_reference(problem.fields["initial"][0].numpy(), KolmogorovFlow(**base), 0.4, 400))
    errors = []
    for h in (0.05, 0.025, 0.0125):
        pde = KolmogorovFlow(**base, step=h * 24 / 64)
        errors.append((pde.solve(problem)["vorticity"][0, 1] - exact).norm().item() / exact.norm().item())
    assert errors[-1] < 5e-6
    assert np.log2(errors[0] / errors[1]) > 3.9
    assert np.log2(errors[1] / errors[2]) > 3.9


class _Unforced:
    """The flow without its force: N(w) - N(0)."""

    def __init__(self, pde: KolmogorovFlow) -> None:
        self.symbol = pde.symbol
        self._pde = pde

    def nonlinear(self, modes: spectral.Modes) -> Callable[[Tensor], Tensor]:
        transport = self._pde.nonlinear(modes)
        return lambda w: transport(w) - transport(torch.zeros_like(w))


def _grid(n: int) -> tuple[Tensor, Tensor]:
    points = 2.0 * torch.pi * torch.arange(n, dtype=torch.float64) / n
    y, x = torch.meshgrid(points, points, indexing="ij")
    return y, x


def test_taylor_green_vortices_decay() -> None:
    pde = KolmogorovFlow(viscosity=0.02, drag=0.1)
    y, x = _grid(32)
    start = 2.0 * torch.cos(x) * torch.cos(2.0 * y)
    box = torch.tensor([2.0 * torch.pi], dtype=torch.float64)
    w = spectral.evolve(_Unforced(pde), start[None], box, 4, 0.5, 0.02)[0]
    for frame, t in zip(w, (0.0, 0.5, 1.0, 1.5), strict=True):
        torch.testing.assert_close(frame, start * np.exp(-(5 * 0.02 + 0.1) * t), rtol=0.0, atol=1e-12)


def test_inviscid_transport_conserves_energy_and_enstrophy() -> None:
    pde = KolmogorovFlow(viscosity=1e-12, drag=0.0, frames=2, warm_up=0)
    start = pde.draw((3,), 32).fields["initial"]
    box = torch.tensor([2.0 * torch.pi], dtype=torch.float64)
    w = spectral.evolve(_Unforced(pde), start, box, 5, 0.2, 0.0025)
    monitored = pde.invariants({"vorticity": w})
    assert (w[:, 0] - w[:, -1]).norm() > 0.1 * w[:, 0].norm()
    for name in ("energy", "enstrophy"):
        # the scheme errs by h^4; the exact flow of the truncated system conserves both
        assert (monitored[name] / monitored[name][:, :1] - 1.0).abs().max() < 2e-7


def test_laminar_profile_is_steady_and_pushed_along_x() -> None:
    pde = KolmogorovFlow(viscosity=0.5, drag=0.1, forcing=2, frames=5)
    y, _ = _grid(32)
    # u = sin(k y) / (nu k^2 + drag) along x, w = -u_y
    profile = -2.0 * torch.cos(2.0 * y) / (0.5 * 4 + 0.1)
    w = pde.solve(Problem({"initial": profile[None]}))["vorticity"]
    torch.testing.assert_close(w, profile.expand_as(w), rtol=0.0, atol=1e-13)
    # mean |u|^2 / 2 of the sine is a quarter of its squared amplitude; enstrophy is k^2 times that
    monitored = pde.invariants({"vorticity": w})
    energy = 0.25 / 2.1**2
    torch.testing.assert_close(monitored["energy"], torch.full((1, 5), energy, dtype=torch.float64))
    torch.testing.assert_close(monitored["enstrophy"], torch.full((1, 5), 4 * energy, dtype=torch.float64))


def test_mean_vorticity_stays_zero_and_the_step_keeps_the_courant_limit() -> None:
    pde = KolmogorovFlow(frames=3, warm_up=40)
    fields = pde.solve(pde.draw((2,), 64))
    assert pde.invariants(fields)["mean"].abs().max() < 1e-14
    w = fields["vorticity"][:, -1]
    m = torch.fft.fftfreq(64, 1.0 / 64, dtype=torch.float64)
    psi = torch.fft.fft2(w) / (m[:, None] ** 2 + m**2).clamp(min=1.0)
    u, v = torch.fft.ifft2(1j * m[:, None] * psi).real, torch.fft.ifft2(-1j * m * psi).real
    h = pde.inner_description(64)["step"]
    assert 0.3 < (u.abs() + v.abs()).max() * 21 * h < 2.8


def test_a_grid_that_drops_the_force_is_refused() -> None:
    with pytest.raises(ConfigError, match="drops the force"):
        KolmogorovFlow(forcing=4).draw((0,), 12)
