"""Lorenz 1963 and 1996: worked tendencies, parameters of the samples, the attractor, levels and refusals."""

from __future__ import annotations

import pytest
import torch

from pdediff.errors import ConfigError
from pdediff.pdes import Clock, Lorenz63, Lorenz96, Problem, check


def test_tendencies_by_hand() -> None:
    # sigma = 10, rho = 28, beta = 8/3 at (1, 2, 3): (10, 25 - 2, 2 - 8)
    state = torch.tensor([1.0, 2.0, 3.0], dtype=torch.float64)
    rate = Lorenz63().tendency(state, torch.tensor(28.0))
    torch.testing.assert_close(rate, torch.tensor([10.0, 23.0, -6.0], dtype=torch.float64))
    # F = 8 at (1, 2, 4, 7): (2 - 4) 7 - 1 + 8, (4 - 7) 1 - 2 + 8, (7 - 1) 2 - 4 + 8, (1 - 2) 4 - 7 + 8
    ring = torch.tensor([1.0, 2.0, 4.0, 7.0], dtype=torch.float64)
    rate = Lorenz96().tendency(ring, torch.tensor(8.0))
    torch.testing.assert_close(rate, torch.tensor([-7.0, 3.0, 16.0, -3.0], dtype=torch.float64))


def test_invariants_by_hand() -> None:
    state = {"x": 1.0, "y": 2.0, "z": 3.0, "rho": 28.0}
    fields = {name: torch.full((1, 1) if name != "rho" else (1,), value) for name, value in state.items()}
    # (1 + 4 + (3 - 38)^2) / 2
    assert Lorenz63().invariants(fields)["energy"].item() == 615.0
    found = Lorenz96().invariants({"x": torch.tensor([[[1.0, 2.0, 4.0, 7.0]]])})
    assert (found["mean"].item(), found["energy"].item()) == (3.5, 8.75)


def test_each_sample_has_its_own_parameter() -> None:
    pde = Lorenz63(rho=(20.0, 40.0), clock=Clock(9, 0.05, 0.01, warm_up=20))
    problem = pde.draw(range(100), 1)
    rho = problem.scalars["rho"]
    assert 20.0 <= rho.min() < 21.0
    assert 39.0 < rho.max() <= 40.0
    whole = pde.solve(problem)
    lone = Lorenz63(rho=(rho[7].item(),) * 2, clock=pde.clock).solve(problem.rows(7, 8))
    assert torch.equal(lone["z"][0], whole["z"][7])


def test_parameter_and_state_are_independent_draws() -> None:
    problem = Lorenz96(forcing=(4.0, 12.0), clock=Clock(1, 0.05, 0.05)).draw(range(400), 4)
    forcing = problem.scalars["forcing"]
    deviation = problem.fields["initial"] - forcing[:, None]
    assert abs(torch.corrcoef(torch.stack([forcing, deviation[:, 0]]))[0, 1]) < 0.15
    assert abs(deviation.std() - 1.0) < 0.05


def test_warm_up_ends_on_the_attractor() -> None:
    # mean and deviation of z at rho = 28 over the attractor are 23.55 and 8.6; the mean of x is 2.34 at F = 8
    drawn = Lorenz63().draw(range(300), 1).scalars
    assert abs(drawn["z_initial"].mean() - 23.55) < 1.5
    assert abs(drawn["z_initial"].std() - 8.6) < 1.0
    ring = Lorenz96().draw(range(60), 40).fields["initial"]
    assert abs(ring.mean() - 2.34) < 0.2
    assert abs(ring.std() - 3.64) < 0.2


def test_levels_differ_in_predictability() -> None:
    growth = {}
    for name, changes in Lorenz96.levels.items():
        pde = Lorenz96(**changes, clock=Clock(41, 0.05, 0.0125, warm_up=200))
        problem = pde.draw(range(16), 40)
        start = problem.fields["initial"]
        near = Problem({"initial": start + 1e-7 * torch.sign(start)}, problem.scalars)
        gap = (pde.solve(near)["x"] - pde.solve(problem)["x"]).norm(dim=-1)
        growth[name] = torch.log(gap[:, -1] / gap[:, 0]).mean().item() / 2.0
        assert check(pde, pde.solve(problem)) == [None] * 16
    assert growth["low"] + 0.5 < growth["medium"] < growth["high"] - 0.5


def test_wrong_ranges_and_rings_are_refused() -> None:
    with pytest.raises(ConfigError, match="rho="):
        Lorenz63(rho=(30.0, 28.0))
    with pytest.raises(ConfigError, match="forcing="):
        Lorenz96(forcing=(9.0, 8.0))
    with pytest.raises(ConfigError, match="at least 4 sites"):
        Lorenz96().draw((0,), 3)
