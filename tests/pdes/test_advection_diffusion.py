"""Linear equations of constant coefficients: the law of the start, exact posteriors, steps that are no limit."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor

from pdediff.errors import ConfigError
from pdediff.pdes import Advection, AdvectionDiffusion, Clock, Heat, Problem
from pdediff.pdes.periodic_gaussian import PeriodicGaussian

ALL = [Advection(), Heat(), AdvectionDiffusion(), AdvectionDiffusion(dims=2)]


@pytest.mark.parametrize(("dims", "grid"), [(1, 32), (2, 12)])
def test_the_start_has_the_spectrum_that_it_tells(dims: int, grid: int) -> None:
    start = PeriodicGaussian(sigma=3.0, alpha=1.5, tau=4.0)
    fields = start.draw(range(3000), grid, dims)
    axes = tuple(range(1, dims + 1))
    power = torch.fft.fftn(fields, dim=axes, norm="ortho").abs().square().mean(0)
    spectrum = start.spectrum(grid, dims)
    # by hand: sigma^2 (4 pi^2 |m|^2 + tau^2)^(-alpha) for |m_j| < n/3, times the points, nothing for the mean
    first = (0,) * (dims - 1) + (1,)
    assert abs(spectrum[first] / (grid**dims * 9.0 * (4.0 * torch.pi**2 + 16.0) ** -1.5) - 1.0) < 1e-14
    assert spectrum.flatten()[0] == 0.0
    assert (spectrum > 0.0).sum() == (2 * ((grid - 1) // 3) + 1) ** dims - 1
    # 3000 draws: four deviations of a mean square of complex normals
    drawn = spectrum > 0.0
    assert (power[drawn] / spectrum[drawn] - 1.0).abs().max() < 0.1
    assert power[~drawn].max() < 1e-25


def test_deviation_is_that_of_the_points() -> None:
    start = PeriodicGaussian()
    assert abs(start.deviation(1) - 0.594) < 1e-3
    assert abs(start.draw(range(4000), 64, 1).std() - start.deviation(1)) < 0.02


@pytest.mark.parametrize("pde", ALL, ids=lambda p: f"{p.name}_{len(p.coordinates(16)) - 1}d")
def test_the_step_changes_nothing(pde: Any) -> None:
    problem = pde.draw(range(3), 24)
    finer = replace(pde, clock=replace(pde.clock, step=0.001))
    assert torch.equal(pde.solve(problem)["u"], finer.solve(problem)["u"])


@pytest.mark.parametrize("pde", ALL, ids=lambda p: f"{p.name}_{len(p.coordinates(16)) - 1}d")
def test_one_seed_is_one_problem_at_every_resolution(pde: Any) -> None:
    smooth = replace(pde, start=PeriodicGaussian(sigma=1e6, alpha=6.0, tau=5.0), clock=Clock(3, 0.1, 0.1, warm_up=3))
    coarse, fine = (smooth.solve(smooth.draw((5, 6), n)) for n in (32, 64))
    every = fine["u"][..., ::2] if coarse["u"].ndim == 3 else fine["u"][..., ::2, ::2]
    torch.testing.assert_close(every, coarse["u"], rtol=0.0, atol=1e-4)
    for name in (v.name for v in pde.variables() if not v.dims):
        assert torch.equal(fine[name], coarse[name])


def test_warm_up_is_time_that_passes() -> None:
    pde = AdvectionDiffusion(dims=2, clock=Clock(4, 0.05, 0.05))
    u = pde.solve(pde.draw((1, 2), 24))["u"]
    warm = replace(pde, clock=Clock(2, 0.05, 0.05, warm_up=2)).draw((1, 2), 24)
    torch.testing.assert_close(warm.fields["initial"], u[:, 2], rtol=0.0, atol=1e-14)


def _first_columns(pde: Any, problem: Problem, frame: int, points: Tensor) -> Tensor:
    """The map from the initial state to `u` at points of a frame, as a matrix: images of unit vectors."""
    grid = problem.fields["initial"].shape[-1]
    units = torch.eye(grid, dtype=torch.float64)
    scalars = {name: value.expand(grid) for name, value in problem.scalars.items()}
    return pde.solve(Problem({"initial": units}, scalars))["u"][:, frame, points].T


@pytest.mark.parametrize(
    "pde",
    [Advection(speed=(0.7, 0.7)), Heat(diffusivity=(2e-3, 2e-3)), AdvectionDiffusion(diffusivity=(1e-3, 1e-3))],
    ids=lambda p: p.name,
)
def test_the_posterior_of_the_start_is_the_gaussian_of_its_spectrum(pde: Any) -> None:
    """The law of draws, conditioned in closed form on noisy points of a later frame, covers the draws as it should."""
    grid, noise, rows = 32, 0.05, 400
    pde = replace(pde, clock=Clock(6, 0.1, 0.1), **({"velocity": (0.4, 0.4)} if pde.name[-9:] == "diffusion" else {}))
    problem = pde.draw(range(rows), grid)
    initial = problem.fields["initial"]
    points = torch.arange(0, grid, 4)
    H = _first_columns(pde, problem.rows(0, 1), 5, points)
    basis = torch.fft.ifft(torch.eye(grid, dtype=torch.complex128), norm="ortho")
    S = ((basis * pde.start.spectrum(grid, 1)) @ basis.conj().T).real
    y = pde.solve(problem)["u"][:, 5, points]
    y = y + noise * torch.randn(y.shape, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    gain = S @ H.T @ torch.linalg.inv(H @ S @ H.T + noise**2 * torch.eye(len(points), dtype=torch.float64))
    mean, covariance = y @ gain.T, S - gain @ H @ S
    values, vectors = torch.linalg.eigh(covariance)
    known = values > 1e-12
    score = ((initial - mean) @ vectors[:, known]).square() / values[known]
    # a mean of 400 rows of squares of normals, each direction; the sum has as many degrees as modes were drawn
    assert known.sum() == 20
    assert abs(score.mean() - 1.0) < 4.0 * (2.0 / score.numel()) ** 0.5
    assert (score.mean(0) - 1.0).abs().max() < 4.5 * (2.0 / rows) ** 0.5
    # the observations have told something
    assert ((initial - mean).square().mean() / initial.square().mean()) < 0.3


def test_numbers_fill_their_ranges() -> None:
    heat = Heat(diffusivity=(1e-4, 1e-2)).draw(range(500), 8).scalars
    carried = Advection(speed=(-2.0, 1.0)).draw(range(500), 8).scalars
    both = AdvectionDiffusion(dims=2, velocity=(-2.0, 1.0), diffusivity=(1e-4, 1e-2)).draw(range(500), 8).scalars
    for speed in (carried["speed"], both["velocity_y"], both["velocity_x"]):
        assert -2.0 <= speed.min() < -1.95
        assert 0.95 < speed.max() <= 1.0
        assert abs(speed.mean() + 0.5) < 0.15
    assert abs(torch.corrcoef(torch.stack([both["velocity_y"], both["velocity_x"]]))[0, 1]) < 0.15
    for diffusivity in (heat["diffusivity"], both["diffusivity"]):
        assert 1e-4 <= diffusivity.min() < 1.1e-4
        assert 0.9e-2 < diffusivity.max() <= 1e-2
        assert abs((diffusivity < 1e-3).double().mean() - 0.5) < 0.08


def test_one_wave_by_hand() -> None:
    # cos(2 pi x) at velocity 0.25 and D = 0.01 after 1: a quarter turn on, exp(-0.04 pi^2) of its height
    x = torch.arange(16, dtype=torch.float64) / 16
    scalars = {
        name: torch.tensor([v], dtype=torch.float64) for name, v in (("velocity_x", 0.25), ("diffusivity", 0.01))
    }
    pde = AdvectionDiffusion(clock=Clock(2, 1.0, 1.0))
    u = pde.solve(Problem({"initial": torch.cos(2.0 * torch.pi * x)[None]}, scalars))["u"][0, 1]
    expected = math.exp(-0.04 * math.pi**2) * torch.sin(2.0 * torch.pi * x)
    torch.testing.assert_close(u, expected, rtol=0.0, atol=1e-14)


def test_impossible_settings_are_refused() -> None:
    with pytest.raises(ConfigError, match=r"speed=\[2, 1\]"):
        Advection(speed=(2.0, 1.0))
    with pytest.raises(ConfigError, match=r"diffusivity=\[0, 1\] must be above zero"):
        Heat(diffusivity=(0.0, 1.0))
    with pytest.raises(ConfigError, match=r"velocity=\[1, -1\]"):
        AdvectionDiffusion(velocity=(1.0, -1.0))
    with pytest.raises(ConfigError, match="diffusivity="):
        AdvectionDiffusion(diffusivity=(2e-3, 1e-3))
