"""Scattering, a chaotic series, space-time fields and modes: problems against what else is known of them."""

from __future__ import annotations

import itertools
import math

import numpy as np
import pytest
import scipy.special
import torch
from problem_recipe import small

from pdediff.config import build
from pdediff.errors import ConfigError
from pdediff.flows import compose
from pdediff.pdes import Burgers, Clock, Lorenz63, Problem
from pdediff.pdes.radiation import radiate
from pdediff.posterior import PCN, Chains, ExactMixture, ParticleSmoother
from pdediff.stages.problems import (
    AdvectionMixture2d,
    Born2d,
    Burgers1dSpaceTime,
    HelmholtzMedium2d,
    Lorenz63Series,
    exact_moments,
    exact_posterior,
    exact_std,
    setup_of,
)
from pdediff.stages.problems.born2d import RADIUS, SIDE, circle
from pdediff.stages.problems.helmholtz_medium2d import LAYER, edge_cells


def test_waves_of_the_antennas_are_hankel_functions() -> None:
    """Against Bessel functions of another library, their far field, and the equation away from the source."""
    problem = Born2d(grid=16)
    y, x = circle(20)[3]
    points, k = problem.coordinates()["x"], problem.wave_number
    distance = torch.from_numpy(np.hypot(points[:, None] - y, points - x))
    wave = problem.waves(circle(20))[3]
    known = 0.25 * torch.complex(-torch.special.bessel_y0(k * distance), torch.special.bessel_j0(k * distance))
    torch.testing.assert_close(wave, known, rtol=0, atol=1e-12)
    far = 0.25j * torch.polar((2 / (math.pi * k * distance)).sqrt(), k * distance - math.pi / 4)
    assert float(((wave - far).abs() / wave.abs()).max()) < 1 / (8 * k * (RADIUS - SIDE)) * 1.02
    # laplace G + k^2 G = 0 by fourth-order differences on a fine stencil around one cell
    h, offsets = 0.05 / k, np.arange(-2, 3)
    weights = np.array([-1.0, 16.0, -30.0, 16.0, -1.0]) / (12 * (0.05 / k) ** 2)
    r_x, r_y = (np.hypot(*pair) for pair in ((0.03 - y, 0.02 - x + h * offsets), (0.03 - y + h * offsets, 0.02 - x)))
    lines = [0.25j * scipy.special.hankel1(0, k * r) for r in (r_x, r_y)]
    assert abs(sum(weights @ line for line in lines) / k**2 + lines[0][2]) < 1e-5 * abs(lines[0][2])


def test_antennas_may_be_swapped() -> None:
    """Reciprocity: transmitter a heard at b is transmitter b heard at a, where both stand on the same places."""
    pairs = Born2d(grid=12, transmitters=5, receivers=15).pairs()[:, ::3]
    torch.testing.assert_close(pairs, pairs.transpose(0, 1), rtol=1e-13, atol=0)


def test_readings_are_full_scattering_to_first_order() -> None:
    """What the Lippmann-Schwinger equation adds falls with the square of the contrast."""
    problem = small("born2d")
    assert isinstance(problem, Born2d)
    made, cell = setup_of(problem), (problem.wave_number * SIDE / problem.grid) ** 2
    f = made.fields(made.draw((1,)))[0, 0].flatten().to(torch.complex128)
    points = problem.coordinates()["x"]
    place = np.stack(np.meshgrid(points, points, indexing="ij"), -1).reshape(-1, 2)
    distance = np.hypot(*(place[:, None] - place).transpose(2, 0, 1))
    np.fill_diagonal(distance, 0.4 * SIDE / problem.grid)  # any finite number: the order does not depend on it
    inner = torch.from_numpy(0.25j * scipy.special.hankel1(0, problem.wave_number * distance))
    sent, heard = (problem.waves(circle(n)).flatten(1) for n in (problem.transmitters, problem.receivers))
    off = []
    for size in (1e-2, 5e-3, 2.5e-3):
        total = torch.linalg.solve(torch.eye(len(f)) - cell * inner * (size * f), sent.T)
        full = cell * (heard * (size * f)) @ total
        first = size * torch.view_as_complex(made.readings(made.draw((1,)))[0].reshape(5, 10, 2)).T
        off.append(float((full - first).norm() / first.norm()))
    assert off[0] < 0.1
    assert [a / b for a, b in itertools.pairwise(off)] == pytest.approx([2.0, 2.0], rel=0.05)


def test_noise_of_complex_readings_is_shared_by_their_parts() -> None:
    problem = small("born2d", noise=0.5)
    made = setup_of(problem)
    residuals = torch.stack([problem.case(s).observation.y for s in range(300)]).reshape(300, -1, 2)
    clean = torch.stack([made.readings((problem.case(s).truth / 0.25)[None])[0] for s in range(300)]).reshape(
        300, -1, 2
    )
    power = (residuals - clean).square().sum(-1)
    assert float(power.mean()) == pytest.approx(0.25, rel=6 / math.sqrt(300 * 50))


