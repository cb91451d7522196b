"""Kuramoto-Sivashinsky: resolution, the law of the samples, float32 and refusals."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from pdediff.errors import ConfigError
from pdediff.pdes import Clock, KuramotoSivashinsky, Problem


def test_default_data_are_resolved_and_on_the_attractor() -> None:
    pde = KuramotoSivashinsky(clock=Clock(40, 0.2, 0.05, warm_up=360))
    u = pde.solve(pde.draw(range(4), 256))["u"]
    spectrum = torch.fft.rfft(u, norm="forward").abs()
    assert spectrum[..., 70:].max() < 1e-7 * spectrum.max()  # steep fronts differ from draw to draw: 1e-11 to 3e-8 seen
    # 1.30 over 24 long rows
    assert abs(u.std() - 1.3) < 0.15


def test_one_seed_is_one_trajectory_at_every_resolution() -> None:
    pde = KuramotoSivashinsky(viscosity=(0.8, 1.2), clock=Clock(2, 0.2, 0.05, warm_up=50))
    coarse, fine = (pde.draw((9, 10), n) for n in (256, 512))
    torch.testing.assert_close(fine.fields["initial"][:, ::2], coarse.fields["initial"], rtol=0.0, atol=1e-10)
    for name, numbers in coarse.scalars.items():
        assert torch.equal(fine.scalars[name], numbers)


def test_numbers_fill_their_ranges_and_are_independent() -> None:
    pde = KuramotoSivashinsky(viscosity=(0.5, 1.5), clock=Clock(1, 0.2, 0.05))
    scalars = pde.draw(range(400), 16).scalars
    ranges = {"domain_length": (57.6, 70.4), "frame_interval": (0.18, 0.22), "viscosity": (0.5, 1.5)}
    assert set(scalars) == set(ranges)
    for name, (low, high) in ranges.items():
        margin = 0.02 * (high - low)
        assert low <= scalars[name].min() < low + margin, name
        assert high - margin < scalars[name].max() <= high, name
    correlation = torch.corrcoef(torch.stack([scalars[name] for name in ranges]))
    assert (correlation - torch.eye(3)).abs().max() < 0.15


def test_the_start_is_ten_sines_of_two_wave_numbers() -> None:
    start = KuramotoSivashinsky(clock=Clock(1, 0.2, 0.05)).draw(range(500), 32).fields["initial"]
    power = 2.0 * torch.fft.rfft(start, norm="forward").abs().square().mean(0)
    # ten sines of mean square amplitude 1/12, half of them of each wave number, mean square 1/2
    torch.testing.assert_close(power[1:3], torch.full((2,), 5.0 / 24.0, dtype=torch.float64), rtol=0.15, atol=0.0)
    assert power[3:].max() < 1e-28
    assert power[0] < 1e-28


def test_fixed_numbers_are_those_asked_for() -> None:
    pde = KuramotoSivashinsky(length=22.0, spread=0.0, time_spread=0.0, viscosity=(0.7, 0.7), clock=Clock(1, 0.3, 0.1))
    scalars = pde.draw((1, 2, 3), 32).scalars
    assert scalars["domain_length"].tolist() == [22.0] * 3
    assert scalars["frame_interval"].tolist() == [0.3] * 3
    assert scalars["viscosity"].tolist() == [0.7] * 3


def test_a_longer_interval_goes_further_in_as_many_steps() -> None:
    pde = KuramotoSivashinsky(length=22.0, time_spread=0.0, clock=Clock(3, 0.1, 0.05, warm_up=50))
    problem = pde.draw((4,), 32)
    doubled = problem.scalars | {"frame_interval": 2.0 * problem.scalars["frame_interval"]}
    far = pde.solve(Problem(problem.fields, doubled))["u"]
    near = replace(pde, clock=Clock(5, 0.1, 0.1)).solve(problem)["u"]
    # two steps of 0.1 either way
    torch.testing.assert_close(far[:, 1:], near[:, 2::2], rtol=0.0, atol=1e-13)


def test_float32_reaches_the_error_of_the_default_step() -> None:
    pde = KuramotoSivashinsky(clock=Clock(2, 0.2, 0.05, warm_up=200))
    problem = pde.draw(range(4), 256)
    exact = replace(pde, clock=Clock(2, 0.2, 0.00625)).solve(problem)["u"][:, 1]
    for precision, bound in (("float64", 1e-6), ("float32", 2e-6)):
        u = replace(pde, clock=Clock(2, 0.2, 0.05, precision=precision)).solve(problem)["u"][:, 1]  # type: ignore[arg-type]
        assert (u - exact).norm() < bound * exact.norm()


@pytest.mark.parametrize("viscosity", [(1.5, 0.5), (0.0, 1.0), (-1.0, 1.0)])
def test_a_viscosity_that_cannot_be_is_refused(viscosity: tuple[float, float]) -> None:
    with pytest.raises(ConfigError, match="viscosity="):
        KuramotoSivashinsky(viscosity=viscosity)
