"""Gray-Scott, Allen-Cahn and Fisher-KPP: starts, symmetries, grids and rates; rows/ has the exact solutions."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from rows.allen_cahn import SMALL as ALLEN_CAHN
from rows.gray_scott import SMALL as GRAY_SCOTT
from torch import Tensor

from pdediff.errors import ConfigError
from pdediff.pdes import PDE, AllenCahn, Clock, FisherKPP, GrayScott, Problem
from pdediff.pdes.gray_scott import REGIMES
from pdediff.types import Purpose, derive_many

SEEDS = derive_many(11, Purpose.PROBLEM, range(200))


@pytest.mark.parametrize("small", [*GRAY_SCOTT.values(), *ALLEN_CAHN.values()], ids=["gray_scott", "allen_cahn"])
def test_the_eight_symmetries_of_the_square(small: tuple[PDE, int]) -> None:
    pde, grid = small
    assert pde.symmetries == "square"
    problem = pde.draw(SEEDS[:1], grid)
    solution = pde.solve(problem)
    outputs = [v.name for v in pde.variables() if v.role == "output"]
    for quarter in range(4):
        for flip in (False, True):

            def move(field: Tensor, quarter: int = quarter, flip: bool = flip) -> Tensor:
                turned = torch.rot90(field, quarter, (-2, -1))
                return (turned.flip(-1) if flip else turned).contiguous()

            moved = pde.solve(Problem({k: move(v) for k, v in problem.fields.items()}, problem.scalars))
            for name in outputs:
                torch.testing.assert_close(moved[name], move(solution[name]), rtol=0.0, atol=1e-12)


@pytest.mark.parametrize(
    ("pde", "grids"),
    [
        (GrayScott(regimes=("worms",), length=0.5, clock=Clock(2, 50.0, 1.0, warm_up=2)), (64, 128)),
        (AllenCahn(width=0.04, clock=Clock(2, 1.0, 0.1, warm_up=1)), (64, 128)),
        (FisherKPP(clock=Clock(2, 2.0, 0.1, warm_up=1)), (256, 512)),
    ],
    ids=lambda value: getattr(value, "name", ""),
)
def test_one_seed_is_one_resolved_problem_on_every_grid(pde: PDE, grids: tuple[int, int]) -> None:
    coarse, fine = (pde.solve(pde.draw(SEEDS[:2], n)) for n in grids)
    for variable in pde.variables():
        every_other = fine[variable.name]
        for axis, name in enumerate(variable.dims, 1):
            if name in ("y", "x"):
                every_other = every_other.index_select(axis, torch.arange(0, grids[1], 2))
        size = every_other.abs().max()
        assert (every_other - coarse[variable.name]).abs().max() < 1e-2 * size, variable.name


def test_gray_scott_draws_its_regimes_and_spreads_their_rates() -> None:
    clock = Clock(2, 1.0, 1.0)
    rates = GrayScott(clock=clock).draw(SEEDS, 8).scalars
    drawn = set(zip(rates["feed"].tolist(), rates["kill"].tolist(), strict=True))
    assert drawn == set(REGIMES.values())
    spread = GrayScott(regimes=("maze",), spread=0.2, clock=clock).draw(SEEDS, 8).scalars
    for name, middle in (("feed", 0.029), ("kill", 0.057)):
        assert 0.8 * middle <= spread[name].min() < 0.82 * middle
        assert 1.18 * middle < spread[name].max() <= 1.2 * middle
    assert torch.corrcoef(torch.stack([spread["feed"], spread["kill"]]))[0, 1].abs() < 0.2
    with pytest.raises(ConfigError, match="regimes"):
        GrayScott(regimes=())


def test_gray_scott_starts_between_zero_and_one_with_separate_heaps() -> None:
    pde = GrayScott(clock=Clock(2, 1.0, 1.0))
    fields = pde.draw(SEEDS[:40], 128).fields
    a, b = fields["initial_a"], fields["initial_b"]
    assert min(a.min(), b.min()) > -1e-6
    assert max(a.max(), b.max()) < 1.0 + 1e-6
    assert (b.amax((1, 2)) > 0.6).all()
    assert (a.amin((1, 2)) < 0.4).all()
    # eaten and grown heaps lie apart: a + b is not 1
    assert ((a + b - 1.0).abs().amax((1, 2)) > 0.3).all()
    covered = (b > 0.3).double().mean((1, 2))
    assert covered.min() < 0.1 < 0.15 < covered.max()


def test_the_rates_of_a_pattern_can_be_recovered() -> None:
    pde = GrayScott(regimes=("maze",), length=0.5, clock=Clock(2, 20.0, 2.0, warm_up=3))
    problem = pde.draw(SEEDS[:1], 32)
    data = pde.solve(problem)["b"]
    rates = torch.tensor([1.1, 0.95], dtype=torch.float64, requires_grad=True)
    for _ in range(4):  # Gauss-Newton on the relative rates

        def misfit(r: Tensor) -> Tensor:
            scalars = {"feed": r[:1] * problem.scalars["feed"], "kill": r[1:] * problem.scalars["kill"]}
            return (pde.solve(Problem(problem.fields, scalars))["b"] - data)[0, -1, ::16, ::16].flatten()

        jacobian = torch.autograd.functional.jacobian(misfit, rates)
        step = torch.linalg.lstsq(jacobian, misfit(rates)[:, None]).solution[:, 0]
        rates = (rates - step).detach().requires_grad_()
    torch.testing.assert_close(rates.detach(), torch.ones(2, dtype=torch.float64), rtol=0.0, atol=1e-6)


def test_fisher_draws_its_colonies_and_rates() -> None:
    pde = FisherKPP(clock=Clock(2, 0.2, 0.1))
    problem = pde.draw(SEEDS, 512)
    u = problem.fields["initial"]
    assert u.min() > -1e-9
    assert u.max() < 1.0
    above = u > 0.05
    heaps = (above & ~above.roll(1, -1)).sum(1)
    assert set(heaps.tolist()) == {1, 2, 3}
    for name, low, high in (("diffusivity", 0.5, 2.0), ("growth", 0.5, 1.5)):
        rate = problem.scalars[name]
        assert low <= rate.min() < 1.02 * low
        assert 0.98 * high < rate.max() <= high
    with pytest.raises(ConfigError, match="growth"):
        FisherKPP(growth=(0.0, 1.0))


def test_fisher_refuses_runs_that_amplify_rounding() -> None:
    fits = Clock(51, 0.2, 0.1)
    FisherKPP(clock=fits)
    for clock in (Clock(101, 0.2, 0.1), replace(fits, warm_up=80), replace(fits, precision="float32")):
        with pytest.raises(ConfigError, match=f"{clock.precision} bears it up to t ="):
            FisherKPP(clock=clock)


def test_fisher_rows_follow_their_own_rates() -> None:
    pde = FisherKPP(clock=Clock(2, 1.0, 0.05))
    x = torch.arange(64, dtype=torch.float64) / 64
    wave = (1e-7 * torch.cos(2.0 * torch.pi * x)).expand(2, -1)
    rates = {"diffusivity": torch.tensor([0.5, 2.0]).double(), "growth": torch.tensor([1.0, 0.5]).double()}
    u = pde.solve(Problem({"initial": wave}, rates))["u"]
    grown = torch.exp(rates["growth"] - rates["diffusivity"] * (2.0 * torch.pi / pde.length) ** 2)
    torch.testing.assert_close(u[:, 1], grown[:, None] * wave, rtol=0.0, atol=1e-12)


def test_phases_separate_to_their_two_values() -> None:
    pde = AllenCahn(width=0.03, clock=Clock(2, 10.0, 0.1))
    u = pde.solve(pde.draw(SEEDS[:2], 64))["u"][:, 1]
    assert (u.abs() > 0.9).double().mean() > 0.6
    assert (u.amax((1, 2)) > 0.99).all()
    assert (u.amin((1, 2)) < -0.99).all()


def test_energy_of_a_wave_by_hand() -> None:
    pde = AllenCahn(width=0.1)
    x = torch.arange(16, dtype=torch.float64) / 16
    u = (0.5 * torch.cos(2.0 * torch.pi * (x + 2.0 * x[:, None])))[None, None]
    # mean of (1 - u^2)^2 = 1 - 2 * 0.125 + 3/8 * 0.5^4; mean |grad u|^2 = 5 (2 pi)^2 * 0.125
    expected = 0.5 * 0.01 * 5 * (2 * torch.pi) ** 2 * 0.125 + 0.25 * (1 - 0.25 + 0.375 * 0.0625)
    assert abs(float(pde.invariants({"u": u})["energy"][0, 0]) - expected) < 1e-14


def test_float32_states_of_patterns_stay_close() -> None:
    pde = GrayScott(length=0.5, clock=Clock(3, 50.0, 1.0, warm_up=1))
    problem = pde.draw(SEEDS[:2], 64)
    single = replace(pde, clock=replace(pde.clock, precision="float32")).solve(problem)
    for name in ("a", "b"):
        assert (single[name] - pde.solve(problem)[name]).abs().max() < 1e-4