def test_sources_and_receivers_stand_apart_on_the_edge() -> None:
    sources, receivers = edge_cells(16, 32, 0.0), edge_cells(16, 32, 0.5)
    both = np.concatenate([sources, receivers])
    assert ((both == 0) | (both == 31)).any(1).all()
    assert both.min() == 0
    assert both.max() == 31
    assert len(np.unique(both, axis=0)) == 32
    turned = np.stack([sources[:, 1], 31 - sources[:, 0]], 1)  # by a right angle
    assert {tuple(p) for p in turned} == {tuple(p) for p in sources}


def test_waves_without_a_medium_are_those_of_free_space() -> None:
    """i/4 H0(k r) but for the phase that the differences lose over a path r <= sqrt(2), k^3 h^2 / 24 a unit of path."""
    problem = HelmholtzMedium2d(grid=64, sources=4, points=4)
    heard = torch.view_as_complex(problem.heard(torch.zeros(1, 1, 64, 64).double()).reshape(4, 4, 2))
    centres = problem.coordinates()["x"]
    ours, theirs = (centres[edge_cells(4, 64, shift)] for shift in (0.0, 0.5))
    distance = np.hypot(*(ours[:, None] - theirs).transpose(2, 0, 1))
    known = torch.from_numpy(0.25j * scipy.special.hankel1(0, problem.wave_number * distance))
    lost = problem.wave_number**3 / 64**2 / 24
    assert float(((heard - known).abs() / known.abs()).max()) < 1.2 * math.sqrt(2) * lost


def test_a_weak_medium_scatters_as_in_the_born_approximation() -> None:
    """The derivative at no medium is k^2 int G q G with the waves of the same differences, to rounding."""
    problem = HelmholtzMedium2d(grid=12, sources=4, points=5)
    made, v = setup_of(problem), setup_of(problem).draw((1,))
    found = made.readings.jvp(torch.zeros_like(v), v)[0]
    cells = np.concatenate([edge_cells(4, 12, 0.0), edge_cells(5, 12, 0.5)])
    unit = torch.zeros(9, 12, 12, dtype=torch.complex128)
    unit[torch.arange(9), cells[:, 0], cells[:, 1]] = -(12.0**2)
    waves = radiate(torch.zeros(1, 12, 12).double(), unit[None], problem.wave_number, LAYER)[0].flatten(1)
    q = made.fields(v)[0, 0].flatten()
    wanted = problem.wave_number**2 / 12**2 * (waves[:4] * q) @ waves[4:].T
    torch.testing.assert_close(found, torch.view_as_real(wanted).flatten(), rtol=0, atol=1e-12)


def test_a_trajectory_without_noise_is_that_of_the_equation() -> None:
    """From the same state by the solver of `pdes`, in the same steps, and to fourth order in the step."""
    series = Lorenz63Series(frames=9)
    z = torch.zeros(1, 3, 9, dtype=torch.float64)
    z[0, :, 0] = torch.tensor([0.3, -0.8, 0.5])
    found = series.trajectory(z)[0]
    start = {f"{name}_initial": found[i, :1] for i, name in enumerate("xyz")}
    given = Problem({}, start | {"rho": torch.full((1,), 28.0, dtype=torch.float64)})
    errors = []
    for step in (0.025, 0.0125, 0.001):
        solved = Lorenz63(clock=Clock(frames=9, interval=0.025, step=step)).solve(given)
        errors.append(float((torch.stack([solved[name][0] for name in "xyz"]) - found).abs().max()))
    assert errors[0] < 1e-12
    assert errors[1] == pytest.approx(errors[2] * 15 / 16, rel=0.1)


def test_states_have_the_law_of_the_chain() -> None:
    """First state and what each step adds, over 4000 draws: six standard errors."""
    series, n = Lorenz63Series(frames=3), 4000
    x = series.trajectory(setup_of(series).draw(range(n)))
    off = x[:, :, 0] - torch.tensor([0.0, 0.0, 25.0])
    wanted = torch.tensor([[64.0, 50.0, 0.0], [50.0, 81.0, 0.0], [0.0, 0.0, 75.0]], dtype=torch.float64)
    spread = wanted.diagonal()
    assert ((off.T @ off / n - wanted) / ((spread[:, None] * spread + wanted**2) / n).sqrt()).abs().max() < 6
    added = torch.stack([x[:, :, k + 1] - series.step(x[:, :, k]) for k in (0, 1)])
    assert float((added.square().mean(1) / 0.025 - 1).abs().max()) < 6 * math.sqrt(2 / n)
    case = series.case(0)
    assert case.observation.noise.std.tolist() == [pytest.approx(0.4)]


