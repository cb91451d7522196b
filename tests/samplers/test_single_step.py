"""One-step samplers: Runge-Kutta, EDM's Heun with churn, DPM-Solver with stages and EPD, against their papers."""

from __future__ import annotations

import itertools
import math
from typing import Any, get_args

import numpy as np
import pytest
import torch

from pdediff.config import build
from pdediff.errors import ConfigError
from pdediff.samplers import (
    DDIM,
    EPD,
    DPMSolver,
    DPMSolverPPSingle,
    EDMHeun,
    Eval,
    Lin,
    RungeKutta,
    fast_plan,
    field,
    response,
    run,
    uniform_lambda,
    uniform_u,
)
from pdediff.samplers.runge_kutta import TABLEAUS, TableauName

NAMES = get_args(TableauName)


def errors_of(oracle: Any, sampler: Any, steps: tuple[int, ...]) -> list[float]:
    prior, x, exact = oracle.reference()
    plans = [sampler.plan(sampler.grid(n, oracle.SIGMA_MAX, oracle.SIGMA_MIN)) for n in steps]
    return [oracle.rms(run(plan, prior, x, range(len(x))) - exact) for plan in plans]


def coefficients(step: Any) -> list[float]:
    return [c for _, c in step.terms]


@pytest.mark.parametrize("name", NAMES)
def test_tableaux_satisfy_the_order_conditions(name: Any) -> None:
    """All conditions up to the declared order, and not all of the next: the declared order is the order."""
    rule = TABLEAUS[name]
    stages = len(rule.c)
    a = np.array([[*row, *[0.0] * (stages - len(row))] for row in rule.a])
    b, c = np.array(rule.b), np.array(rule.c)
    assert a.sum(1) == pytest.approx(c)
    conditions = [
        [b.sum() - 1],
        [b @ c - 1 / 2],
        [b @ c**2 - 1 / 3, b @ a @ c - 1 / 6],
        [b @ c**3 - 1 / 4, b @ (c * (a @ c)) - 1 / 8, b @ a @ c**2 - 1 / 12, b @ a @ a @ c - 1 / 24],
        [b @ c**4 - 1 / 5, b @ a @ a @ a @ c - 1 / 120],
    ]
    assert np.abs(np.concatenate(conditions[: rule.order])).max() < 1e-15
    assert np.abs(conditions[rule.order]).max() > 1e-3


@pytest.mark.parametrize("of", ["eps", "x0", "v", "F"])
@pytest.mark.parametrize("name", NAMES)
def test_order_of_every_tableau_in_every_field(oracle: Any, of: Any, name: Any) -> None:
    sampler = RungeKutta(of, name)
    steps = (40, 80) if sampler.slope == 4 else (80, 160)  # order 4 in flow time reaches the reference's error at 160
    assert abs(oracle.fitted_slope(steps, errors_of(oracle, sampler, steps)) - sampler.slope) < 0.25


def test_midpoint_in_flow_time_is_rf_solver(oracle: Any) -> None:
    """w = (1 - u) x0 + u eps by the second-order Taylor step, its derivative a difference over half the step."""
    prior = oracle.mixture(8)
    levels = uniform_u(20.0, 0.1, 5)
    x = oracle.start_of(prior, 3, 20.0)
    out = run(RungeKutta("v", "midpoint").plan(levels), prior, x, range(3))

    def velocity(w: torch.Tensor, u: float) -> torch.Tensor:
        return (w - prior(w / (1.0 - u), torch.full((3,), u / (1.0 - u), dtype=w.dtype))) / u

    times = [sigma / (1.0 + sigma) for sigma in levels]
    w = (1.0 - times[0]) * x
    for u, after in itertools.pairwise(times):
        dt, v = after - u, velocity(w, u)
        slope = (velocity(w + dt / 2 * v, u + dt / 2) - v) / (dt / 2)
        w = w + dt * v + dt**2 / 2 * slope
    assert float((w / (1.0 - times[-1]) - out).abs().max()) < 1e-12


