"""Chromatographic columns: closures and splines by hand, limits, the recovery of kinetics, refusals."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from scipy.interpolate import BSpline
from torch import Tensor

from pdediff.errors import ConfigError
from pdediff.pdes import Chromatography, Clock, Problem
from pdediff.pdes import additive_runge_kutta as ark
from pdediff.pdes.column import Column, spline_weights

SHORT = Chromatography(peclet=(60.0, 100.0), clock=Clock(frames=41, interval=0.1, step=0.01))


def _column(cells: int, peclet: float, dirichlet: bool = False, capacity: float | None = None) -> Column:
    numbers = {"peclet": peclet, "affinity": 1.5, "rate": 4.0}
    tensors = {name: torch.tensor([value], dtype=torch.float64) for name, value in numbers.items()}
    return Column.build(tensors, cells, dirichlet, capacity, torch.float64)


@pytest.mark.parametrize("dirichlet", [False, True])
def test_transport_is_exact_for_polynomials_that_meet_the_boundary_conditions(dirichlet: bool) -> None:
    cells, peclet = 12, 7.0
    p = np.polynomial.Polynomial([0.3, -1.0, 2.0, 0.5, 1.0, -2.0])
    p = p - np.polynomial.Polynomial([0.0, p.deriv()(1.0)])
    flux = p - p.deriv() / peclet
    faces = np.arange(cells + 1) / cells
    means = torch.from_numpy(cells * np.diff(p.integ()(faces)))[None]
    fed = torch.tensor([p(0.0) if dirichlet else flux(0.0)], dtype=torch.float64)
    column = _column(cells, peclet, dirichlet)
    found = column.transport(means, fed)
    # upwind values are exact to degree 4: one cell^5 p'''''/60 of the sixth is left, the same at all inner faces
    slip = torch.from_numpy(-cells * np.diff(flux(faces)))
    torch.testing.assert_close(found.rate[0, 1:-1], slip[1:-1], rtol=0.0, atol=1e-10)
    assert abs(found.entering.item() - flux(0.0)) < 1e-12
    assert abs(found.leaving.item() - p(1.0)) < 1e-12
    assert abs(column.end(means).item() - p(1.0)) < 1e-12


def test_feed_is_a_cubic_spline_that_starts_and_ends_at_nothing() -> None:
    times = np.linspace(0.0, 4.2, 211)
    coefficients = np.random.default_rng(0).random(32)
    places, weights = spline_weights(times, 0.1, 32)
    found = (coefficients[places] * weights).sum(-1)
    spline = BSpline(0.1 * np.arange(36), coefficients, 3, extrapolate=False)
    inside = (times > 0.3) & (times < 3.2)
    np.testing.assert_allclose(found[inside], spline(times[inside]), atol=1e-13)
    assert found[0] == 0.0
    assert np.abs(found[times >= 3.5]).max() < 1e-15


@pytest.mark.parametrize("capacity", [None, 0.5])
@pytest.mark.parametrize("h", [1e-3, 1.0, 1e5])
def test_implicit_exchange_solves_its_equation(capacity: float | None, h: float) -> None:
    column = _column(10, 50.0, capacity=capacity)
    generator = torch.Generator().manual_seed(0)
    total = torch.rand(1, 10, generator=generator, dtype=torch.float64)
    start = 0.4 * total
    q = column.relaxed(total, start, h)
    rate = column.exchange(total - q, q)
    torch.testing.assert_close(q, start + h * rate, rtol=1e-9, atol=1e-9 * max(1.0, h))
    assert (q >= 0.0).all()
    assert (q <= total).all()


def test_loading_is_in_equilibrium_to_fourth_order() -> None:
    errors = []
    for cells in (20, 40):
        x = (torch.arange(cells * 200, dtype=torch.float64) + 0.5) / (cells * 200)
        c = 0.5 * torch.exp(-((x - 0.45) / 0.2).square())
        bound = 1.5 * c
        means = [v.unflatten(0, (cells, 200)).mean(1)[None] for v in (c, bound / (1.0 + bound / 0.5))]
        column = _column(cells, 50.0, capacity=0.5)
        errors.append((column.loaded(means[0]) - means[1]).abs().max())
        # nothing is exchanged, but for what the variation in the cells makes up for
        rate = column.exchange(means[0], means[1]) + column.variation(means[0], means[1])[0]
        assert rate.abs().max() < 0.2 * column.exchange(means[0], means[1]).abs().max()
    assert torch.log2(errors[0] / errors[1]) > 3.6


def test_conditions_of_fourth_order_hold() -> None:
    c, b = np.array(ark.NODES), np.array(ark.WEIGHTS)
    explicit, implicit = np.zeros((6, 6)), ark.DIAGONAL * np.diag([0.0] + 5 * [1.0])
    for i in range(1, 6):
        explicit[i, :i], implicit[i, :i] = ark.EXPLICIT[i], ark.IMPLICIT[i]
    for power, value in ((0, 1.0), (1, 1 / 2), (2, 1 / 3), (3, 1 / 4)):
        assert abs(b @ c**power - value) < 1e-14
    for a in (explicit, implicit):
        np.testing.assert_allclose(a.sum(1), c, atol=1e-14)
        found = [b @ a @ c, b @ (c * (a @ c)), b @ a @ c**2, b @ a @ explicit @ c, b @ a @ implicit @ c]
        np.testing.assert_allclose(found, [1 / 6, 1 / 8, 1 / 12, 1 / 24, 1 / 24], atol=1e-14)


def test_one_seed_is_one_problem_on_every_grid() -> None:
    coarse, fine = (SHORT.draw((1, 2), cells) for cells in (16, 32))
    pairs = fine.fields["initial"].unflatten(1, (16, 2)).mean(2)
    torch.testing.assert_close(coarse.fields["initial"], pairs, rtol=0.0, atol=1e-14)
    assert torch.equal(coarse.fields["inlet"], fine.fields["inlet"])
    assert all(torch.equal(value, fine.scalars[name]) for name, value in coarse.scalars.items())
    ends = [SHORT.solve(problem)["outlet"] for problem in (coarse, fine)]
    assert 1e-8 < (ends[0] - ends[1]).abs().max() < 2e-2


@pytest.mark.parametrize("isotherm", ["linear", "langmuir"])
def test_what_is_fed_enters_and_concentrations_stay_between_those_given(isotherm: Any) -> None:
    pde = Chromatography(isotherm=isotherm, clock=Clock(frames=33, interval=0.1, step=0.005))
    fields = pde.solve(pde.draw(range(4), 64))
    spacing = pde.injection / 35
    given = spacing * fields["inlet"].sum(1)
    # the sum over the steps of a feed with kinks in its third derivative
    torch.testing.assert_close(fields["fed"][:, -1], given, rtol=0.0, atol=1e-9)
    assert fields["mobile"].min() > -1e-5
    highest = torch.maximum(fields["inlet"].amax(1), fields["initial"].amax(1))
    assert (fields["mobile"].amax((1, 2)) <= highest + 1e-5).all()


def test_a_large_capacity_is_a_linear_isotherm() -> None:
    problem = SHORT.draw((3,), 16)
    linear = SHORT.solve(problem)["outlet"]
    near = replace(SHORT, isotherm="langmuir", capacity=1e9).solve(problem)["outlet"]
    torch.testing.assert_close(near, linear, rtol=0.0, atol=1e-8)
    far = replace(SHORT, isotherm="langmuir", capacity=0.5).solve(problem)["outlet"]
    # a packing that fills up lets the solute pass sooner
    times = torch.from_numpy(SHORT.clock.times())
    assert (times * far).sum() / far.sum() < (times * linear).sum() / linear.sum() - 0.05


def test_kinetics_are_recovered_from_the_outlet_curve() -> None:
    names = ("peclet", "affinity", "rate")
    truth = SHORT.draw((5,), 16)
    wanted = torch.stack([truth.scalars[name] for name in names], 1)
    fields = {name: value.expand(4, -1) for name, value in truth.fields.items()}

    def curves(logs: Tensor) -> Tensor:
        scalars = dict(zip(names, logs.exp().unbind(1), strict=True))
        return SHORT.solve(Problem(fields, scalars))["outlet"]

    seen = curves(wanted.log().expand(4, -1))[:1]
    guess = (wanted * torch.tensor([[1.2, 0.85, 1.4]])).log()
    for _ in range(6):  # Gauss-Newton; the derivatives are differences of curves of one batch
        found = curves(guess + 1e-6 * torch.eye(4, 3, dtype=torch.float64))
        slopes = (found[:3] - found[3:]).T / 1e-6
        guess = guess + torch.linalg.lstsq(slopes, (seen - found[3:]).T).solution.T
    torch.testing.assert_close(guess.exp(), wanted, rtol=1e-5, atol=0.0)


@pytest.mark.parametrize(("entrance", "step"), [("danckwerts", 0.0147), ("dirichlet", 0.0092)])
def test_the_largest_step_that_is_taken_is_stable(entrance: Any, step: float) -> None:
    settings: dict[str, Any] = {"entrance": entrance, "peclet": (20.0, 20.0)}
    pde = Chromatography(**settings, clock=Clock(3, 250 * step, step))
    fields = pde.solve(pde.draw(range(2), 28))
    assert fields["mobile"].abs().max() < 1.2
    with pytest.raises(ConfigError, match="unstable"):
        Chromatography(**settings, clock=Clock(3, 1.02 * step, 1.02 * step)).coordinates(28)


def test_wrong_settings_are_refused() -> None:
    with pytest.raises(ConfigError, match="affinity="):
        Chromatography(affinity=(2.0, 1.0))
    with pytest.raises(ConfigError, match=r"clock\.warm_up=5"):
        Chromatography(clock=Clock(4, 0.1, 0.01, warm_up=5))
    with pytest.raises(ConfigError, match=r"clock\.step=0\.01 is unstable at grid=256"):
        Chromatography(clock=Clock(4, 0.1, 0.01)).coordinates(256)
    with pytest.raises(ConfigError, match=r"it must be at most 0\.0022"):
        Chromatography(entrance="dirichlet").coordinates(128)
    with pytest.raises(ConfigError, match="at least 10"):
        SHORT.draw((0,), 8)
