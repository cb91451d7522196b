"""Navier-Stokes flow: operator, force, obstacles, levels; rows/navier_stokes.py has the orders and exact solutions."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
import torch
from rows.navier_stokes import PAST_DISCS, WIDE, problem, square
from torch import Tensor

from pdediff.errors import ConfigError
from pdediff.pdes import Clock, NavierStokes, Problem, spectral
from pdediff.pdes.discs import Discs
from pdediff.pdes.vorticity import velocity
from pdediff.types import Purpose, derive_many

SEEDS = derive_many(7, Purpose.PROBLEM, range(4))
BOX = torch.ones(1, dtype=torch.float64)
TURN = 2.0 * torch.pi


def _rate(pde: NavierStokes, case: Problem) -> Tensor:
    """w_t of the first row as the integrator sees it, on the grid."""
    equation, parameters = pde._equation({**case.fields, **case.scalars})
    modes = spectral.Modes(case.fields["initial"].shape[-1], 2, BOX, parameters)
    w = modes.project(case.fields["initial"])
    return modes.to_space((equation.symbol(modes) * w + equation.nonlinear(modes)(w)) * modes.live)[0]


def test_the_rate_of_change_is_that_of_a_manufactured_field() -> None:
    viscosity, speed, eta = 0.03, 0.4, 0.05
    y, x = square(32)
    a, b = TURN * x, TURN * y
    # psi = sin(a) cos(2 b) + cos(a + b) / 2, (u, v) = (speed + psi_y, -psi_x), w = -laplace psi
    w = TURN**2 * (5.0 * torch.sin(a) * torch.cos(2 * b) + torch.cos(a + b))
    u = speed + TURN * (-2.0 * torch.sin(a) * torch.sin(2 * b) - 0.5 * torch.sin(a + b))
    v = TURN * (-torch.cos(a) * torch.cos(2 * b) + 0.5 * torch.sin(a + b))
    w_x = TURN**3 * (5.0 * torch.cos(a) * torch.cos(2 * b) - torch.sin(a + b))
    w_y = TURN**3 * (-10.0 * torch.sin(a) * torch.sin(2 * b) - torch.sin(a + b))
    laplace = -(TURN**4) * (25.0 * torch.sin(a) * torch.cos(2 * b) + 2.0 * torch.cos(a + b))
    chi = 0.5 + 0.2 * torch.cos(a) + 0.3 * torch.sin(b)
    chi_x, chi_y = -0.2 * TURN * torch.sin(a), 0.3 * TURN * torch.cos(b)
    force = 0.1 * (torch.sin(a + b) + torch.cos(a + b))
    expected = -u * w_x - v * w_y + viscosity * laplace + force
    pde = NavierStokes(flow=speed, discs=Discs(penalty=eta))
    scale = expected.abs().max()
    assert (_rate(pde, problem(w, viscosity)) - expected).abs().max() < 1e-13 * scale
    damped = expected - (chi * w + chi_x * v - chi_y * u) / eta
    assert (_rate(pde, problem(w, viscosity, chi)) - damped).abs().max() < 1e-13 * scale


def test_the_force_stirs_a_fluid_at_rest() -> None:
    y, x = square(16)
    pde = NavierStokes(clock=Clock(2, 0.5, 0.1))
    w = pde.solve(problem(torch.zeros_like(x), 1e-3))["vorticity"][0, 1]
    shape = torch.sin(TURN * (x + y)) + torch.cos(TURN * (x + y))
    decay = 2.0 * TURN**2 * 1e-3
    growth = -torch.expm1(torch.tensor(-decay * 0.5, dtype=torch.float64)) / decay
    torch.testing.assert_close(w, 0.1 * growth * shape, rtol=0.0, atol=1e-14)


def test_velocities_are_free_of_divergence_and_have_that_vorticity() -> None:
    w = PAST_DISCS.draw(SEEDS[:1], 32).fields["initial"][:, None]
    u, v = (part[0, 0] for part in velocity(w, BOX, 0.25))
    k = TURN * torch.fft.fftfreq(32, 1.0 / 32, dtype=torch.float64)
    u_x, v_y, v_x, u_y = (
        torch.fft.ifft(1j * k * torch.fft.fft(f.movedim(axis, -1))).real.movedim(-1, axis)
        for f, axis in ((u, 1), (v, 0), (v, 1), (u, 0))
    )
    assert (u_x + v_y).abs().max() < 1e-12
    torch.testing.assert_close(v_x - u_y, w[0, 0], rtol=0.0, atol=1e-11)
    assert abs(float(u.mean()) - 0.25) < 1e-14
    assert abs(float(v.mean())) < 1e-14


def test_invariants_by_hand() -> None:
    # u = 0.5 + 0.3 sin(2 pi y), v = 0.2 sin(2 pi x), w = v_x - u_y; a uniform porous body of a quarter of full damping
    y, x = square(16)
    w = TURN * (0.2 * torch.cos(TURN * x) - 0.3 * torch.cos(TURN * y))
    pde = NavierStokes(flow=0.5, discs=Discs(penalty=0.1))
    found = pde.invariants({"vorticity": w[None, None], "obstacle": torch.full((1, 16, 16), 0.25)})
    expected = {
        "mean": 0.0,
        "energy": 0.5 * (0.25 + 0.5 * 0.09 + 0.5 * 0.04),
        "enstrophy": 0.25 * TURN**2 * (0.04 + 0.09),
        "drag": 0.25 * 0.5 / 0.1,
    }
    assert {name: pytest.approx(float(value), abs=1e-14) for name, value in found.items()} == expected


def test_a_uniform_flow_only_carries() -> None:
    still = NavierStokes(forcing=0.0, clock=Clock(2, 0.5, 0.005))
    start = 2.0 * still.start.draw(SEEDS[:1], 32, 2)[0]
    carried = replace(still, flow=0.25)  # a quarter of the box per unit time: 4 cells of 32 in half of one
    w, moved = (pde.solve(problem(start, 1e-3))["vorticity"][0, 1] for pde in (still, carried))
    torch.testing.assert_close(moved, w.roll(4, -1), rtol=0.0, atol=1e-7)


def test_the_flow_stops_in_the_discs_and_pushes_them_downstream() -> None:
    pde = NavierStokes(
        viscosity=(2e-3, 2e-3), forcing=0.0, flow=0.25, obstacles=(1, 2), clock=Clock(2, 0.5, 0.02, warm_up=8)
    )
    fields = pde.solve(pde.draw(SEEDS, 64))
    u, v = velocity(fields["vorticity"][:, -1:], BOX, 0.25)
    speed = torch.hypot(u, v)[:, 0]
    inside, outside = (
        (speed * part).sum((1, 2)) / part.sum((1, 2)) for part in (fields["obstacle"] > 0.99, fields["obstacle"] < 0.01)
    )
    assert (inside < 0.05 * outside).all()
    assert (pde.invariants(fields)["drag"][:, -1] > 0.0).all()


def test_rows_without_obstacles_have_the_same_bits_in_any_batch() -> None:
    pde = replace(PAST_DISCS, obstacles=(0, 2))
    case = pde.draw(SEEDS, 32)
    empty = case.fields["obstacle"].flatten(1).amax(1) == 0.0
    assert empty.tolist() == [True, False, False, False] or 0 < int(empty.sum()) < 4
    whole = pde.solve(case)["vorticity"]
    for row in range(4):
        assert torch.equal(pde.solve(case.rows(row, row + 1))["vorticity"][0], whole[row])


def test_both_forms_of_the_transport_agree_and_the_plain_one_keeps_its_bits() -> None:
    plain = NavierStokes(viscosity=(1e-3, 1e-2), clock=Clock(3, 0.5, 0.05))
    case = plain.draw(SEEDS, 32)
    w = plain.solve(case)["vorticity"]
    assert torch.equal(plain.solve(case.rows(2, 3))["vorticity"][0], w[2])
    damped = replace(plain, obstacles=(0, 1)).solve(case)["vorticity"]
    torch.testing.assert_close(damped, w, rtol=0.0, atol=1e-13)
    # a mask that comes from elsewhere counts, whatever the class draws itself
    chi = torch.full_like(case.fields["obstacle"], 0.5)
    fields = {**case.fields, "obstacle": chi}
    assert plain.solve(Problem(fields, case.scalars))["vorticity"][:, -1].abs().max() < 0.1 * w[:, -1].abs().max()


def test_each_row_has_its_viscosity() -> None:
    pde = NavierStokes(viscosity=(1e-3, 1e-1), forcing=0.0, clock=Clock(2, 0.5, 0.05))
    viscosity = pde.draw(range(300), 16).scalars["viscosity"]
    assert 1e-3 <= viscosity.min() < 1.1e-3
    assert 0.09 < viscosity.max() <= 0.1
    assert abs(float(viscosity.log().mean()) - torch.tensor(1e-2).log().item()) < 0.25
    y, _ = square(16)
    shear = torch.cos(TURN * y).expand(3, 16, 16)
    nu = torch.tensor([1e-3, 1e-2, 1e-1], dtype=torch.float64)
    w = pde.solve(Problem({"initial": shear, "obstacle": torch.zeros_like(shear)}, {"viscosity": nu}))["vorticity"]
    decay = torch.exp(-nu * TURN**2 * 0.5)[:, None, None]
    torch.testing.assert_close(w[:, 1], decay * shear, rtol=0.0, atol=1e-14)


def test_numbers_of_obstacles_are_drawn_evenly_from_fewest_to_most() -> None:
    discs = Discs(radius=(0.08, 0.08), edge=0.02)
    pde = NavierStokes(obstacles=(1, 3), discs=discs, clock=Clock(2, 0.2, 0.02))
    covered = pde.draw(derive_many(8, Purpose.PROBLEM, range(120)), 64).fields["obstacle"].mean((1, 2))
    counts = torch.bincount((covered / (torch.pi * 0.08**2)).round().long())
    assert counts[0] == 0
    assert counts[1:].sum() == 120
    assert 25 < counts[1:].min() <= counts[1:].max() < 55
    assert len(counts) == 4


def test_the_step_shrinks_with_the_cells_beyond_64_points() -> None:
    pde = NavierStokes(clock=Clock(2, 1.0, 0.02))
    steps = [pde.inner_description(grid)["step"] for grid in (16, 64, 128, 256)]
    assert steps == [0.02, 0.02, 0.01, 0.005]


def test_levels_grow_in_obstacles_and_reynolds_number() -> None:
    base = replace(NavierStokes(), clock=Clock(2, 1.0, 0.02))
    counts, thickness = [], []
    for name in ("low", "medium", "high"):
        pde = replace(base, **NavierStokes.levels[name])
        case = pde.draw(SEEDS, 64)
        disc = torch.pi * 0.09**2
        counts.append(float(case.fields["obstacle"].mean() / disc))
        thickness.append(float(case.scalars["viscosity"].mean()))
        assert pde.variables() == base.variables()
    assert counts[0] == 0.0
    assert 0.4 < counts[1] < 1.8 < counts[2]
    assert thickness[0] > thickness[1] > thickness[2]


def test_one_seed_is_one_problem_on_every_grid() -> None:
    pde = NavierStokes(viscosity=(1e-3, 1e-2), flow=0.25, obstacles=(1, 3), discs=WIDE, clock=Clock(3, 0.2, 0.02))
    coarse, fine = (pde.draw(SEEDS[:2], n) for n in (32, 64))
    assert torch.equal(coarse.scalars["viscosity"], fine.scalars["viscosity"])
    assert torch.equal(coarse.fields["obstacle"], fine.fields["obstacle"][:, ::2, ::2])
    live = (..., slice(0, 11), slice(0, 11))
    spectra = [torch.fft.fft2(case.fields["initial"], norm="forward")[live] for case in (coarse, fine)]
    torch.testing.assert_close(spectra[0], spectra[1], rtol=0.0, atol=1e-15)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"viscosity": (0.0, 1.0)}, "viscosity"),
        ({"viscosity": (2.0, 1.0)}, "viscosity"),
        ({"obstacles": (3, 1)}, "obstacles"),
        ({"obstacles": (0, 40)}, "40 discs"),
        ({"obstacles": (0, 1), "clock": Clock(2, 1.0, 0.06)}, r"clock.step=0.06 must be at most .* = 0.054"),
    ],
)
def test_bad_settings_are_refused(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        NavierStokes(**changes)


def test_a_grid_without_room_for_the_force_is_refused() -> None:
    with pytest.raises(ConfigError, match="grid=6"):
        NavierStokes().draw((0,), 6)
