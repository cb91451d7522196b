"""Stochastic samplers against exact laws: moments by matrices, mixtures by transition densities, paths by one tree."""

from __future__ import annotations

import itertools
import math
from typing import Any

import numpy as np
import pytest

from pdediff.errors import ConfigError
from pdediff.samplers import (
    DDIM,
    PC,
    DPMSolverPP,
    Eval,
    Lin,
    Plan,
    SASolver,
    ScoreSDE,
    response,
    run,
    uniform_lambda,
    weights,
)
from pdediff.samplers.field import DataPrediction
from pdediff.samplers.score_sde import langevin_steps

VARIANCES = np.array([4.0, 1.0, 0.3, 0.1])
WINDOW = {"sigma_low": 0.3, "sigma_high": 5.0}


def weak_errors(sampler: Any, steps: tuple[int, ...], start: float = 80.0, stop: float = 0.1) -> list[float]:
    """Largest relative error of a mode's variance, exact."""
    plans = [sampler.plan(uniform_lambda(start, stop, n)) for n in steps]
    found = [response(plan, VARIANCES).variance(VARIANCES + start**2) / (VARIANCES + stop**2) - 1 for plan in plans]
    return [float(np.abs(error).max()) for error in found]


def same_plan(one: Plan, other: Plan) -> None:
    """Coefficient by coefficient, noise and clock included."""
    for a, b in zip(one.steps, other.steps, strict=True):
        assert type(a) is type(b)
        assert (a.dst, a.reads) == (b.dst, b.reads)
        if isinstance(a, Lin) and isinstance(b, Lin):
            assert [c for _, c in a.terms] == pytest.approx([c for _, c in b.terms], rel=1e-12, abs=1e-15)
            assert (a.key, a.variance) == (b.key, pytest.approx(b.variance, rel=1e-13, abs=0.0))
            assert (a.span or (0.0, 0.0)) == pytest.approx(b.span or (0.0, 0.0), rel=1e-13)


@pytest.mark.parametrize("order", [1, 2, 3])
@pytest.mark.parametrize("tau", [0.0, 0.4, 1.0])
def test_sa_solver_holds_the_named_solvers(order: int, tau: float) -> None:
    levels = uniform_lambda(80.0, 0.05, 7)
    same_plan(SASolver(order, 0, tau).plan(levels), DPMSolverPP(order, tau).plan(levels))
    same_plan(SASolver(order, 0, tau).plan([*levels, 0.0]), DPMSolverPP(order, tau).plan([*levels, 0.0]))
    same_plan(SASolver(order, order, 0.0).plan(levels), PC("x0", order).plan(levels))
    wide = SASolver(order, 0, tau, sigma_low=0.05, sigma_high=80.0)
    same_plan(wide.plan(levels), DPMSolverPP(order, tau).plan(levels))
    outside = SASolver(order, 0, tau, sigma_low=1e-3, sigma_high=0.01)
    same_plan(outside.plan(levels), DPMSolverPP(order).plan(levels))


def test_a_window_inside_a_step_by_hand() -> None:
    """From 4 to 1/2 with unit noise in [1, 2]: T = log 2, x' = x / 16 + 15 / 16 D + sqrt(1 / 4 (1 - 1 / 4)) z."""
    step = SASolver(1, 0, 1.0, 1.0, 2.0).plan([4.0, 0.5]).steps[-1]
    assert isinstance(step, Lin)
    assert [c for _, c in step.terms] == pytest.approx([1.0 / 16.0, 15.0 / 16.0], rel=1e-14)
    assert step.variance == pytest.approx(3.0 / 16.0, rel=1e-14)
    assert step.span == pytest.approx((0.25, 1.0), rel=1e-14)
    scaled = SASolver(1, 0, 1.0, 0.1, 0.2, s=10.0).plan([4.0, 0.5]).steps[-1]
    assert scaled == step


