"""DEIS, iPNDM, PNDM, GHVB, UniPC, DC-Solver and DPM-Solver-v3: their published weights and what they promise."""

from __future__ import annotations

import dataclasses
import itertools
import math
from typing import Any

import numpy as np
import pytest
import torch

from pdediff.diffusion import GaussianFieldPrior, matern_field
from pdediff.samplers import (
    DEIS,
    GHVB,
    IPNDM,
    PC,
    PNDM,
    Band,
    DCSolver,
    DPMSolverV3,
    Lin,
    Plan,
    UniPC,
    band_of,
    band_variances,
    gaussian_start,
    response,
    run,
    uniform_lambda,
    weights,
)
from pdediff.samplers.deis import NoiseInRho, NoiseInTime, vp_level, vp_time
from pdediff.samplers.ghvb import momentum_weights


def end_error(oracle: Any, plan: Plan) -> float:
    prior, x, exact = oracle.reference()
    return oracle.rms(run(plan, prior, x, range(len(x))) - exact)


def test_time_of_the_linear_vp_process() -> None:
    """alpha = exp(-(b1 - b0) t^2 / 4 - b0 t / 2), sigma / alpha = sqrt(1 / alpha^2 - 1), and its inverse."""
    for t in (1e-6, 1e-3, 0.3, 1.0, 1.4):
        alpha = math.exp(-19.9 * t * t / 4.0 - 0.1 * t / 2.0)
        assert vp_level(t) == pytest.approx(math.sqrt(1.0 / alpha**2 - 1.0), rel=1e-9)
        assert vp_time(vp_level(t)) == pytest.approx(t, rel=1e-12)


@pytest.mark.parametrize(
    ("order", "known"),
    [(2, [3 / 2, -1 / 2]), (3, [23 / 12, -16 / 12, 5 / 12]), (4, [55 / 24, -59 / 24, 37 / 24, -9 / 24])],
)
def test_rho_weights_on_equal_steps_are_the_classical_ones(order: int, known: list[float]) -> None:
    got = weights(NoiseInRho(), [1.0 + 0.25 * j for j in range(order)], 1.0, 0.75)
    assert got == pytest.approx([-0.25 * w for w in known], rel=1e-13)


@pytest.mark.parametrize(("start", "stop"), [(80.0, 40.0), (2.0, 0.02), (0.05, 0.001), (0.02, 0.0)])
@pytest.mark.parametrize("s", [1.0, 0.3])
def test_time_weights_against_a_fine_sum(start: float, stop: float, s: float) -> None:
    """Many short Gauss panels in sqrt(rho), in which t and rho are smooth, give the integrals of l_j(t) drho."""
    nodes = [start, 1.4 * start, 2.2 * start]
    got = weights(NoiseInTime(s), nodes, start, stop)
    edges = np.sqrt(stop) + (np.sqrt(start) - np.sqrt(stop)) * np.linspace(1.0, 0.0, 401) ** 2
    points, gauss = np.polynomial.legendre.leggauss(16)
    half = 0.5 * np.diff(edges)[:, None]
    root = (edges[:-1, None] + half * (points + 1.0)).flatten()
    measure = (half * gauss).flatten() * 2.0 * root
    t = np.array([vp_time(float(rho) / s) for rho in root**2])
    known = [vp_time(sigma / s) for sigma in nodes]
    for i, a in enumerate(known):
        basis = np.prod([(t - b) / (a - b) for j, b in enumerate(known) if j != i], axis=0)
        assert got[i] == pytest.approx(float(measure @ basis), rel=1e-9, abs=1e-11 * start)


@pytest.mark.parametrize("order", [2, 3])
def test_time_deis_has_its_order_once_started(oracle: Any, order: int) -> None:
    """With a short first step the order-1 start no longer shows, on the quadratic grid of time."""
    sampler, steps, errors = DEIS("t", order), (80, 160, 320), []
    for n in steps:
        first, second, *rest = sampler.grid(n, oracle.SIGMA_MAX, oracle.SIGMA_MIN)
        short = [first * (second / first) ** (k / 64) for k in (1, 2, 4, 8, 16, 32)]
        errors.append(end_error(oracle, sampler.plan([first, *short, second, *rest])))
    assert oracle.fitted_slope(steps, errors) > order - 0.15, errors


