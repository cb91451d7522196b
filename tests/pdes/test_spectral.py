"""The exponential integrator on the Korteweg-de Vries equation, whose symbol is imaginary."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
import torch
from torch import Tensor

from pdediff.pdes import spectral


class KdV:
    """u_t + u u_x + u_xxx = 0."""

    def symbol(self, modes: spectral.Modes) -> Tensor:
        return 1j * modes.k[0] ** 3

    def nonlinear(self, modes: spectral.Modes) -> Callable[[Tensor], Tensor]:
        return lambda v: -0.5j * modes.k[0] * modes.to_modes(modes.to_space(v).square())


def _soliton(t: float, points: int, length: float) -> Tensor:
    """3 c sech^2(sqrt(c) (x - x0 - c t) / 2) with c = 1."""
    x = torch.arange(points, dtype=torch.float64) * length / points
    return 3.0 / torch.cosh(0.5 * (x - 0.5 * length - t)) ** 2


@pytest.mark.parametrize(("h", "bound"), [(0.1, 8.4e-5), (0.05, 2.61e-6), (0.025, 1.83e-7)])
def test_kdv_soliton(h: float, bound: float) -> None:
    start = _soliton(0.0, 256, 40.0)[None]
    u = spectral.evolve(KdV(), start, torch.tensor([40.0], dtype=torch.float64), 2, 1.0, h)[0, 1]
    exact = _soliton(1.0, 256, 40.0)
    assert (u - exact).norm() < bound * exact.norm()


def test_linear_dispersion_is_exact_for_any_step() -> None:
    class Airy(KdV):
        def nonlinear(self, modes: spectral.Modes) -> Callable[[Tensor], Tensor]:
            return torch.zeros_like

    length = torch.tensor([3.0, 5.0], dtype=torch.float64)
    x = torch.arange(32, dtype=torch.float64) / 32
    k = 2.0 * torch.pi * 3.0 / length[:, None]
    u = spectral.evolve(Airy(), torch.sin(2.0 * torch.pi * 3.0 * x).expand(2, -1), length, 2, 0.7, 0.7)[:, 1]
    # the wave sin(k x) moves with phase k^3 t: u_t = -u_xxx
    torch.testing.assert_close(u, torch.sin(2.0 * torch.pi * 3.0 * x + k**3 * 0.7), rtol=0.0, atol=1e-12)


@pytest.mark.parametrize("dims", [1, 2])
@pytest.mark.parametrize("points", [16, 24, 27])
def test_products_of_live_modes_are_free_of_aliases(points: int, dims: int) -> None:
    modes = spectral.Modes(points, dims, torch.ones(1))
    g = torch.Generator().manual_seed(0)
    v = modes.project(torch.randn(1, *[points] * dims, generator=g, dtype=torch.float64))
    u = modes.to_space(v)
    fine = spectral.Modes(2 * points, dims, torch.ones(1))
    # the same coefficients on a grid that holds every product
    wide = torch.zeros(1, *[2 * points] * (dims - 1), fine.kept, dtype=torch.complex128)
    half = (points - 1) // 3
    rows = torch.arange(-half, half + 1)
    cut = (slice(None), rows, slice(0, half + 1)) if dims == 2 else (slice(None), slice(0, half + 1))
    wide[cut] = v[cut]
    exact = fine.to_modes(fine.to_space(wide).square())
    torch.testing.assert_close(modes.to_modes(u.square())[cut], exact[cut], rtol=0.0, atol=1e-14)
    assert modes.live.sum() == (2 * half + 1) ** (dims - 1) * (half + 1)


def test_tiles_cover_rows_evenly(monkeypatch: pytest.MonkeyPatch) -> None:
    start = torch.stack([_soliton(t, 64, 20.0) for t in (0.0, 1.0, 2.0, 3.0, 4.0)])
    length = torch.linspace(20.0, 22.0, 5, dtype=torch.float64)
    whole = spectral.evolve(KdV(), start, length, 3, 0.1, 0.1)
    monkeypatch.setattr(spectral, "TILE_POINTS", 64 * 4)
    assert torch.equal(spectral.evolve(KdV(), start, length, 3, 0.1, 0.1), whole)


def test_substeps_fill_the_interval() -> None:
    assert [spectral.substeps(0.2, h) for h in (0.05, 0.06, 0.2, 0.5)] == [4, 4, 1, 1]
    assert np.isclose(0.112 / spectral.substeps(0.112, 0.01), 0.112 / 12)
