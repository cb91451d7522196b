"""Kolmogorov flow: what the shared rows do not ask (rows/kolmogorov.py has the orders)."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
import torch
from torch import Tensor

from pdediff.errors import ConfigError
from pdediff.pdes import Clock, KolmogorovFlow, Problem, spectral

BOX = torch.tensor([2.0 * torch.pi], dtype=torch.float64)


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
    w = spectral.evolve(_Unforced(pde), start[None], BOX, Clock(4, 0.5, 0.02))[0]
    for frame, t in zip(w, (0.0, 0.5, 1.0, 1.5), strict=True):
        torch.testing.assert_close(frame, start * np.exp(-(5 * 0.02 + 0.1) * t), rtol=0.0, atol=1e-12)


def test_inviscid_transport_conserves_energy_and_enstrophy() -> None:
    pde = KolmogorovFlow(viscosity=1e-12, drag=0.0, clock=Clock(2, 0.112, 0.01))
    start = pde.draw((3,), 32).fields["initial"]
    w = spectral.evolve(_Unforced(pde), start, BOX, Clock(5, 0.2, 0.0025))
    monitored = pde.invariants({"vorticity": w})
    assert (w[:, 0] - w[:, -1]).norm() > 0.1 * w[:, 0].norm()
    for name in ("energy", "enstrophy"):
        # the scheme errs by h^4; the exact flow of the truncated system conserves both
        assert (monitored[name] / monitored[name][:, :1] - 1.0).abs().max() < 2e-7


def test_energy_and_enstrophy_of_the_laminar_profile() -> None:
    pde = KolmogorovFlow(viscosity=0.5, drag=0.1, forcing=2, clock=Clock(5, 0.112, 0.01))
    y, _ = _grid(32)
    # u = sin(k y) / (nu k^2 + drag) along x, w = -u_y
    profile = -2.0 * torch.cos(2.0 * y) / (0.5 * 4 + 0.1)
    monitored = pde.invariants(pde.solve(Problem({"initial": profile[None]})))
    # mean |u|^2 / 2 of the sine is a quarter of its squared amplitude; enstrophy is k^2 times that
    energy = 0.25 / 2.1**2
    torch.testing.assert_close(monitored["energy"], torch.full((1, 5), energy, dtype=torch.float64))
    torch.testing.assert_close(monitored["enstrophy"], torch.full((1, 5), 4 * energy, dtype=torch.float64))


def test_mean_vorticity_stays_zero_and_the_step_keeps_the_courant_limit() -> None:
    pde = KolmogorovFlow(clock=Clock(3, 0.112, 0.01, warm_up=40))
    fields = pde.solve(pde.draw((2,), 64))
    assert pde.invariants(fields)["mean"].abs().max() < 1e-14
    w = fields["vorticity"][:, -1]
    m = torch.fft.fftfreq(64, 1.0 / 64, dtype=torch.float64)
    psi = torch.fft.fft2(w) / (m[:, None] ** 2 + m**2).clamp(min=1.0)
    u, v = torch.fft.ifft2(1j * m[:, None] * psi).real, torch.fft.ifft2(-1j * m * psi).real
    h = float(str(pde.inner_description(64)["step"]))
    assert 0.3 < (u.abs() + v.abs()).max() * 21 * h < 2.8


def test_a_grid_that_drops_the_force_is_refused() -> None:
    with pytest.raises(ConfigError, match="drops the force"):
        KolmogorovFlow(forcing=4).draw((0,), 12)