def test_the_first_state_is_that_given_the_first_reading() -> None:
    """By the precision of prior and reading, written out; the other readings stay where they were taken."""
    series = Lorenz63Series(frames=9, every=4)
    observation = series.case(0).observation
    model = series.state_space(observation)
    law = torch.tensor([[64.0, 50.0, 0.0], [50.0, 81.0, 0.0], [0.0, 0.0, 75.0]], dtype=torch.float64)
    precision = torch.linalg.inv(law)
    precision[0, 0] += 1 / 0.4**2
    pull = torch.linalg.inv(law) @ torch.tensor([0.0, 0.0, 25.0]).double()
    pull[0] += observation.y[0] / 0.4**2
    torch.testing.assert_close(model.initial.matvec(torch.eye(3).double()), torch.linalg.inv(precision))
    torch.testing.assert_close(model.mean, torch.linalg.solve(precision, pull))
    seen = [None if one is None else float(one.y) for one in model.observations]
    assert seen == [None] * 4 + [float(observation.y[1])] + [None] * 3 + [float(observation.y[2])]


def test_chains_agree_with_the_particle_smoother() -> None:
    """Two references that share nothing but the model: white noise of all frames, and states frame by frame.

    Means and standard deviations of all 27 numbers in units of the spread; six runs of the smoother tell its error.
    """
    series = Lorenz63Series(frames=9, every=1, noise=0.25)
    observation = series.case(0).observation
    model = series.state_space(observation)
    runs = [ParticleSmoother(4096)(model, 128, seed).transpose(1, 2) for seed in range(6)]
    mean, std = torch.stack([x.mean(0) for x in runs]).mean(0), torch.stack([x.var(0) for x in runs]).mean(0).sqrt()
    chains = PCN(Chains(chains=32, burn_in=100, samples=16, thin=4))
    drawn = chains(series.prior(), observation, 512, 0)
    x = setup_of(series).fields(drawn.x)
    off, ratio = (x.mean(0) - mean) / std, x.std(0) / std
    print(
        f"largest shift {float(off.abs().max()):.3f} std, spread {float(ratio.min()):.3f} to {float(ratio.max()):.3f}"
    )
    assert off.abs().max() < 0.35
    assert ratio.log().abs().max() < 0.3


def test_space_time_fields_start_with_the_unknown() -> None:
    """All times by the solver of `pdes` from the first row, readings at every time of the same places."""
    problem = Burgers1dSpaceTime(grid=16, points=3)
    made, layout = setup_of(problem), setup_of(problem).layout
    u = made.fields(made.draw((1,)))[:, 0]
    clock = Clock(frames=16, interval=1 / 15, step=5e-3)
    given = Problem({"initial": u[:, 0]}, {"viscosity": torch.full((1,), 0.01, dtype=torch.float64)})
    solved = Burgers(viscosity=(0.01, 0.01), clock=clock).solve(given)["u"]
    torch.testing.assert_close(u, solved, rtol=0, atol=1e-9)
    assert len(np.unique(layout.position[:, 1])) == 3
    assert sorted(layout.position[:, 0]) == pytest.approx(np.repeat(np.linspace(0, 1, 16), 3))


def test_a_mixture_has_an_exact_posterior_of_its_own() -> None:
    """Mean and spread by 20000 draws of `ExactMixture`, six standard errors; weights that are not settled."""
    problem = small("advection_mixture2d")
    assert isinstance(problem, AdvectionMixture2d)
    case, n = problem.case(0), 20000
    posterior = exact_posterior(problem).posterior  # type: ignore[union-attr]
    assert float(posterior.weights(case.observation)[0].max()) < 0.99
    mean, std = exact_moments(problem, case.observation)
    x = ExactMixture()(problem.prior(), case.observation, n, 0).x
    assert ((x.mean(0) - mean) / std * math.sqrt(n)).abs().max() < 6
    square = (x - mean).square()
    assert ((square.mean(0) - std.square()) / square.std(0) * math.sqrt(n)).abs().max() < 6
    own = exact_posterior(problem).draws(case.observation, range(4000))
    assert ((own.mean(0) - mean) / std * math.sqrt(4000)).abs().max() < 6
    with pytest.raises(ConfigError, match="the spread of AdvectionMixture2d depends on the readings"):
        exact_std(problem)


def test_readings_of_a_mixture_are_those_of_the_plume() -> None:
    problem = AdvectionMixture2d(grid=16, points=5, times=3, noise=0.02)
    z = setup_of(problem).draw((1, 2))
    plume = setup_of(problem.plume).readings
    assert torch.equal(setup_of(problem).readings(z), plume(z))
    draws = setup_of(problem).draw(range(2000))
    assert float(draws.var(0).mean()) == pytest.approx(1.0, abs=0.05)
    variance = setup_of(problem).readings(draws).square().mean().sqrt()
    assert float(setup_of(problem).std[0]) == pytest.approx(0.02 * float(variance), rel=0.05)


@pytest.mark.parametrize("name", ["burgers1d_space_time", "advection_mixture2d"])
def test_too_many_sensors_are_refused(name: str) -> None:
    node = compose.node("problem", name) | {"grid": 8, "points": 65}
    with pytest.raises(ConfigError, match="points=65 is more than the"):
        build("problem", node)