def test_one_stage_is_ddim() -> None:
    levels = uniform_lambda(20.0, 0.1, 4)
    expected = response(DDIM().plan(levels), np.array([2.0, 0.1]))
    samplers = [RungeKutta(of, "euler") for of in ("eps", "x0", "v")]
    for sampler in (*samplers, DPMSolver(1), DPMSolverPPSingle(1)):
        found = response(sampler.plan(levels), np.array([2.0, 0.1]))
        assert found.gain == pytest.approx(expected.gain, rel=1e-12)
        assert found.shift == pytest.approx(expected.shift, rel=1e-12)


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("of", ["eps", "x0", "v", "F"])
def test_a_step_to_zero_never_evaluates_there(of: Any, name: Any) -> None:
    sampler = RungeKutta(of, name)
    plan = sampler.plan([3.0, 1.0, 0.0])
    assert min(step.level for step in plan.steps if isinstance(step, Eval)) > 0.0
    if of not in ("v", "F"):
        return
    v = np.array([1.5, 0.5])
    errors = []
    for n in (20, 40):
        gain = response(sampler.plan(sampler.grid(n, 50.0, 0.0)), v).gain
        errors.append(float(np.abs(gain / np.sqrt(v / (v + 50.0**2)) - 1).max()))
    # The last step of rk4 is of order 3, so its local error is h^4: no order is lost.
    assert errors[1] < 1.2 * errors[0] / 2**sampler.slope


def test_edm_without_churn_is_heun_and_ends_with_euler() -> None:
    levels = uniform_lambda(20.0, 0.1, 6)
    heun = response(RungeKutta("eps", "heun").plan(levels), np.array([2.0, 0.1]))
    assert response(EDMHeun().plan(levels), np.array([2.0, 0.1])).gain == pytest.approx(heun.gain, rel=1e-13)
    to_zero = EDMHeun().plan([*levels, 0.0])
    assert to_zero.nfe == 2 * 7 - 1
    assert to_zero.steps[-1] == Eval("x", "x", 0.1)


def test_churn_by_hand() -> None:
    """gamma = 1 / 2 is cut to sqrt(2) - 1, which doubles the variance; sigma 2 -> 2 sqrt(2) -> 1."""
    plan = EDMHeun(s_churn=0.5, s_noise=1.5).plan([2.0, 1.0])
    raised, *rest = plan.steps
    assert isinstance(raised, Lin)
    assert raised.variance == pytest.approx((8.0 - 4.0) * 1.5**2, rel=1e-15)
    assert [step.level for step in rest if isinstance(step, Eval)] == pytest.approx([math.sqrt(8.0), 1.0], rel=1e-15)
    # One mode of variance 1: e = x 2 sqrt(2) / 9, Euler state 1 - (8 - 2 sqrt(2)) / 9, its slope half of it.
    h, first = 1.0 - math.sqrt(8.0), math.sqrt(8.0) / 9.0
    gain = 1.0 + h / 2 * (first + 0.5 * (1.0 + h * first))
    assert response(plan, np.ones(1)).gain[0] == pytest.approx(gain, rel=1e-14)
    limited = EDMHeun(s_churn=10.0, s_tmin=0.5, s_tmax=5.0)
    assert [limited.gamma(sigma, 40) for sigma in (5.1, 5.0, 0.5, 0.49)] == [0.0, 0.25, 0.25, 0.0]
    lins = [step for step in limited.plan([9.0, 3.0, 1.0, 0.1, 0.05]).steps if isinstance(step, Lin)]
    assert [step.key for step in lins if step.variance > 0.0] == [1, 2]


@pytest.mark.parametrize("s_churn", [0.0, 10.0, 40.0])
def test_churn_is_of_weak_order_two(oracle: Any, s_churn: float) -> None:
    """Exact variances; from 160 steps on, because gamma is cut below s_churn / 0.41 steps (1.82 from 80 on at 40)."""
    v, steps = np.array([4.0, 1.0, 0.3, 0.1]), (160, 320, 640)
    sampler, errors = EDMHeun(s_churn), []
    for n in steps:
        plan = sampler.plan(sampler.grid(n, oracle.SIGMA_MAX, oracle.SIGMA_MIN))
        out = response(plan, v).variance(v + oracle.SIGMA_MAX**2)
        errors.append(float(np.abs(out / (v + oracle.SIGMA_MIN**2) - 1).max()))
    assert abs(oracle.fitted_slope(steps, errors) - 2.0) < 0.1, errors