@pytest.mark.parametrize("tau", [0.7, 1.3])
def test_weights_across_the_window_are_those_of_its_pieces(tau: float) -> None:
    """Composed of three steps of constant noise with the same nodes."""
    nodes = [4.0, 9.0, 13.0]
    expected, kept = np.zeros(3), 1.0
    for start, stop, strength in ((4.0, 2.0, 0.0), (2.0, 0.8, tau**2), (0.8, 0.5, 0.0)):
        of = DataPrediction(1.0 + strength)
        ratio = of.scale(stop) / of.scale(start)
        expected, kept = ratio * expected + weights(of, nodes, start, stop), ratio * kept
    step = SASolver(3, 0, tau, 0.8, 2.0).plan([13.0, 9.0, 4.0, 0.5]).steps[-1]
    assert isinstance(step, Lin)
    assert [c for _, c in step.terms] == pytest.approx([kept, *expected], rel=1e-12)


def test_the_clock_stands_still_outside_the_window() -> None:
    plan = SASolver(2, 2, 0.8, **WINDOW).plan(uniform_lambda(20.0, 0.1, 23))
    steps = [step for step in plan.steps if isinstance(step, Lin)]
    assert all((step.variance > 0.0) == (step.span is not None) for step in steps)
    spans = [span for span, _ in itertools.groupby(step.span for step in steps if step.span)]
    assert spans[0][0] == pytest.approx(5.0**-1.28, rel=1e-13)
    assert spans[-1][1] == pytest.approx(0.3**-1.28, rel=1e-13)
    assert all(a[1] == b[0] for a, b in itertools.pairwise(spans))
    keys: dict[int, set[float]] = {}
    for step in steps:
        keys.setdefault(step.key, set()).add(step.variance)
    assert all(len(shared) == 1 for shared in keys.values())  # predictor and corrector draw one noise
    with pytest.raises(ConfigError, match="window"):
        SASolver(sigma_low=2.0, sigma_high=1.0)


@pytest.mark.parametrize(("order", "corrector"), [(1, 0), (1, 1), (2, 0), (2, 2), (3, 0), (3, 3)])
@pytest.mark.parametrize("tau", [0.0, 0.4, 1.0])
@pytest.mark.parametrize("window", [{}, WINDOW])
def test_weak_order_of_sa_solver(order: int, corrector: int, tau: float, window: dict[str, float]) -> None:
    """Exact recursion; the slope of one Gaussian may exceed the promise, by which the history's noise is hidden."""
    sampler = SASolver(order, corrector, tau, **window)
    steps = (80, 160, 320)
    errors = weak_errors(sampler, steps)
    slope = -float(np.polyfit(np.log(steps), np.log(errors), 1)[0])
    assert sampler.slope == (order + (corrector > 0) if tau == 0.0 else min(2, order + corrector))
    assert slope > sampler.slope - 0.25, errors
    assert errors[-1] < (0.0, 0.03, 7e-4, 1e-5, 1e-7)[sampler.slope]
    if corrector:
        assert errors[0] < weak_errors(SASolver(order, 0, tau, **window), steps[:1])[0]


@pytest.mark.parametrize("stop", [3.0, 0.5, 0.05])
@pytest.mark.parametrize("window", [{}, WINDOW])
def test_every_strength_has_the_same_marginal(stop: float, window: dict[str, float]) -> None:
    """From the exact marginal, at every level; hence the flow and the reverse SDE meet in the limit."""
    for tau in (0.0, 0.6, 1.0, 1.4):
        coarse, fine = weak_errors(SASolver(3, 3, tau, **window), (50, 100), 40.0, stop)
        assert fine < 4e-3
        assert fine < coarse / 3.0


STRONG: list[Any] = [
    *(SASolver(p, c, 1.0) for p, c in ((1, 0), (1, 1), (2, 2), (3, 3))),
    SASolver(3, 3, 0.5),
    SASolver(2, 2, 1.0, **WINDOW),
    *(ScoreSDE(name, 0) for name in ("ancestral", "reverse_diffusion", "euler_maruyama")),
]


@pytest.mark.parametrize("of", STRONG, ids=repr)
def test_strong_order_one_on_one_brownian_path(oracle: Any, of: Any) -> None:
    """The noise of x / S is additive: the gap between n and 2n steps halves with n, on the same path."""
    prior = oracle.mixture(32)
    x = oracle.start_of(prior, 4, 20.0)
    ends = [run(of.plan(uniform_lambda(20.0, 0.1, n)), prior, x, range(4), path=True) for n in (25, 50, 100, 200)]
    gaps = [oracle.rms(after - before) for before, after in itertools.pairwise(ends)]
    assert gaps[2] < 0.3 * gaps[0], gaps  # 0.5 ** 2 for order one
    assert gaps[2] < 0.1