def test_log_rho_deis_is_the_noise_field_without_corrector() -> None:
    levels = uniform_lambda(80.0, 0.1, 9)
    for order in (1, 2, 3, 4):
        assert DEIS("logrho", order).plan(levels) == PC("eps", order, corrector=False).plan(levels)


@pytest.mark.parametrize("variable", ["t", "rho"])
def test_deis_reaches_zero_at_full_order(variable: Any) -> None:
    sampler, v = DEIS(variable, 3), np.array([1.5, 0.5])
    errors = []
    for n in (40, 80):
        gain = response(sampler.plan(sampler.grid(n, 50.0, 0.0)), v).gain
        errors.append(float(np.abs(gain / np.sqrt(v / (v + 50.0**2)) - 1).max()))
    assert errors[1] < 3e-3
    assert errors[1] < errors[0] / 5.0


def test_pndm_is_of_order_four_on_equal_steps_and_costs_nine_more() -> None:
    """Classical Runge-Kutta starts classical Adams-Bashforth: order 4 where its weights are right, 2 elsewhere."""
    v, steps = np.array([1.5, 0.3]), (40, 80, 160)
    exact = np.sqrt((v + 0.5**2) / (v + 4.0**2))

    def error(sampler: Any, levels: np.ndarray) -> float:
        return float(np.abs(response(sampler.plan(levels.tolist()), v).gain / exact - 1).max())

    def slope(sampler: Any, grid: Any) -> float:
        return -float(np.polyfit(np.log(steps), np.log([error(sampler, grid(4.0, 0.5, n + 1)) for n in steps]), 1)[0])

    assert slope(PNDM(), np.linspace) > 3.75
    assert slope(PNDM(), np.geomspace) == pytest.approx(2.0, abs=0.25)
    assert error(PNDM(), np.linspace(4.0, 0.5, 161)) < 0.5 * error(IPNDM(), np.linspace(4.0, 0.5, 161))
    assert PNDM().plan(uniform_lambda(80.0, 0.1, 10)).nfe == 19


def test_pndm_is_three_runge_kutta_steps_and_then_plms(oracle: Any) -> None:
    """By hand: the classical method of order 4 on dx / dsigma = e, with half way at the mean of the levels."""
    prior, x, _ = oracle.reference()
    levels = uniform_lambda(80.0, 5.0, 4)

    def e(x: torch.Tensor, sigma: float) -> torch.Tensor:
        return (x - prior(x, torch.full((32,), sigma, dtype=torch.float64))) / sigma

    state, kept = x, []
    for a, b in itertools.pairwise(levels[:4]):
        h, half = b - a, (a + b) / 2.0
        k1 = e(state, a)
        k2 = e(state + h / 2.0 * k1, half)
        k3 = e(state + h / 2.0 * k2, half)
        k4 = e(state + h * k3, b)
        kept.append(k1)
        state = state + h / 6.0 * (k1 + 2.0 * k2 + 2.0 * k3 + k4)
    slope = (55.0 * e(state, levels[3]) - 59.0 * kept[2] + 37.0 * kept[1] - 9.0 * kept[0]) / 24.0
    state = state + (levels[4] - levels[3]) * slope
    assert float((run(PNDM().plan(levels), prior, x, range(32)) - state).abs().max()) < 1e-11


@pytest.mark.parametrize("order", [1, 2, 3, 4])
def test_momentum_one_is_plms(oracle: Any, order: int) -> None:
    prior, x, _ = oracle.reference()
    levels = uniform_lambda(80.0, 0.1, 12)
    one, other = (run(s.plan(levels), prior, x, range(len(x))) for s in (GHVB(order, 1.0), IPNDM(order)))
    assert float((one - other).abs().max()) < 1e-12


@pytest.mark.parametrize("order", [1, 2, 3, 4])
@pytest.mark.parametrize("b", [0.3, 0.8, 1.0])
def test_momentum_weights_integrate_polynomials(order: int, b: float) -> None:
    """Once the filter has forgotten its start, equal steps of e = t^d, d < order, are exact."""
    c = momentum_weights(order, b)
    for degree in range(order):
        v, seen = 0.0, []
        for t in range(-150, 1):
            v = (1.0 - b) * v + b * float(t) ** degree
            seen.append(v)
        step = sum(w * value for w, value in zip(c, reversed(seen), strict=False)) / b
        assert step == pytest.approx(1.0 / (degree + 1), abs=1e-9)


