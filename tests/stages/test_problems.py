"""Inverse problems with priors in closed form: exact posteriors, their published errors, and guidance against them."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
import torch
from problem_recipe import GAUSSIAN, LINEAR, NONLINEAR, SMALL, small
from torch import Tensor

from pdediff.config import build
from pdediff.errors import ConfigError
from pdediff.flows import compose
from pdediff.pdes import AdvectionDiffusion, Clock, Helmholtz, Poisson, Problem
from pdediff.posterior import Draws
from pdediff.stages.problems import (
    AdvectionDiffusion2d,
    Heat1d,
    Helmholtz2d,
    InverseProblem,
    Poisson2d,
    exact_posterior,
    exact_std,
    setup_of,
)
from pdediff.types import normal


def relative(error: Tensor, truth: Tensor, channel: int = 0) -> float:
    """Relative L2 error of one field."""
    return float(error[channel].norm() / truth[channel].norm())


def means(problem: InverseProblem, cases: int, channel: int = 0) -> tuple[float, float, float]:
    """Relative L2 error of the exact mean and of one exact draw, averaged over cases, and the error of the first."""
    exact, found = exact_posterior(problem), []
    for seed in range(cases):
        case = problem.case(seed)
        mean, drawn = exact.mean(case.observation), exact.draws(case.observation, (1000 + seed,))[0]
        found.append([relative(x - case.truth, case.truth, channel) for x in (mean, drawn)])
    table = np.array(found)
    return float(table[:, 0].mean()), float(table[:, 1].mean()), float(table[:, 0].std() / math.sqrt(cases))


def test_every_problem_has_a_small_version() -> None:
    assert list(SMALL) == compose.groups()["problem"]


@pytest.mark.parametrize("name", SMALL)
def test_a_case_is_a_function_of_its_seed(name: str) -> None:
    problem, again = small(name), small(name)
    first, same, other = problem.case(3), again.case(3), problem.case(4)
    assert torch.equal(first.truth, same.truth)
    assert torch.equal(first.observation.y, same.observation.y)
    assert not torch.equal(first.truth, other.truth)
    assert not torch.equal(first.observation.y, other.observation.y)
    variables = problem.variables()
    assert first.truth.shape == (len(variables), *(len(problem.coordinates()[d]) for d in variables[0].dims))
    assert len(problem.periodic) == len(variables[0].dims)
    layout = setup_of(problem).layout
    assert layout.position.shape == (len(first.observation.y), len(layout.axes))
    assert layout.names[: len(variables)] == tuple(v.name for v in variables)


@pytest.mark.parametrize("name", LINEAR)
def test_adjoints(name: str) -> None:
    """<F z, w> = <z, F^T w> for the fields and for the readings, to rounding."""
    made = setup_of(small(name))
    z = normal((1, 2), made.prior.shape, dtype=torch.float64)
    for operator in (made.fields, made.readings):
        image = operator(z)
        w = normal((3, 4), image.shape[1:], dtype=torch.float64)
        left, right = (image * w).flatten(1).sum(1), (z * operator.vjp(z, w)).flatten(1).sum(1)
        size = (image.flatten(1).norm(dim=1) * w.flatten(1).norm(dim=1)).max()
        assert float((left - right).abs().max()) < 1e-13 * float(size)


@pytest.mark.parametrize("name", NONLINEAR)
def test_derivatives_of_nonlinear_readings(name: str) -> None:
    """The adjoint is that of the derivative, and the derivative is the central difference up to its error."""
    made = setup_of(small(name))
    z, v = (normal(seeds, made.prior.shape, dtype=torch.float64) for seeds in ((1, 2), (3, 4)))
    image, change = made.readings(z), made.readings.jvp(z, v)
    w = normal((5, 6), image.shape[1:], dtype=torch.float64)
    left, right = (change * w).sum(1), (made.readings.vjp(z, w) * v).flatten(1).sum(1)
    assert float((left - right).abs().max()) < 1e-9 * float(change.norm() * w.norm())
    step = 1e-4
    central = (made.readings(z + step * v) - made.readings(z - step * v)) / (2 * step)
    assert float((central - change).norm()) < 1e-5 * float(change.norm())


@pytest.mark.parametrize("name", NONLINEAR)
def test_nonlinear_problems_have_no_exact_posterior(name: str) -> None:
    problem = small(name)
    z = setup_of(problem).draw((1,))
    read = setup_of(problem).readings
    assert float((read(2 * z) - 2 * read(z)).norm()) > 1e-2 * float(read(z).norm())
    with pytest.raises(ConfigError, match="has no exact posterior"):
        exact_posterior(problem)


@pytest.mark.parametrize(
    "name", [name for name in SMALL if not name.startswith(("advection", "born", "helmholtz_medium"))]
)
def test_readings_are_values_of_the_solution_where_the_layout_says(name: str) -> None:
    problem = small(name)
    made, coordinates = setup_of(problem), list(problem.coordinates().values())
    z = made.draw((5,))
    fields, read = made.fields(z)[0], made.readings(z)[0]
    for k, (field, position) in enumerate(zip(made.layout.field, made.layout.position, strict=True)):
        place = tuple(int(np.abs(c - p).argmin()) for c, p in zip(coordinates, position, strict=True))
        assert float(read[k]) == pytest.approx(float(fields[(int(field), *place)]), rel=1e-10, abs=1e-14)


@pytest.mark.parametrize(
    ("name", "pde", "output"), [("poisson2d", Poisson(), "potential"), ("helmholtz2d", Helmholtz(), "wave")]
)
def test_elliptic_fields_are_those_of_the_equation(name: str, pde: Any, output: str) -> None:
    """Solutions by the solver of the equation, and sources of its own law: covariances of values over many draws."""
    problem = small(name)
    made = setup_of(problem)
    fields = made.fields(made.draw(range(4000)))
    solved = pde.solve(Problem({"source": fields[:, 0]}))[output]
    torch.testing.assert_close(fields[:, 1], solved, rtol=1e-12, atol=1e-15)
    theirs = pde.draw(range(4000), 16).fields["source"]
    for ours in (fields[:, 0], theirs):
        spread = ours.flatten(1).var(0)
        inside = spread > 0
        assert bool(inside.reshape(16, 16)[1:-1, 1:-1].all())
    # the mean over points of a variance of 4000 draws errs by less than 3 %, six standard deviations
    assert float(fields[:, 0].var(0).mean() / theirs.var(0).mean()) == pytest.approx(1.0, abs=0.03)
    lag = [(x[:, 4:9, 4:9] * x[:, 4:9, 7:12]).mean() / x[:, 4:9, 4:9].square().mean() for x in (fields[:, 0], theirs)]
    assert float(lag[0]) == pytest.approx(float(lag[1]), abs=0.06)


def test_the_plume_without_cells_is_carried_exactly() -> None:
    """A wind alone: each mode decays and turns as in the exact solution of the equation."""
    problem = AdvectionDiffusion2d(grid=16, points=5, times=2, wind=(1.0, 0.5, 0.0))
    z = setup_of(problem).draw((1,))
    pde = AdvectionDiffusion(dims=2, clock=Clock(frames=2, interval=0.25, step=0.25))
    numbers = {"velocity_x": 1.0, "velocity_y": 0.5, "diffusivity": 5e-3}
    scalars = {name: torch.full((1,), value, dtype=torch.float64) for name, value in numbers.items()}
    frames = pde.solve(Problem({"initial": z[:, 0]}, scalars))["u"]
    torch.testing.assert_close(problem.carried(z)[:, 0], frames[:, 1], rtol=0, atol=1e-10)


def test_rows_of_the_adjoint_read_the_carried_plume() -> None:
    """Interval after interval, to rounding; the plume keeps its mass."""
    problem = AdvectionDiffusion2d(grid=16, points=5, times=3)
    made = setup_of(problem)
    z = made.draw((1,))
    w, read = z, made.readings(z)[0].reshape(3, 5)
    index = torch.from_numpy(np.round(made.layout.position[:5, :2] * 16)).long()
    for frame in range(3):
        w = problem.carried(w)
        torch.testing.assert_close(read[frame], w[0, 0, index[:, 0], index[:, 1]], rtol=0, atol=1e-12)
        assert float(w.mean().abs()) < 1e-14


@pytest.mark.parametrize("name", GAUSSIAN)
def test_the_exact_posterior_is_that_of_the_full_matrices(name: str) -> None:
    """Mean and standard deviation by the joint covariance of fields and readings, written out."""
    problem = small(name)
    made, case = setup_of(problem), problem.case(1)
    shape = made.prior.shape
    unit = torch.eye(math.prod(shape), dtype=torch.float64).reshape(-1, *shape)
    covariance = made.prior.error(math.inf).matvec(unit).flatten(1)
    forward, rows = made.fields(unit).flatten(1).T, made.readings(unit).T
    joint = rows @ covariance @ rows.T + torch.diag(made.std**2)
    cross = forward @ covariance @ rows.T
    mean = cross @ torch.linalg.solve(joint, case.observation.y)
    variance = (forward @ covariance * forward).sum(1) - (cross * torch.linalg.solve(joint, cross.T).T).sum(1)
    found, std = exact_posterior(problem).mean(case.observation), exact_std(problem)
    scale = case.truth.flatten(1).norm(dim=1) / math.sqrt(case.truth[0].numel())
    for channel, size in enumerate(scale.tolist()):
        wanted = mean.reshape(case.truth.shape)[channel]
        assert float((found[channel] - wanted).abs().max()) < 1e-6 * size
        squared = variance.clamp(min=0).reshape(case.truth.shape)[channel]
        assert float((std[channel].square() - squared).abs().max()) < 1e-9 * size**2


@pytest.mark.parametrize("name", ["heat1d", "advection_diffusion2d"])
def test_exact_draws_have_the_exact_moments(name: str) -> None:
    problem = small(name)
    case, exact, n = problem.case(2), exact_posterior(problem), 4000
    drawn = exact.draws(case.observation, range(n))
    std = exact_std(problem).clamp(min=1e-12)
    off = (drawn.mean(0) - exact.mean(case.observation)) / std * math.sqrt(n)
    assert float(off.abs().max()) < 6.5
    # a variance of n draws errs by sqrt(2 / n) = 2.2 %
    assert float((drawn.var(0) / std**2 - 1).abs().max()) < 0.16
    alone = exact.draws(case.observation, (17,))[0]
    torch.testing.assert_close(alone, drawn[17], rtol=0, atol=1e-11)


# Mean over 3 masks x 64 fields at 128x128 and 64x64, card of published settings; here 32 fields and one mask. The
# standard error over fields is about 3 % of the number, and masks add 2 %.
ANCHORS = [
    (Poisson2d(noise=0.0), 0.056),
    (Poisson2d(), 0.118),
    (Helmholtz2d(noise=0.0), 0.051),
    (Helmholtz2d(), 0.112),
    (Heat1d(), 0.059),
    (Heat1d(time=0.25), 0.033),
]


@pytest.mark.parametrize(("problem", "error"), ANCHORS, ids=lambda value: getattr(value, "name", value))
def test_the_published_settings_have_the_known_optimum(problem: InverseProblem, error: float) -> None:
    mean, draw, off = means(problem, 32)
    assert mean == pytest.approx(error, abs=4 * off + 0.02 * error)
    # for a Gaussian posterior a draw misses by sqrt(2) of what its mean misses by, on the average of the squares
    assert draw / mean == pytest.approx(math.sqrt(2), rel=0.06)


def test_points_of_the_source_determine_the_potential() -> None:
    """The forward problem: 1.5 % at 128x128, which is 500 points of any grid."""
    mean, _, off = means(Poisson2d(noise=0.0, seen="source"), 32, channel=1)
    assert mean == pytest.approx(0.0155, abs=4 * off + 0.001)
    both, _, _ = means(Poisson2d(seen="both"), 8)
    inverse, _, _ = means(Poisson2d(), 8)
    assert both < 0.75 * inverse


def guided(problem: InverseProblem, draws: int, seed: int, **arguments: Any) -> tuple[Draws, Tensor]:
    """Draws of calibrated guidance with the exact prior, and their fields."""
    posterior = build("posterior", compose.node("posterior", "calibrated") | arguments)
    found = posterior(problem.prior(), problem.case(seed).observation, draws, seed)
    return found, setup_of(problem).fields(found.x)


BAR = [(Heat1d(), 24), (AdvectionDiffusion2d(), 8), (Poisson2d(grid=32, points=250), 6)]


@pytest.mark.slow
@pytest.mark.parametrize(("problem", "cases"), BAR, ids=lambda value: getattr(value, "name", ""))
def test_calibrated_guidance_is_bayes_optimal_within_two_percent(problem: InverseProblem, cases: int) -> None:
    """Squared errors of mean and draw, and the spread, against their exact expectations given the same readings.

    E|m_n - x|^2 = |m - x|^2 + V / n and E|draw - x|^2 = |m - x|^2 + V for n exact draws, V the posterior variance.
    """
    n, exact, variance = 128, exact_posterior(problem), float(exact_std(problem)[0].square().sum())
    told = np.zeros(5)
    for seed in range(cases):
        case = problem.case(seed)
        found, fields = guided(problem, n, seed, steps=39)
        assert found.diagnostics["denoiser_calls"] <= 40
        truth, best = case.truth[0], float((exact.mean(case.observation)[0] - case.truth[0]).square().sum())
        x = fields[:, 0]
        per_draw = float((x - truth).square().sum() / n)
        told += [
            float((x.mean(0) - truth).square().sum()),
            best + variance / n,
            per_draw,
            best + variance,
            float(x.var(0).sum()) / variance,
        ]
    assert math.sqrt(told[0] / told[1]) == pytest.approx(1.0, abs=0.02)
    assert math.sqrt(told[2] / told[3]) == pytest.approx(1.0, abs=0.02)
    assert math.sqrt(told[4] / cases) == pytest.approx(1.0, abs=0.05)


@pytest.mark.parametrize("name", SMALL)
def test_the_unknown_has_unit_variance_and_its_setup_is_kept(name: str) -> None:
    assert setup_of(small(name)) is setup_of(small(name))
    assert float(small(name).prior().error(math.inf).diagonal().mean()) == pytest.approx(1.0)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: Poisson2d(grid=16), "points=500 is more than the 256 grid points of grid=16"),
        (lambda: Helmholtz2d(grid=16), "points=500 is more than the 256"),
        (lambda: Helmholtz2d(wave_number=4.4429), "within 0.1"),
        (lambda: AdvectionDiffusion2d(grid=8, points=65), "points=65 is more than the 64"),
        (lambda: Heat1d(points=15), "points=15 must divide grid=64"),
    ],
)
def test_impossible_problems_are_refused_when_they_are_made(make: Any, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        make()