def test_score_sde_by_hand() -> None:
    """From 2 to 1; h = log 2. The ancestral predictor is DDPM."""
    levels = uniform_lambda(80.0, 0.01, 6)
    same_plan(ScoreSDE("ancestral", 0).plan([*levels, 0.0]), _ddpm([*levels, 0.0]))
    numbers = {}
    for name in ("reverse_diffusion", "euler_maruyama"):
        step = ScoreSDE(name, 0).plan([2.0, 1.0]).steps[-1]
        assert isinstance(step, Lin)
        numbers[name] = [*(c for _, c in step.terms), step.variance]
    assert numbers["reverse_diffusion"] == pytest.approx([0.25, 0.75, 3.0], rel=1e-15)
    twice = 2.0 * math.log(2.0)
    assert numbers["euler_maruyama"] == pytest.approx([1.0 - twice, twice, 4.0 * twice], rel=1e-15)
    corrected = ScoreSDE("ancestral", 2, rate=1.0).plan([2.0, 1.0]).steps  # r = 1 - e^-h = 1 / 2
    assert corrected[2] == Eval("denoised", "x", 1.0)
    assert corrected[-1] == Lin("x", (("x", 0.5), ("denoised", 0.5)), 1.0, 2)


def _ddpm(levels: list[float]) -> Plan:
    plan = DDIM(1.0).plan(levels)
    last = Lin("x", (("denoised", 1.0),))
    return Plan((*plan.steps[:-1], last), plan.levels)


@pytest.mark.parametrize("r", [0.02, 0.5, 1.0])
def test_langevin_law_is_too_wide(r: float) -> None:
    """The stationary variance (v + sigma^2) / (1 - q / 2) of the unadjusted corrector, by 400 steps of the plan."""
    v, sigma = np.array([0.0, 0.3, 2.0]), 0.7
    plan = Plan(tuple(langevin_steps(sigma, r, 800 if r < 0.1 else 60, 0)), (sigma, sigma))
    found = response(plan, v)
    marginal = v + sigma**2
    q = r * sigma**2 / marginal
    stationary = marginal / (1.0 - q / 2.0)
    assert found.variance(stationary) == pytest.approx(stationary, rel=1e-12)  # invariant
    transient = np.abs(found.gain) ** 2
    assert found.variance(marginal) == pytest.approx(stationary + transient * (marginal - stationary), rel=1e-12)
    assert np.all(stationary <= marginal / (1.0 - r / 2.0) * (1 + 1e-12))


@pytest.mark.parametrize("name", ["ancestral", "reverse_diffusion", "euler_maruyama"])
@pytest.mark.parametrize(("corrections", "rate"), [(0, 1.0), (1, 1.0), (2, 0.5)])
def test_score_sde_is_consistent_because_its_corrector_shrinks(name: Any, corrections: int, rate: float) -> None:
    errors = weak_errors(ScoreSDE(name, corrections, rate), (80, 160, 320))
    assert errors[2] < 0.65 * errors[1] < 0.43 * errors[0], errors
    # Even from a wrong start it is the SDE of strength tau^2 = 1 + corrections * rate.
    start = 4.0 * (VARIANCES + 9.0)
    levels = uniform_lambda(3.0, 0.5, 400)
    found = response(ScoreSDE(name, corrections, rate).plan(levels), VARIANCES).variance(start)
    same = SASolver(3, 3, math.sqrt(1.0 + corrections * rate)).plan(levels)
    assert found == pytest.approx(response(same, VARIANCES).variance(start), rel=0.02)


def test_the_published_corrector_is_a_kick() -> None:
    plan = ScoreSDE("reverse_diffusion", 2, snr=0.16).plan([*uniform_lambda(20.0, 0.1, 5), 0.0])
    kicks = [step for step in plan.steps if not isinstance(step, (Eval, Lin))]
    assert plan.nfe == 5 * 3 + 1
    assert [kick.level for kick in kicks] == list(plan.levels[1:-1])  # type: ignore[union-attr]
    drawn = [step.key + i for step in plan.steps if not isinstance(step, Eval) for i in range(_draws(step))]
    assert len(set(drawn)) == len(drawn) == 15


def _draws(step: Any) -> int:
    return int(step.variance > 0.0) if isinstance(step, Lin) else step.evaluations