def test_churn_follows_one_path_at_every_number_of_steps(oracle: Any) -> None:
    prior = oracle.mixture(16)
    x = oracle.start_of(prior, 8, 20.0)
    sampler = EDMHeun(10.0)
    plans = [sampler.plan([*sampler.grid(n, 20.0, 0.1), 0.0]) for n in (50, 100, 200, 400)]
    ends = [run(plan, prior, x, range(8), path=True) for plan in plans]
    gaps = [oracle.rms(b - a) for a, b in itertools.pairwise(ends)]
    assert gaps[2] < 0.7 * gaps[1] < 0.49 * gaps[0], gaps


@pytest.mark.parametrize("h", [1e-6, 1e-2, 0.5, 4.0])
def test_weights_of_dpm_solver_are_the_published_ones(h: float) -> None:
    """phi functions by series; the closed forms cancel for small h."""

    def first(c: float, sign: float) -> float:  # e^ch - 1, or 1 - e^-ch
        return sum((sign * c * h) ** k / math.factorial(k + 1) for k in range(60)) * c * h

    def second(c: float, sign: float) -> float:  # e^ch - 1 - ch, or ch - 1 + e^-ch
        return sum((sign * c * h) ** k / math.factorial(k + 2) for k in range(60)) * (c * h) ** 2

    for sign, scale, made in ((1.0, -1.0, DPMSolver(3)), (-1.0, 1.0, DPMSolverPPSingle(3))):
        lins = [step for step in made.plan([1.0, math.exp(-h)]).steps if isinstance(step, Lin)]
        lins = [step for step in lins if step.dst in ("x", "stage")]
        for lin, c, others in zip(lins, (1 / 3, 2 / 3, 1.0), ((), (1 / 3,), (2 / 3,)), strict=True):
            unit = scale * (math.exp(-c * h) if sign > 0 else 1.0)  # -sigma_c for the noise, 1 for the data
            bend = sum(second(c, sign) / (r * h) for r in others)
            expected = [unit * (first(c, sign) - bend), *([unit * bend] if others else [])]
            assert coefficients(lin)[0] == pytest.approx(1.0 if sign > 0 else math.exp(-c * h), rel=1e-14)
            assert coefficients(lin)[1:] == pytest.approx(expected, rel=1e-12)


@pytest.mark.parametrize("kind", [DPMSolver, DPMSolverPPSingle])
@pytest.mark.parametrize(
    ("stages", "r1", "r2"), [(2, 0.2, None), (2, 1.0, None), (3, 0.5, 1.0), (3, 0.25, 0.8), (3, 0.9, 0.5)]
)
def test_any_stages_keep_the_order(oracle: Any, kind: Any, stages: int, r1: float, r2: float | None) -> None:
    steps = (80, 160, 320)
    errors = errors_of(oracle, kind(stages, r1, r2), steps)
    assert abs(oracle.fitted_slope(steps, errors) - stages) < 0.25, errors


def test_two_stages_integrate_a_linear_model_exactly() -> None:
    """D = lambda whatever x: x' = (t / sigma) x + t int e^l l dl = (t / sigma) x + (l - 1) - (t / sigma) (l_0 - 1)."""
    start, stop = 5.0, 0.02

    class Linear:
        noise, dtype = None, torch.float64

        def __call__(self, x: torch.Tensor, sigma: torch.Tensor) -> torch.Tensor:
            return -sigma.log()[:, None, None].expand_as(x)

    x = torch.tensor([[[3.0]]], dtype=torch.float64)
    ratio, after, before = stop / start, -math.log(stop), -math.log(start)
    exact = ratio * 3.0 + (after - 1.0) - ratio * (before - 1.0)
    for r1 in (0.5, 0.9):
        out = run(DPMSolverPPSingle(2, r1).plan([start, stop]), Linear(), x, (0,))  # type: ignore[arg-type]
        assert float(out) == pytest.approx(exact, rel=1e-13)