@pytest.mark.parametrize("variant", ["bh1", "bh2"])
@pytest.mark.parametrize("order", [2, 3])
def test_unipc_corrector_solves_the_published_system(variant: Any, order: int) -> None:
    """sum_j a_j r_j^(k-1) = b_k with either B(h): the weights of the plan, which come from the exact integrals."""
    lambdas = [0.0, 0.7, 1.1, 1.9, 2.2]
    levels = [math.exp(-value) for value in lambdas]
    plan = UniPC(order, variant).plan(levels)
    linear = [step for step in plan.steps if isinstance(step, Lin) and step.dst != "denoised"]
    correction = [step for step in linear if step.dst == "x"][2]
    predictor = linear[linear.index(correction) - 1]
    assert (predictor.dst, correction.terms[0]) == ("predicted", ("predicted", 1.0))
    done = dict(predictor.terms)
    corrected = [done["x"], *(done.get(name, 0.0) + c for name, c in correction.terms[1:])]
    h = lambdas[3] - lambdas[2]
    b = -h if variant == "bh1" else math.expm1(-h)
    r = np.array([(lambdas[2 - j] - lambdas[2]) / h for j in range(1, order)] + [1.0])
    phi = [sum((-h) ** k / math.factorial(k + n) for k in range(40)) for n in range(order + 2)]  # phi_n(-h)
    right = [math.factorial(k) * phi[k + 1] * -h / b for k in range(1, order + 1)]
    a = np.linalg.solve(np.array([r**k for k in range(order)]), right)
    shares = -b * a / r
    expected = [math.exp(-h), shares[-1], -math.expm1(-h) - shares.sum(), *shares[:-1]]
    assert corrected == pytest.approx(expected, rel=1e-12)


@pytest.mark.parametrize("variant", ["bh1", "bh2"])
@pytest.mark.parametrize("order", [1, 2, 3])
def test_unipc_differs_from_pc_by_a_higher_order(oracle: Any, order: int, variant: Any) -> None:
    """The simplified weights change a step of order p by O(h^(p+2)): at order 3 only the first ones, by O(h^3)."""
    prior, x, _ = oracle.reference()
    steps, gaps = (40, 80, 160), []
    for n in steps:
        levels = uniform_lambda(80.0, 0.1, n)
        one, other = (run(s.plan(levels), prior, x, range(32)) for s in (UniPC(order, variant), PC("x0", order)))
        gaps.append(oracle.rms(one - other))
    assert oracle.fitted_slope(steps, gaps) > min(order + 1, 3) - 0.25, gaps
    assert gaps[0] > 1e-9  # the simplification is there


def test_unipc_by_hand_and_to_zero() -> None:
    """4, 2, 1, 0 at order 2 (h = log 2 = lambda step): a = 1/2, r = -1 in the predictor, r = 1 in the corrector."""
    for variant, b in (("bh1", math.log(2.0)), ("bh2", 0.5)):
        plan = UniPC(2, variant).plan([4.0, 2.0, 1.0, 0.0])  # type: ignore[arg-type]
        lins = [step for step in plan.steps if isinstance(step, Lin)]
        assert [c for _, c in lins[0].terms] == pytest.approx([0.5, 0.5], rel=1e-14)  # order 1: 1 - e^-h
        assert [c for _, c in lins[1].terms] == pytest.approx([1.0, b / 2, -b / 2], rel=1e-14)
        assert [c for _, c in lins[2].terms] == pytest.approx([0.5, 0.5 + b / 2, -b / 2], rel=1e-14)
        assert lins[-1].terms == (("m2", 1.0),)


def test_dc_solver_without_ratios_is_unipc() -> None:
    levels = [*uniform_lambda(80.0, 0.1, 8), 0.0]
    for order in (2, 3):
        assert DCSolver((), order).plan(levels) == UniPC(order).plan(levels)
        assert DCSolver((1.0, 1.0), order, "bh1").plan(levels) == UniPC(order, "bh1").plan(levels)


