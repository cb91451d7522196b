"""Adaptive DPM-Solver: its step is the fixed one, its error follows the tolerance, its rows are alone."""

from __future__ import annotations

import dataclasses
import math
from typing import Any

import pytest
import torch
from torch import Tensor

from pdediff.errors import ConfigError, NumericalError
from pdediff.samplers import AdaptiveDPMSolver, DPMSolver, run


def single(prior: Any) -> Any:
    """The mixture in float32."""
    parts = {name: getattr(prior, name).float() for name in ("weights", "means", "covariances")}
    return dataclasses.replace(prior, **parts)


@dataclasses.dataclass(frozen=True)
class Changed:
    """A denoiser whose output is changed at levels below `after`."""

    prior: Any
    change: Any
    after: float = math.inf

    @property
    def dtype(self) -> torch.dtype:
        return self.prior.dtype

    def __call__(self, x: Tensor, sigma: Tensor) -> Tensor:
        out = self.prior(x, sigma)
        return self.change(out) if float(sigma.min()) < self.after else out


@pytest.mark.parametrize("order", [2, 3])
@pytest.mark.parametrize("stop", [5.0, 15.0])
def test_one_try_is_the_step_of_the_plan_and_its_verdict_the_error_norm(oracle: Any, order: Any, stop: float) -> None:
    """Both solutions from the plans of DPM-Solver; E by hand, then tolerances just above and just below it."""
    prior = oracle.mixture(6)
    x = oracle.start_of(prior, 1, 20.0)
    high = run(DPMSolver(order).plan([20.0, stop]), prior, x, (0,))
    low = run(DPMSolver(order - 1, 1 / 3 if order == 3 else None).plan([20.0, stop]), prior, x, (0,))
    here, there = math.hypot(1.0, 20.0), math.hypot(1.0, stop)
    size = torch.maximum(low.abs() / there, x.abs() / here)
    shared = {"order": order, "first": 10.0, "max_steps": 1}
    for share in (0.0, 0.3):

        def norm(atol: float, share: float = share) -> float:
            allowed = there * torch.clamp(share * atol * size, min=atol)
            return float(((high - low) / allowed).square().mean().sqrt())

        exact = norm(1.0)  # E is homogeneous of degree -1 in the tolerances
        above, below = exact * (1.0 + 1e-6), exact * (1.0 - 1e-6)
        out, spent = AdaptiveDPMSolver(atol=above, rtol=share * above, **shared)(prior, x, 20.0, stop)
        assert float((out - high).abs().max()) < 1e-12
        assert spent.tolist() == [order]
        with pytest.raises(NumericalError, match="1 rows have not arrived after 1 adaptive steps"):
            AdaptiveDPMSolver(atol=below, rtol=share * below, **shared)(prior, x, 20.0, stop)


@pytest.mark.parametrize(("order", "atol"), [(2, 0.1), (2, 0.001), (3, 0.1), (3, 0.001)])
def test_the_next_step_follows_the_error(oracle: Any, order: Any, atol: float) -> None:
    """h <- 0.9 h E^(-1/order), read from the levels at which the denoiser is asked, after acceptance and rejection."""
    prior = oracle.mixture(6)
    x = oracle.start_of(prior, 1, 5.0)
    levels: list[float] = []

    class Recorder:
        dtype = prior.dtype

        def __call__(self, x: Tensor, sigma: Tensor) -> Tensor:
            levels.append(float(sigma))
            return prior(x, sigma)

    h, r1 = 0.8, 1 / 2 if order == 2 else 1 / 3
    AdaptiveDPMSolver(order, 0.0, atol, first=h)(Recorder(), x, 5.0, 0.1)  # type: ignore[arg-type]
    stop = 5.0 * math.exp(-h)
    high = run(DPMSolver(order).plan([5.0, stop]), prior, x, (0,))
    low = run(DPMSolver(order - 1, r1 if order == 3 else None).plan([5.0, stop]), prior, x, (0,))
    error = float(((high - low) / (atol * math.hypot(1.0, stop))).square().mean().sqrt())
    assert (error > 1.0) == (atol < 0.01)
    assert levels[order] == pytest.approx(5.0 if error > 1.0 else stop, rel=1e-12)
    assert math.log(levels[order] / levels[order + 1]) / r1 == pytest.approx(0.9 * h * error ** (-1 / order), rel=1e-9)


@pytest.mark.parametrize("order", [2, 3])
def test_error_is_proportional_to_the_tolerance(oracle: Any, order: Any) -> None:
    prior, x, exact = oracle.reference()
    tolerances, errors, costs = (1e-2, 1e-3, 1e-4), [], []
    for tolerance in tolerances:
        out, spent = AdaptiveDPMSolver(order, tolerance, tolerance / 6.0)(prior, x, oracle.SIGMA_MAX, oracle.SIGMA_MIN)
        errors.append(oracle.rms(out - exact))
        costs.append(float(spent.double().mean()))
    assert all(0.1 < error / tolerance < 1.0 for error, tolerance in zip(errors, tolerances, strict=True)), errors
    inverse = tuple(1.0 / tolerance for tolerance in tolerances)
    assert abs(oracle.fitted_slope(inverse, errors) - 1.0) < 0.3  # type: ignore[arg-type]
    assert costs[2] < 1.3 * costs[1] * 10.0 ** (1.0 / order)  # steps grow as tolerance^(-1 / order), no faster


