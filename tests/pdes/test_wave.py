"""Acoustic waves and shots: what is drawn, what is refused, records, and derivatives in both directions."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from torch import Tensor

from pdediff.errors import ConfigError, NumericalError
from pdediff.pdes import AcousticWave, Clock, Problem
from pdediff.pdes.acoustics import LARGEST_COURANT, Acoustics
from pdediff.pdes.shots import Survey

CELLS = ((2, 3), (12, 9))
SURVEY = Survey(CELLS, ((4, 4), (9, 14), (12, 9)), 3.0, 2.0, Clock(frames=17, interval=0.04, step=0.014), layer=4)


def speed_of(n: int, rows: int = 1) -> Tensor:
    """Drawn speeds."""
    return AcousticWave().draw(range(rows), n).fields["speed"]


def noise(shape: tuple[int, ...]) -> Tensor:
    """Standard normal numbers."""
    return torch.randn(shape, generator=torch.Generator().manual_seed(8), dtype=torch.float64)


def test_draws_lie_within_their_bounds_and_show_one_sample_on_every_grid() -> None:
    pde = AcousticWave(low=1.5, high=4.5, pulses=2, clock=Clock(frames=2, interval=0.01, step=0.002))
    coarse, fine = (pde.draw(range(16), n) for n in (32, 64))
    speed = fine.fields["speed"]
    assert 1.5 < speed.min() < 1.8
    assert 4.2 < speed.max() < 4.5
    for name, tolerance in (("speed", 0.1), ("initial", 0.05)):
        cells = fine.fields[name].unflatten(1, (32, 2)).unflatten(3, (32, 2)).mean((2, 4))
        assert (cells - coarse.fields[name]).abs().max() < tolerance, name
    peaks = AcousticWave(pulses=1).draw(range(64), 64).fields["initial"]
    assert ((peaks.abs().amax((1, 2)) > 0.45) & (peaks.abs().amax((1, 2)) <= 1.0)).all()
    assert 16 < (peaks.amax((1, 2)) > 0.45).sum() < 48, "either sign"


def test_the_first_frame_is_the_initial_pressure_and_it_starts_at_rest() -> None:
    pde = AcousticWave(clock=Clock(frames=3, interval=1e-3, step=1e-3))
    problem = pde.draw((1,), 32)
    pressure = pde.solve(problem)["pressure"][0]
    assert torch.equal(pressure[0], problem.fields["initial"][0])
    # p(t) - p(0) = t^2 / 2 c^2 laplace p: four times as much after twice the time
    ratio = (pressure[2] - pressure[0]).norm() / (pressure[1] - pressure[0]).norm()
    assert abs(ratio - 4.0) < 1e-2


def test_the_symmetries_of_the_square() -> None:
    pde = AcousticWave(width=0.1, layer=6, clock=Clock(frames=3, interval=0.3, step=0.0025))
    problem = pde.draw((6,), 16)
    pressure = pde.solve(problem)["pressure"]
    for quarter in range(4):
        fields = {name: torch.rot90(value, quarter, (1, 2)).flip(2) for name, value in problem.fields.items()}
        expected = torch.rot90(pressure, quarter, (2, 3)).flip(3)
        torch.testing.assert_close(pde.solve(Problem(fields))["pressure"], expected, rtol=0.0, atol=1e-13)


def test_energy_leaves_through_the_layer_and_stays_between_walls() -> None:
    clock = Clock(frames=5, interval=0.3, step=0.0025)
    for layer, least, most in ((12, 0.0, 1e-3), (0, 1.0 - 1e-12, 1.0 + 1e-12)):
        pde = AcousticWave(layer=layer, clock=clock)
        energy = pde.invariants(pde.solve(pde.draw((5,), 32)))["energy"][0]
        assert least <= energy[-1] / energy[0] <= most
        assert energy.diff().max() <= 1e-12 * energy[0]


def test_step_and_speed_that_would_grow_are_refused() -> None:
    with pytest.raises(ConfigError, match=r"clock\.step=0\.005 must be at most 0\.004735 for high=2"):
        AcousticWave(clock=Clock(frames=3, interval=0.1, step=0.005))
    with pytest.raises(ConfigError, match=r"clock\.warm_up=2 must be 0"):
        AcousticWave(clock=Clock(frames=3, interval=0.1, step=0.002, warm_up=2))
    with pytest.raises(ConfigError, match="high must be above low"):
        AcousticWave(low=2.0, high=2.0)
    pde = AcousticWave(clock=Clock(frames=2, interval=0.1, step=0.0025))
    problem = pde.draw(range(3), 16)
    limit = LARGEST_COURANT / (16 * 0.01)
    for wrong in (1.01 * limit, 0.0, torch.nan):
        speed = problem.fields["speed"].clone()
        speed[1, 3, 4] = wrong
        with pytest.raises(NumericalError, match=r"speed of rows \[1\] is not between 0 and 3\.788"):
            pde.solve(Problem({**problem.fields, "speed": speed}))


def test_the_limit_of_the_step_is_the_limit_of_stability() -> None:
    chequered = (-1.0) ** torch.arange(16) * torch.sin(torch.arange(16) + 1.0)
    start = (chequered * chequered[:, None]).double()[None]
    ones = torch.ones(1, 16, 16, dtype=torch.float64)
    kept = []
    for factor in (0.999, 1.01):
        acoustics = Acoustics(ones, 0.999 * LARGEST_COURANT / 16, 0, 1.0, torch.float64)
        acoustics._push_x, acoustics._push_y = acoustics._push_x * factor**2, acoustics._push_y * factor**2
        kept.append(acoustics.pressure(acoustics.advance(acoustics.start(start), 600)).abs().max())
    assert kept[0] < 10.0 < 1e6 < kept[1]


def test_tangent_of_the_trajectory_agrees_with_the_adjoint() -> None:
    pde = AcousticWave(width=0.1, layer=4, clock=Clock(frames=4, interval=0.05, step=0.0025))
    problem = pde.draw((1, 2), 16)
    speed, initial = problem.fields["speed"], problem.fields["initial"]

    def solve(speed: Tensor, initial: Tensor) -> Tensor:
        return pde.solve(Problem({"speed": speed, "initial": initial}))["pressure"]

    directions = (noise((2, 16, 16)), noise((2, 16, 16)).flip(0))
    tangent = torch.func.jvp(solve, (speed, initial), directions)[1]
    weights = noise(tuple(tangent.shape))
    tracked = (speed.clone().requires_grad_(), initial.clone().requires_grad_())
    gradients = torch.autograd.grad((solve(*tracked) * weights).sum(), tracked)
    backwards = sum((g * d).sum() for g, d in zip(gradients, directions, strict=True))
    assert abs((tangent * weights).sum() - backwards) < 1e-12 * abs(backwards)


def test_shots_of_a_batch_are_those_of_its_rows() -> None:
    speed = speed_of(16, 3)
    whole = SURVEY.gather(speed)
    assert whole.shape == (3, 2, 17, 3)
    for row in range(3):
        assert torch.equal(SURVEY.gather(speed[row : row + 1])[0], whole[row])
    for shot, cell in enumerate(CELLS):
        assert torch.equal(replace(SURVEY, sources=(cell,)).gather(speed)[:, 0], whole[:, shot])


def test_a_record_does_not_depend_on_how_often_it_is_read() -> None:
    often = replace(SURVEY, clock=Clock(frames=33, interval=0.02, step=0.01))
    seldom = replace(SURVEY, clock=Clock(frames=17, interval=0.04, step=0.01))
    speed = speed_of(16)
    torch.testing.assert_close(often.gather(speed)[:, :, ::2], seldom.gather(speed), rtol=1e-12, atol=1e-14)


def test_gradient_of_shots_agrees_with_differences_and_the_tangent() -> None:
    speed = speed_of(16)
    direction = noise((1, 16, 16))
    weights = noise((1, 2, 17, 3))
    tracked = speed.clone().requires_grad_()
    (gradient,) = torch.autograd.grad((SURVEY.gather(tracked) * weights).sum(), tracked)
    found = (gradient * direction).sum()
    d1, d2 = (
        ((SURVEY.gather(speed + e * direction) - SURVEY.gather(speed - e * direction)) * weights).sum() / (2 * e)
        for e in (1e-3, 2e-3)
    )
    assert abs(found - (4.0 * d1 - d2) / 3.0) < 1e-6 * abs(found)
    tangent = torch.func.jvp(SURVEY.gather, (speed,), (direction,))[1]
    assert abs((tangent * weights).sum() - found) < 1e-12 * abs(found)


def test_memory_of_the_gradient_of_shots_grows_with_the_root_of_the_steps() -> None:
    def kept(frames: int) -> int:
        count = 0

        def pack(value: Tensor) -> Tensor:
            nonlocal count
            count += value.numel()
            return value

        survey = replace(SURVEY, clock=replace(SURVEY.clock, frames=frames))
        with torch.autograd.graph.saved_tensors_hooks(pack, lambda value: value):
            survey.gather(speed_of(16).requires_grad_())
        return count

    assert kept(16 * 17) < 4.5 * kept(17)


def test_surveys_that_cannot_be_made_are_refused() -> None:
    with pytest.raises(ConfigError, match="at least one cell"):
        replace(SURVEY, sources=())
    with pytest.raises(ConfigError, match=r"clock\.warm_up=1 must be 0"):
        replace(SURVEY, clock=replace(SURVEY.clock, warm_up=1))
    with pytest.raises(ConfigError, match=r"receivers=\(\(4, 16\),\) must lie on the grid, 0 to 15"):
        replace(SURVEY, receivers=((4, 16),)).gather(speed_of(16))
