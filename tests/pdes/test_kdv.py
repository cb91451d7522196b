"""Korteweg-de Vries: the start, resolution, invariants by hand."""

from __future__ import annotations

import math

import torch

from pdediff.pdes import Clock, KortewegDeVries, Problem


def test_one_seed_is_one_trajectory_at_every_resolution() -> None:
    pde = KortewegDeVries(clock=Clock(2, 0.4, 0.025, warm_up=20))
    coarse, fine = (pde.draw((9, 10), n) for n in (256, 512))
    torch.testing.assert_close(fine.fields["initial"][:, ::2], coarse.fields["initial"], rtol=0.0, atol=1e-4)
    assert torch.equal(fine.scalars["domain_length"], coarse.scalars["domain_length"])


def test_error_of_the_default_step() -> None:
    pde = KortewegDeVries(clock=Clock(2, 0.4, 0.025, warm_up=110))
    problem = pde.draw(range(6), 256)
    u, exact = (KortewegDeVries(clock=Clock(2, 0.4, h)).solve(problem)["u"][:, 1] for h in (0.025, 0.0025))
    assert ((u - exact).norm(dim=-1) / exact.norm(dim=-1)).max() < 1e-6


def test_length_varies_within_its_spread() -> None:
    lengths = KortewegDeVries(clock=Clock(1, 0.4, 0.025)).draw(range(200), 16).scalars["domain_length"]
    assert 115.2 <= lengths.min() < 118.0
    assert 138.0 < lengths.max() <= 140.8


def test_invariants_by_hand() -> None:
    # u = 1 + 2 cos(k x) with k = 2 pi / 3: mean u^2 = 3, mean u_x^2 = 2 k^2, mean u^3 = 1 + 3 * 2 = 7
    x = 3.0 * torch.arange(16, dtype=torch.float64) / 16
    k = 2.0 * math.pi / 3.0
    u = (1.0 + 2.0 * torch.cos(k * x))[None, None]
    found = KortewegDeVries().invariants({"u": u, "domain_length": torch.tensor([3.0], dtype=torch.float64)})
    expected = {"mass": 1.0, "momentum": 1.5, "hamiltonian": k**2 - 7.0 / 6.0}
    for name, value in expected.items():
        assert abs(found[name].item() - value) < 1e-13, name


def test_the_mean_of_the_cube_has_no_alias() -> None:
    # of the modes below 16 / 3 the highest three add up to 15, less than 16
    generator = torch.Generator().manual_seed(0)
    live = torch.zeros(1, 9, dtype=torch.complex128)
    live[:, :6] = torch.randn(1, 6, generator=generator, dtype=torch.float64).to(torch.complex128)
    length = torch.tensor([1.0], dtype=torch.float64)
    coarse, fine = (
        KortewegDeVries().invariants(
            {"u": torch.fft.irfft(live, n=n, norm="forward")[:, None], "domain_length": length}
        )
        for n in (16, 64)
    )
    torch.testing.assert_close(coarse["hamiltonian"], fine["hamiltonian"], rtol=1e-13, atol=0.0)


def test_waves_move_backwards_and_solitons_forwards() -> None:
    x = torch.arange(128, dtype=torch.float64) * 40.0 / 128
    length = torch.tensor([40.0], dtype=torch.float64)
    k = 2.0 * math.pi * 3 / 40.0
    ripple = 1e-6 * torch.cos(k * x)[None]
    pde = KortewegDeVries(clock=Clock(2, 1.0, 0.1))
    u = pde.solve(Problem({"initial": ripple}, {"domain_length": length}))["u"][0, 1]
    torch.testing.assert_close(u, 1e-6 * torch.cos(k * x + k**3), rtol=0.0, atol=1e-11)
