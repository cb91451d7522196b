"""Shallow water: fluxes by hand, lakes, mirror images, scales, dry ground, limits of the method."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import pytest
import torch
from rows.shallow_water import Walls, at_rest, centres, dam_break, final, lakes, problem
from torch import Tensor

from pdediff.errors import ConfigError
from pdediff.pdes import Clock, Problem, ShallowWater, check
from pdediff.pdes.saint_venant import DAMPED, SaintVenant, hll, velocities
from pdediff.types import Purpose, derive_many

SEEDS = derive_many(6, Purpose.PROBLEM, range(3))
WALLS: tuple[Walls, Walls] = ("reflective", "periodic")
FLOW = ("depth", "velocity_x", "velocity_y")


def flow(*values: float) -> tuple[Tensor, Tensor, Tensor]:
    """One face with this depth and these velocities along and across."""
    return tuple(torch.tensor([value], dtype=torch.float64) for value in values)  # type: ignore[return-value]


def numbers(parts: tuple[Tensor, ...]) -> list[float]:
    """The fluxes as numbers."""
    return [part.item() for part in parts]


def test_fluxes_of_equal_and_of_fast_states_are_exact() -> None:
    def exact(h: float, u: float, v: float) -> list[float]:
        return [h * u, h * u * u + 0.5 * 9.0 * h * h, h * u * v]

    same = (0.8, -0.4, 0.3)
    assert numbers(hll(flow(*same), flow(*same), 9.0)) == pytest.approx(exact(*same), rel=1e-13)
    fast, other = (1.0, 4.0, 0.5), (0.5, 5.0, -0.5)
    assert numbers(hll(flow(*fast), flow(*other), 9.0)) == pytest.approx(exact(*fast), rel=1e-13)
    back = (0.5, -5.0, -0.5)
    assert numbers(hll(flow(1.0, -4.0, 0.5), flow(*back), 9.0)) == pytest.approx(exact(*back), rel=1e-13)


def test_hll_by_hand() -> None:
    # still water of depths 1 and 1/4 with g = 4: waves -2 and 2, fluxes of discharge 2 and 1/8
    found = numbers(hll(flow(1.0, 0.0, 3.0), flow(0.25, 0.0, 5.0), 4.0))
    water = (2.0 * 0.0 + 2.0 * 0.0 - 4.0 * (0.25 - 1.0)) / 4.0
    along = (2.0 * 2.0 + 2.0 * 0.125) / 4.0
    assert found == pytest.approx([water, along, 3.0 * water], rel=1e-13)


def test_velocity_is_damped_only_where_there_is_hardly_any_water() -> None:
    state = torch.tensor([[1.0, 0.5, -0.25], [DAMPED, DAMPED, 0.0], [0.1 * DAMPED, 0.1 * DAMPED, 0.0], [0.0, 0.0, 0.0]])
    _, u, v = velocities(state.double())
    assert u.tolist() == pytest.approx([0.5, 1.0, 0.01, 0.0], rel=1e-5)
    assert v[0].item() == -0.25


@pytest.mark.parametrize("walls", WALLS)
@pytest.mark.parametrize("bottom", ["hill", "island", "rough", "dry"])
def test_a_lake_stays_at_rest(walls: Walls, bottom: str) -> None:
    assert at_rest(walls, lakes(24)[bottom]) < 1e-14


def test_height_of_the_ground_is_a_matter_of_convention() -> None:
    problems = ShallowWater(bottom=0.5, thickness=0.1).draw(SEEDS, 24).fields
    clock = Clock(2, 0.2, 0.002)
    pde = ShallowWater(clock=clock)
    low = pde.solve(Problem(problems))
    high = pde.solve(Problem(problems | {"bottom": problems["bottom"] + 3.0}))
    for name in FLOW:
        torch.testing.assert_close(high[name], low[name], rtol=0.0, atol=1e-11)


@pytest.mark.parametrize("walls", WALLS)
def test_mirror_images_and_exchanged_axes_stay_so(walls: Walls) -> None:
    pde = ShallowWater(walls=walls, clock=Clock(2, 0.2, 0.003))
    start = pde.draw(SEEDS, 24).fields
    u, v = (0.2 * start[name] - 0.1 for name in ("initial_depth", "bottom"))

    def run(h: Tensor, u: Tensor, v: Tensor, b: Tensor) -> list[Tensor]:
        parts = {"bottom": b, "initial_depth": h, "initial_velocity_x": u, "initial_velocity_y": v}
        fields = pde.solve(Problem(parts))
        return [fields[name][:, 1] for name in FLOW]

    h, b = start["initial_depth"], start["bottom"]
    base = run(h, u, v, b)
    flipped = run(h.flip(-1), -u.flip(-1), v.flip(-1), b.flip(-1))
    turned = run(h.mT, v.mT, u.mT, b.mT)
    for part, image, sign in zip(base, flipped, (1.0, -1.0, 1.0), strict=True):
        torch.testing.assert_close(sign * image.flip(-1), part, rtol=0.0, atol=1e-12)
    for part, image in zip(base, (turned[0], turned[2], turned[1]), strict=True):
        torch.testing.assert_close(image.mT, part, rtol=0.0, atol=1e-12)


def test_four_times_the_gravity_is_twice_as_fast() -> None:
    slow = ShallowWater(clock=Clock(3, 0.1, 0.004))
    fast = ShallowWater(gravity=4.0, clock=Clock(3, 0.05, 0.002))
    start = slow.draw(SEEDS, 24)
    first, second = slow.solve(start), fast.solve(start)
    torch.testing.assert_close(second["depth"], first["depth"], rtol=0.0, atol=1e-12)
    for name in FLOW[1:]:
        torch.testing.assert_close(second[name], 2.0 * first[name], rtol=0.0, atol=1e-12)


@pytest.mark.parametrize("walls", WALLS)
def test_water_that_floods_dry_hills_is_neither_lost_nor_made(walls: Walls) -> None:
    bottom = lakes(16)["dry"]
    _, x = centres(16)
    still = torch.zeros_like(x)
    depth = torch.where(x < 0.4, 2.0 - bottom, 0.0)
    found = final(walls, (depth, still, still, bottom), 0.5, 0.08 / 16)["depth"]
    assert found.min() >= 0.0
    assert (found - depth).abs().max() > 0.1
    assert found.mean().item() == pytest.approx(depth.mean().item(), rel=1e-13)


def test_a_dam_on_a_dry_bed_wets_what_the_exact_solution_wets() -> None:
    found, exact = dam_break(0.0, 48)
    depth = found["depth"][0].numpy()
    front = 0.5 + 2.0 * 0.15
    x = (np.arange(48) + 0.5) / 48
    assert np.abs(depth - exact).max() < 0.05
    assert depth[x > front + 2 / 48].max() < 1e-3
    assert (depth[x < front - 4 / 48] > 1e-3).all()


def test_energy_falls_at_bores_and_nowhere_rises() -> None:
    pde = ShallowWater(rise=(0.8, 1.6), clock=Clock(21, 0.02, 0.004))
    energy = pde.invariants(pde.solve(pde.draw(SEEDS, 32)))["energy"]
    assert (energy.diff(dim=1) < 1e-8 * energy[:, :1]).all()
    assert (energy[:, -1] < 0.999 * energy[:, 0]).all()


def test_energy_and_courant_number_by_hand() -> None:
    pde = ShallowWater(gravity=9.0, clock=Clock(frames=4, interval=0.05, step=0.01))
    parts = {"depth": 4.0, "velocity_x": 0.5, "velocity_y": -2.0, "bottom": 0.25}
    fields = {name: torch.full((1, 1, 32, 32), value, dtype=torch.float64) for name, value in parts.items()}
    fields["bottom"] = fields["bottom"][:, 0]
    found = pde.invariants(fields)
    assert found["mass"].item() == pytest.approx(4.0)
    assert found["energy"].item() == pytest.approx(0.5 * 4.0 * 4.25 + 4.5 * (4.25**2 - 0.25**2))
    # (2 + 6) h / dx with steps of 0.05 / 3, as 0.01 is meant for 64 cells
    assert found["courant"].item() == pytest.approx(8.0 * 0.05 / 3 * 32)


def test_a_step_too_long_is_rejected() -> None:
    wild = ShallowWater(clock=Clock(frames=6, interval=0.5, step=0.2))
    assert all(check(wild, wild.solve(wild.draw(SEEDS, 32))))


def test_a_dry_row_leaves_the_others_alone() -> None:
    water = SaintVenant(1.0, "reflective")
    y, x = (2.0 * math.pi * part for part in centres(16))
    deep = torch.stack([1.0 + 0.2 * torch.sin(x), 0.1 * torch.cos(y), 0.2 * torch.sin(y)])
    dry = torch.stack([torch.where(x < 3.0, 1.0, 0.0), 0.0 * x, 0.0 * x])
    bottom = 0.1 * torch.cos(x).expand(2, -1, -1)
    both = water.advance(torch.stack([dry, deep]), 0.01, *water.bottom(bottom))
    assert torch.equal(both[1:], water.advance(deep[None], 0.01, *water.bottom(bottom[1:])))


@pytest.mark.parametrize("initial", ["dam_break", "bumps"])
def test_problems_are_the_same_on_every_grid_and_within_their_ranges(initial: str) -> None:
    pde = ShallowWater(initial=initial, depth=1.5, rise=(0.5, 0.5), bottom=0.4)  # type: ignore[arg-type]
    coarse, fine = (pde.draw(SEEDS, grid).fields for grid in (32, 96))
    for name, value in coarse.items():
        torch.testing.assert_close(fine[name][:, 1::3, 1::3], value, rtol=0.0, atol=1e-14)
    bottom, surface = coarse["bottom"], coarse["initial_depth"] + coarse["bottom"]
    assert ((bottom >= 0.0) & (bottom <= 0.4)).all()
    assert (bottom.amax((1, 2)) > 0.1).all()
    assert surface.min().item() == pytest.approx(1.5, abs=1e-3)
    top = surface.amax((1, 2))
    if initial == "dam_break":
        torch.testing.assert_close(top, torch.full_like(top, 2.0))
        wet = (surface > 1.75).double().mean((1, 2))
        assert ((wet > 0.9 * math.pi * 0.1**2) & (wet < 1.1 * math.pi * 0.25**2)).all()
    else:
        assert ((top > 1.9) & (top < 3.5)).all()
    assert all((coarse[f"initial_velocity_{axis}"] == 0.0).all() for axis in "xy")
    warm = replace(pde, clock=replace(pde.clock, warm_up=1)).draw(SEEDS, 32).fields
    torch.testing.assert_close(warm["initial_depth"], pde.solve(Problem(coarse))["depth"][:, 1])


def test_problems_of_one_row_can_be_given_by_hand() -> None:
    _, x = centres(8)
    fields = ShallowWater(clock=Clock(2, 0.1, 0.01)).solve(problem(1.0 + 0.1 * x, 0.0 * x, 0.0 * x, 0.0 * x))
    assert fields["depth"].shape == (1, 2, 8, 8)
    assert fields["velocity_x"][0, 1].max() < 0.0


def test_settings_without_water_are_refused() -> None:
    with pytest.raises(ConfigError, match=r"bottom=1\.2 must stay below depth=1"):
        ShallowWater(bottom=1.2)
    with pytest.raises(ConfigError, match="rise"):
        ShallowWater(rise=(0.5, 0.2))
    with pytest.raises(ConfigError, match=r"rise=\[-0.1, 0.2\] must not fall below zero"):
        ShallowWater(rise=(-0.1, 0.2))