def test_rows_have_their_own_steps(oracle: Any) -> None:
    """Rows of one batch need different numbers of evaluations, and the same numbers and states when alone."""
    prior, x, _ = oracle.reference()
    sampler = AdaptiveDPMSolver(3, 1e-3, 1e-4)
    kept = x.clone()
    together, spent = sampler(prior, x, oracle.SIGMA_MAX, oracle.SIGMA_MIN)
    assert torch.equal(x, kept)
    assert len(set(spent.tolist())) > 1
    assert bool((spent % 3 == 0).all())
    for i in range(6):
        alone, count = sampler(prior, x[i : i + 1], oracle.SIGMA_MAX, oracle.SIGMA_MIN)
        assert float((alone[0] - together[i]).abs().max()) < 1e-11  # BLAS may sum another batch in another order
        assert int(count) == int(spent[i])


def test_units_do_not_matter(oracle: Any) -> None:
    small, large = oracle.mixture(8), oracle.mixture(8, scale=37.0)
    x = oracle.start_of(small, 4, 20.0)
    one, spent = AdaptiveDPMSolver(3, 1e-3, 1e-4)(small, x, 20.0, 0.05)
    other, same = AdaptiveDPMSolver(3, 1e-3, 1e-4, s=37.0)(large, 37.0 * x, 37.0 * 20.0, 37.0 * 0.05)
    assert float((37.0 * one - other).abs().max()) < 1e-9
    assert torch.equal(spent, same)


def test_a_point_is_reached_exactly_in_few_steps(oracle: Any) -> None:
    """The estimate is rounding, so steps grow tenfold: 0.05, 0.5, 5 and what is left of log 300."""
    point = oracle.PointPrior(torch.linspace(-2.0, 3.0, 5, dtype=torch.float64)[None])
    x = point.mean + 30.0 * torch.randn(4, 1, 5, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    out, spent = AdaptiveDPMSolver()(point, x, 30.0, 0.1)
    assert float((out - point.mean - (x - point.mean) * (0.1 / 30.0)).abs().max()) < 1e-12
    assert spent.tolist() == [12] * 4


def test_float32_costs_rounding_only(oracle: Any) -> None:
    prior, x, exact = oracle.reference()
    sampler = AdaptiveDPMSolver(3, 1e-3, 1e-3 / 6.0)
    out, _ = sampler(single(prior), x.float(), oracle.SIGMA_MAX, oracle.SIGMA_MIN)
    assert out.dtype == torch.float32
    double, _ = sampler(prior, x, oracle.SIGMA_MAX, oracle.SIGMA_MIN)
    assert abs(oracle.rms(out - exact) / oracle.rms(double - exact) - 1.0) < 0.05


def test_rows_that_do_not_arrive_are_named(oracle: Any) -> None:
    prior = oracle.mixture(4)
    x = oracle.start_of(prior, 3, 20.0)
    with pytest.raises(NumericalError, match=r"3 rows have not arrived after 5 .*max_steps=5") as caught:
        AdaptiveDPMSolver(3, 1e-4, 1e-5, max_steps=5)(prior, x, 20.0, 0.1)
    assert caught.value.context["rows"] == [0, 1, 2]

    def broken(out: Tensor) -> Tensor:
        return torch.cat([out[:2], torch.full_like(out[2:], math.nan)])

    with pytest.raises(NumericalError, match=r"row 2 is at noise level .* with nan times the error allowed") as caught:
        AdaptiveDPMSolver()(Changed(prior, broken, 2.0), x, 20.0, 0.1)  # type: ignore[arg-type]
    assert 2 in caught.value.context["rows"]  # type: ignore[operator]
    assert caught.value.context["sigma"] > 0.1  # type: ignore[operator]


def test_wrong_levels_and_shapes_are_refused(oracle: Any) -> None:
    prior = oracle.mixture(4)
    x = oracle.start_of(prior, 3, 20.0)
    for levels in ((1.0, 2.0), (1.0, 1.0), (1.0, 0.0), (math.inf, 1.0), (math.nan, 1.0)):
        with pytest.raises(ConfigError, match="sigma_max > sigma_min > 0"):
            AdaptiveDPMSolver()(prior, x, *levels)
    with pytest.raises(ConfigError, match=r"returned shape \(3, 4\) for a state of \(3, 1, 4\)"):
        AdaptiveDPMSolver()(Changed(prior, lambda out: out[:, 0]), x, 20.0, 0.1)  # type: ignore[arg-type]
