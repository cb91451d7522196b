"""Burgers, smooth and with shocks: the law of the start, agreement of the two methods, refusals."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from pdediff.errors import ConfigError
from pdediff.pdes import Burgers, BurgersShock, Clock, Problem

SEEDS = range(4)


def test_the_start_has_the_law_of_li_et_al() -> None:
    start = Burgers(clock=Clock(1, 0.01, 0.01)).draw(range(2000), 64).fields["initial"]
    power = torch.fft.rfft(start, norm="forward").abs().square().mean(0)
    m = torch.arange(1.0, 11.0, dtype=torch.float64)
    # N(0, 625 (-laplace + 25)^-2) on the unit ring
    expected = 625.0 / (4.0 * torch.pi**2 * m**2 + 25.0) ** 2
    torch.testing.assert_close(power[1:11], expected, rtol=0.15, atol=0.0)
    assert power[0] < 1e-28


def test_viscosity_is_spread_over_its_logarithm() -> None:
    pde = Burgers(viscosity=(1e-3, 1e-1), clock=Clock(1, 0.01, 0.01))
    viscosity = pde.draw(range(1000), 16).scalars["viscosity"]
    assert 1e-3 <= viscosity.min() < 1.05e-3
    assert 0.95e-1 < viscosity.max() <= 1e-1
    assert abs((viscosity < 1e-2).double().mean() - 0.5) < 0.05


def test_one_seed_is_one_problem_at_every_resolution() -> None:
    pde = Burgers(clock=Clock(3, 0.25, 2.5e-3))
    coarse, fine = (pde.solve(pde.draw(SEEDS, n))["u"] for n in (128, 256))
    assert (fine[:, 1:, ::2] - coarse[:, 1:]).abs().max() < 1e-2
    cells = BurgersShock(viscosity=(0.0, 0.0), clock=Clock(3, 0.25, 1.25e-3))
    coarse, fine = (cells.solve(cells.draw(SEEDS, n))["u"] for n in (128, 256))
    means = fine.unflatten(-1, (128, 2)).mean(-1)
    assert (means[:, 1:] - coarse[:, 1:]).abs().mean() < 2e-3


def test_cell_means_are_means_of_the_same_field() -> None:
    points = Burgers(clock=Clock(1, 0.01, 0.01)).draw(SEEDS, 64).fields["initial"]
    means = BurgersShock(clock=Clock(1, 0.01, 0.01)).draw(SEEDS, 64).fields["initial"]
    fine = 64 * 64
    interpolated = torch.fft.irfft(torch.fft.rfft(points, norm="forward"), n=fine, norm="forward")
    # the midpoint rule on 64 points of every cell, whose first midpoint is half a fine cell further
    middles = 0.5 * (interpolated + interpolated.roll(-1, -1))
    torch.testing.assert_close(middles.unflatten(-1, (64, 64)).mean(-1), means, rtol=0.0, atol=1e-4)


def test_spectral_and_shock_capturing_agree_where_both_are_resolved() -> None:
    problem = Burgers(viscosity=(0.03, 0.03), clock=Clock(1, 0.25, 0.25)).draw(SEEDS, 128)
    m = torch.arange(65, dtype=torch.float64) / 128

    def means(u: torch.Tensor) -> torch.Tensor:
        return torch.fft.irfft(torch.polar(torch.sinc(m), torch.pi * m) * torch.fft.rfft(u), n=128)

    points = Burgers(clock=Clock(2, 0.25, 1e-3)).solve(problem)["u"][:, 1]
    start = Problem({"initial": means(problem.fields["initial"])}, problem.scalars)
    cells = BurgersShock(clock=Clock(2, 0.25, 6e-4)).solve(start)["u"][:, 1]
    # the start has a kink in it: not all of the fifth order is there
    assert (cells - means(points)).abs().max() < 1e-4


def test_a_level_changes_the_steepness() -> None:
    slopes = []
    for level in ("low", "medium", "high"):
        pde = Burgers(**Burgers.levels[level], clock=Clock(3, 0.1, 2.5e-3))
        u = pde.solve(pde.draw(SEEDS, 256))["u"][:, -1]
        slopes.append(float(u.diff(dim=-1).abs().max()))
    assert slopes[0] < slopes[1] < slopes[2]


def test_a_shock_takes_three_cells() -> None:
    u = torch.where((torch.arange(256) > 50) & (torch.arange(256) < 128), 1.0, 0.0).double()[None]
    pde = BurgersShock(clock=Clock(2, 0.2, 1.25e-3))
    end = pde.solve(Problem({"initial": u}, {"viscosity": torch.zeros(1, dtype=torch.float64)}))["u"][0, 1]
    jump = (end[128:200] > 0.02) & (end[128:200] < 0.98)
    assert 1 <= int(jump.sum()) <= 3
    assert end.max() < 1.0 + 1e-6
    assert end.min() > -1e-6


def test_invariants_by_hand() -> None:
    u = torch.tensor([[[1.0, 3.0, 0.0, 0.0]]], dtype=torch.float64)
    found = BurgersShock().invariants({"u": u})
    assert [found[name].item() for name in ("mean", "energy", "variation")] == [1.0, 1.25, 6.0]


def test_coordinates_are_points_and_cell_centres() -> None:
    np.testing.assert_allclose(Burgers(length=2.0).coordinates(4)["x"], [0.0, 0.5, 1.0, 1.5])
    np.testing.assert_allclose(BurgersShock(length=2.0).coordinates(4)["x"], [0.25, 0.75, 1.25, 1.75])


def test_the_step_follows_the_grid() -> None:
    for pde, step in ((Burgers(), 2.5e-3), (BurgersShock(), 1.25e-3)):
        for grid in (64, 128, 512):
            assert pde.inner_description(grid)["step"] == pytest.approx(step * 128 / grid)


def test_a_range_is_filled_evenly_with_zero_in_it() -> None:
    viscosity = BurgersShock(clock=Clock(1, 0.01, 1e-3)).draw(range(400), 16).scalars["viscosity"]
    assert 0.0 <= viscosity.min() < 2e-5
    assert 0.98e-3 < viscosity.max() <= 1e-3
    assert abs(viscosity.mean() - 5e-4) < 5e-5


def test_impossible_settings_are_refused() -> None:
    with pytest.raises(ConfigError, match=r"viscosity=\[0.02, 0.01\]"):
        Burgers(viscosity=(0.02, 0.01))
    with pytest.raises(ConfigError, match=r"viscosity=\[0, 0.01\] must be above zero"):
        Burgers(viscosity=(0.0, 0.01))
    with pytest.raises(ConfigError, match="must not be negative"):
        BurgersShock(viscosity=(-1e-3, 0.01))
    with pytest.raises(ConfigError, match=r"clock.step=0.00125 is too long for viscosity=0.05 on grid=256"):
        BurgersShock(viscosity=(0.0, 0.05)).draw((1,), 256)


def test_the_largest_step_that_is_named_is_stable_and_one_beyond_is_not() -> None:
    with pytest.raises(ConfigError) as caught:
        BurgersShock(viscosity=(0.05, 0.05), clock=Clock(2, 0.5, 5e-3)).coordinates(128)
    most = float(caught.value.message.rsplit(" ", 1)[1])
    numbers = {"viscosity": torch.tensor([0.05], dtype=torch.float64)}
    ripple = torch.cos(torch.pi * torch.arange(128, dtype=torch.float64))[None] * 1e-3
    ends = []
    for factor in (0.99, 1.1):
        pde = BurgersShock(viscosity=(0.05, 0.05), clock=Clock(2, 400 * factor * most, factor * most))
        ends.append(float(pde.solve(Problem({"initial": ripple}, numbers))["u"][0, 1].abs().max()))
    assert ends[0] < 1e-3
    assert not ends[1] < 1e-3