@pytest.mark.parametrize("order", [2, 3])
def test_compensation_moves_a_parabola_along_lambda(order: Any) -> None:
    levels = [9.0, 5.0, 2.5, 1.0, 0.6, 0.2]
    plain, moved = (DCSolver(ratios, order).plan(levels) for ratios in ((), (1.0, 0.7)))
    (place,) = [k for k, step in enumerate(moved.steps) if step not in plain.steps]
    assert moved.steps[:place] + moved.steps[place + 1 :] == plain.steps
    step = moved.steps[place]
    assert isinstance(step, Lin)
    # Step 3, before it predicts: the evaluations at levels 3, 2, 1 are in the slots of their numbers.
    held = {f"m{node % (order + 1)}": -math.log(levels[node]) for node in (3, 2, 1)}
    assert step.dst == f"m{3 % (order + 1)}"
    target = 0.7 * -math.log(levels[3]) + 0.3 * -math.log(levels[2])
    for degree in range(3):
        assert sum(c * held[name] ** degree for name, c in step.terms) == pytest.approx(target**degree, rel=1e-12)
    after = moved.steps[place + 1]
    assert isinstance(after, Lin)
    assert after.dst == "predicted"


def banded_prior(grid: tuple[int, ...], mean: float = 0.0) -> tuple[GaussianFieldPrior, tuple[float, ...]]:
    """A field whose mode variances depend on the radial band alone, and these variances."""
    prior = matern_field(grid, length=0.2, smoothness=1.5)
    spectrum = band_variances(prior.spectrum)
    modes = torch.tensor(spectrum, dtype=torch.float64)[band_of(grid)][None]
    return dataclasses.replace(prior, spectrum=modes, mean=prior.mean + mean), spectrum


def test_band_variances_are_means_over_rings() -> None:
    modes = torch.arange(32, dtype=torch.float64).reshape(2, 4, 4)
    entry = band_of((4, 4))
    expected = [float(modes[:, entry == band].mean()) for band in range(4)]
    assert band_variances(modes) == pytest.approx(expected, rel=1e-14)


@pytest.mark.parametrize("grid", [(64,), (16, 16), (12, 9)])
@pytest.mark.parametrize(("order", "steps"), [(1, 1), (2, 3), (3, 4)])
def test_a_field_of_the_spectrum_takes_one_step(grid: tuple[int, ...], order: int, steps: int) -> None:
    """Gaussian fields of any mean are exact from 50 to 0.02 (and to 0), in one step or in several of higher order."""
    prior, spectrum = banded_prior(grid, mean=3.0)
    x = gaussian_start(prior, 50.0, range(3))
    levels = uniform_lambda(50.0, 0.02, steps)
    sampler = DPMSolverV3(spectrum, order)
    out = run(sampler.plan(levels), prior, x, range(3))
    assert float((out - prior.flow(x, 50.0, 0.02)).abs().max()) < 1e-10
    out = run(sampler.plan([*levels, 0.0]), prior, x, range(3))
    assert float((out - prior.flow(x, 50.0, 0.0)).abs().max()) < 1e-10


def test_a_wrong_spectrum_is_still_consistent(oracle: Any) -> None:
    steps = (80, 160, 320)
    for order in (1, 2, 3):
        sampler = DPMSolverV3((4.0, 0.01, 0.3), order)  # type: ignore[arg-type]
        plans = [sampler.plan(uniform_lambda(oracle.SIGMA_MAX, oracle.SIGMA_MIN, n)) for n in steps]
        assert any(isinstance(step, Band) for step in plans[0].steps)
        errors = [end_error(oracle, plan) for plan in plans]
        assert oracle.fitted_slope(steps, errors) == pytest.approx(order + 1, abs=0.25), errors


@pytest.mark.parametrize("order", [1, 2, 3])
def test_no_energy_is_data_prediction(oracle: Any, order: Any) -> None:
    prior, x, _ = oracle.reference()
    levels = [*uniform_lambda(80.0, 0.1, 9), 0.0]
    one, other = (run(s.plan(levels), prior, x, range(32)) for s in (DPMSolverV3((0.0,), order), PC("x0", order)))
    assert float((one - other).abs().max()) < 1e-11


def test_a_banded_plan_survives_json_and_scales_with_the_data() -> None:
    prior, spectrum = banded_prior((16,))
    levels = uniform_lambda(20.0, 0.05, 5)
    plan = DPMSolverV3(spectrum).plan(levels)
    assert Plan.from_json(plan.to_json()) == plan
    found = response(plan, prior.spectrum[0].numpy(), band_of((16,)).numpy())
    scaled = DPMSolverV3(spectrum, s=3.0).plan([3.0 * level for level in levels])
    other = response(scaled, 9.0 * prior.spectrum[0].numpy(), band_of((16,)).numpy())
    assert found.gain == pytest.approx(other.gain, rel=1e-12)