@pytest.mark.parametrize("of", ["eps", "x0"])
def test_fast_plans_meet_the_number_of_evaluations(oracle: Any, of: Any) -> None:
    prior, x, exact = oracle.reference()
    plans = [fast_plan(field(of), n, oracle.SIGMA_MAX, oracle.SIGMA_MIN) for n in range(1, 25)]
    assert [plan.nfe for plan in plans] == list(range(1, 25))
    assert [len(plan.levels) - 1 for plan in plans[:7]] == [1, 1, 2, 2, 2, 3, 3]
    errors = [oracle.rms(run(plans[n - 1], prior, x, range(len(x))) - exact) for n in (12, 24)]
    assert errors[1] < errors[0] / 2.0**2
    with pytest.raises(ConfigError, match="at least one evaluation"):
        fast_plan(field(of), 0, 80.0, 0.1)


def test_one_step_of_epd_by_hand() -> None:
    """One mode of variance 1, sigma 4 -> 1, both points with all four numbers."""
    sampler = EPD(2, ((0.3, 0.8),), ((0.5, 1.0),), ((0.9, 1.1),), ((1.2, 0.7),))
    slope = 4.0 / 17.0
    gain = 1.0
    for w, level, scale, o in ((0.3, 2.0, 0.9, 1.2), (0.8, 1.0, 1.1, 0.7)):
        y = 1.0 + (level - 4.0) * slope
        gain += (1.0 - 4.0) * w * o * (y - y / (1.0 + (scale * level) ** 2)) / level
    assert response(sampler.plan([4.0, 1.0]), np.ones(1)).gain[0] == pytest.approx(gain, rel=1e-14)
    # One point in the middle of log sigma.
    middle = 1.0 - 2.0 * slope
    gain = 1.0 - 3.0 * middle * 2.0 / 5.0
    assert response(EPD().plan([4.0, 1.0]), np.ones(1)).gain[0] == pytest.approx(gain, rel=1e-14)


def test_epd_rows_belong_to_steps() -> None:
    rows = ((0.2, 0.8), (0.6, 0.9))
    plan = EPD(2, positions=rows).plan([4.0, 2.0, 1.0])
    levels = [step.level for step in plan.steps if isinstance(step, Eval)]
    expected = [4.0, 4.0 / 2**0.2, 4.0 / 2**0.8, 2.0, 2.0 / 2**0.6, 2.0 / 2**0.9]
    assert levels == pytest.approx(expected, rel=1e-15)
    assert len(EPD(2, positions=(rows[0],)).plan(uniform_lambda(20.0, 0.1, 7)).levels) == 8
    with pytest.raises(ConfigError, match="2 rows of positions for 3 steps"):
        EPD(2, positions=rows).plan([4.0, 2.0, 1.0, 0.5])
    with pytest.raises(ConfigError, match="rows of as many weights"):
        EPD(2, weights=((1.0,),))
    with pytest.raises(ConfigError, match=r"positions in \(0, 1\]"):
        EPD(1, positions=((0.0,),))
    with pytest.raises(ConfigError, match="positive time scales"):
        EPD(1, time_scales=((0.0,),))


@pytest.mark.parametrize("weights", [(0.5, 0.5), (0.2, 0.8)])
def test_epd_is_of_order_two_where_its_docstring_says_so(oracle: Any, weights: Any) -> None:
    """sum w r = 1/2 gives slope 2; off that, slope 1."""
    first = 0.3
    second = (0.5 - weights[0] * first) / weights[1]
    for r2, slope in ((second, 2), (second + 0.2, 1)):
        sampler = EPD(2, (weights,), ((first, r2),))
        steps = (80, 160, 320)
        assert abs(oracle.fitted_slope(steps, errors_of(oracle, sampler, steps)) - slope) < 0.25


def test_stages_that_give_no_method_are_refused() -> None:
    for kind, (r1, r2) in itertools.product((DPMSolver, DPMSolverPPSingle), ((0.5, 0.5), (2 / 3, 1.0))):
        with pytest.raises(ConfigError, match="r1 != r2 and r1 != 2/3"):
            kind(3, r1, r2)
    with pytest.raises(ConfigError, match="r1"):
        build("sampler", {"kind": "DPMSolver", "stages": 2, "r1": 0.0})
    rows = {"kind": "EPD", "points": 2, "positions": [[0.2, 0.8], [0.6, 0.9]]}
    assert build("sampler", rows).positions == ((0.2, 0.8), (0.6, 0.9))
