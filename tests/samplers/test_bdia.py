"""BDIA: its signs, its order, and exact inversion; inversion of the other samplers."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch

from pdediff.errors import ConfigError
from pdediff.samplers import (
    BDIA,
    DDIM,
    DEIS,
    PC,
    PNDM,
    Lin,
    Plan,
    UniPC,
    Walk,
    inverse_plan,
    invert,
    response,
    run,
    uniform_lambda,
)


def test_worked_step() -> None:
    """Levels 4, 2, 1: e at 2 is (x - D) / 2; x'' = g x_0 + (1 - g) x_1 - 2 g e - e."""
    last = BDIA(0.5).plan([4.0, 2.0, 1.0]).steps[-1]
    assert isinstance(last, Lin)
    assert last.terms == (("x", 0.5), ("before", 0.5 - 1.0), ("denoised", 1.0))
    first = BDIA(0.5).plan([4.0, 2.0, 1.0]).steps[1]
    assert isinstance(first, Lin)
    assert first.terms == (("x", 0.5), ("denoised", 0.5))  # DDIM


@pytest.mark.parametrize("steps", [1, 8, 9])
@pytest.mark.parametrize("zero", [False, True])
def test_no_memory_is_ddim(oracle: Any, steps: int, zero: bool) -> None:
    """gamma so small that only the signs of the other terms count."""
    prior, x, _ = oracle.reference()
    levels = uniform_lambda(80.0, 0.1, steps) + [0.0] * zero
    one, other = (run(sampler.plan(levels), prior, x, range(32)) for sampler in (BDIA(1e-18), DDIM()))
    assert float((one - other).abs().max()) < 1e-12


def test_gamma_one_is_leapfrog(oracle: Any) -> None:
    """x_(i+1) = x_(i-1) + (sigma_(i+1) - sigma_(i-1)) e_i, by hand."""
    prior, x, _ = oracle.reference()
    levels = uniform_lambda(80.0, 0.1, 7)
    states = [x]
    for i in range(7):
        e = (states[i] - prior(states[i], torch.full((32,), levels[i], dtype=torch.float64))) / levels[i]
        back = max(i - 1, 0)
        states.append(states[back] + (levels[i + 1] - levels[back]) * e)
    assert float((run(BDIA().plan(levels), prior, x, range(32)) - states[-1]).abs().max()) < 1e-11


@pytest.mark.parametrize("gamma", [0.5, 0.8])
def test_error_is_a_share_of_ddims(gamma: float) -> None:
    """(1 - gamma) / (1 + gamma) of it for many steps, on equal steps of the flow time of one Gaussian."""
    v, levels = np.array([1.0]), np.linspace(3.0, 0.5, 2001).tolist()
    exact = np.sqrt((v + 0.25) / (v + 9.0))
    one, other = (response(s.plan(levels), v).gain - exact for s in (BDIA(gamma), DDIM()))
    assert one[0] / other[0] == pytest.approx((1.0 - gamma) / (1.0 + gamma), rel=0.02)


@pytest.mark.parametrize("steps", [3, 7])
@pytest.mark.parametrize("zero", [False, True])
def test_point_prior_is_exact_up_to_rounding(oracle: Any, steps: int, zero: bool) -> None:
    """Leapfrog carries the rounding of the start, 30 * 2e-16, on to the end and amplifies it by up to 300."""
    point = oracle.PointPrior(torch.linspace(-2.0, 3.0, 5, dtype=torch.float64)[None])
    x = point.mean + 30.0 * torch.randn(4, 1, 5, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    levels = uniform_lambda(30.0, 0.1, steps) + [0.0] * zero
    out = run(BDIA().plan(levels), point, x, range(4))
    exact = point.mean + (x - point.mean) * (levels[-1] / 30.0)
    assert float((out - exact).abs().max()) < 1e-10


@pytest.mark.parametrize(
    ("gamma", "steps", "zero"),
    [(1.0, 1, False), (1.0, 10, False), (1.0, 11, True), (1.0, 40, False), (0.5, 10, False), (0.5, 9, True)],
)
def test_round_trip_is_exact(oracle: Any, gamma: float, steps: int, zero: bool) -> None:
    prior, x, _ = oracle.reference()
    sampler, levels = BDIA(gamma), uniform_lambda(80.0, 0.1, steps) + [0.0] * zero
    end = Walk(prior, range(32))(sampler.plan(levels), {"x": x})
    assert end["x"].ne(x).all()
    back = invert(prior, end, sampler, levels)
    assert float((back["x"] - x).abs().max() / x.abs().max()) < 1e-14
    # The second state comes back too: the DDIM step from the start.
    second = run(DDIM().plan(levels[:2]), prior, x, range(32))
    assert float((back["before"] - second).abs().max() / x.abs().max()) < 1e-14


def test_inverse_plan_is_data() -> None:
    levels = uniform_lambda(80.0, 0.1, 5)
    plan = BDIA(0.9).inverse(levels)
    assert plan.levels == tuple(levels[::-1])
    assert plan.inputs == ("x", "before")
    assert plan.nfe == 4  # the first level is not evaluated: its state follows from the next two
    assert Plan.from_json(plan.to_json()) == plan


@pytest.mark.parametrize("downward", [DDIM(), PC("v", 2), UniPC(2), DEIS("rho", 2), PNDM()])
def test_round_trip_of_the_others_is_of_their_order(oracle: Any, downward: Any) -> None:
    """Down by the sampler, up by the predictor-corrector in its field; both follow one flow."""
    prior, x, _ = oracle.reference()
    steps, errors = (40, 80, 160), []
    for n in steps:
        levels = uniform_lambda(20.0, 0.1, n)
        end = {"x": run(downward.plan(levels), prior, x / 4.0, range(32))}
        errors.append(oracle.rms(invert(prior, end, downward, levels)["x"] - x / 4.0))
    assert oracle.fitted_slope(steps, errors) > downward.slope - 0.3, errors
    assert errors[-1] < 2.0


def test_inversion_follows_the_exact_flow_upwards(oracle: Any) -> None:
    prior, x, exact = oracle.reference()
    levels = uniform_lambda(oracle.SIGMA_MAX, oracle.SIGMA_MIN, 160)
    back = invert(prior, {"x": exact}, PC("v", 3), levels)["x"]
    assert oracle.rms(back - x) < 1e-3 * oracle.rms(x)


def test_refusals(oracle: Any) -> None:
    prior, x, _ = oracle.reference()
    levels = uniform_lambda(80.0, 0.1, 6)
    with pytest.raises(ConfigError, match="DDIM adds noise"):
        inverse_plan(DDIM(1.0), levels)
    with pytest.raises(ConfigError, match="upwards from level 0"):
        inverse_plan(DDIM(), [*levels, 0.0])
    with pytest.raises(ConfigError, match=r"needs slots \('x', 'before'\), got \['x'\]"):
        invert(prior, {"x": x}, BDIA(), levels)
