"""DDRM, the fixed share of fresh noise with time travel, and the inner loops of STSL: affine steps pushed through."""

from __future__ import annotations

import itertools
import math

import gaussian_bar as bar
import pytest
import torch
from torch import Tensor

from pdediff.diffusion import Denoiser, GaussianPrior, GaussianRandomField, matern_field
from pdediff.observe import GaussianNoise, Observation, PointSensors
from pdediff.posterior import (
    DDNM,
    DDRM,
    STSL,
    CalibratedGuidance,
    DiffPIR,
    GuidedSampling,
    GuidedTravel,
    SeenDirections,
    STSLLoops,
    guided_start,
)
from pdediff.samplers import DDIM, Eval, edm_grid, uniform_lambda
from pdediff.types import Purpose, derive_many

Law = tuple[Tensor, Tensor]


def vector(*values: float) -> Tensor:
    return torch.tensor(values, dtype=torch.float64)


def everything(size: int, std: Tensor) -> Observation:
    """Every value of `size` is read as 1, with its own noise."""
    sensors = PointSensors(torch.arange(size)[:, None], torch.ones(size, 1).double())
    return Observation(torch.ones(size).double(), sensors, GaussianNoise(std))


LEVELS = (6.0, 2.5, 1.0, 0.45, 0.2, 0.07)


@pytest.mark.parametrize(("eta", "eta_b"), [(0.85, 1.0), (0.3, 0.6), (1.0, None), (0.0, 1.0)])
def test_ddrm_keeps_the_law_of_its_levels_given_x0(eta, eta_b):
    """Kawar et al. 2022, proposition 3.1: with D = x0 every state is N(x0, s^2 N) over the noise of the readings.

    Each reading has noise of its own, above and below the levels; N is a random field. All numbers of a run are
    linear in the standard normals behind start, readings and steps: the covariance is read off at unit vectors.
    """
    noise = GaussianRandomField(length=0.1, smoothness=1.0)
    covariance = noise.covariance((1, 8))
    prior = matern_field((8,), length=0.2, smoothness=1.0)
    prior = type(prior)(prior.mean, prior.spectrum, noise)
    rows = torch.randn(3, 8, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    sensors = PointSensors(torch.arange(8).expand(3, 8).contiguous(), rows)
    std, method = vector(0.1, 1.0, 5.0), DDRM(eta, eta_b)
    x0 = torch.randn(1, 1, 8, generator=torch.Generator().manual_seed(2), dtype=torch.float64)
    seen = SeenDirections.of(Observation(sensors(x0)[0], sensors, GaussianNoise(std)), prior)
    torch.testing.assert_close(seen.duals @ seen.basis.T, torch.eye(3).double(), rtol=0, atol=1e-10)
    torch.testing.assert_close(seen.readings, seen.coordinates(x0)[0])

    # One unit vector for each normal: 3 of the readings, then 8 of the start and of each step.
    units = 3 + 8 * len(LEVELS)
    unit = torch.eye(units).double()
    eps = [covariance.sqrt(unit[:, 3 + 8 * k : 11 + 8 * k].reshape(units, 1, 8)) for k in range(len(LEVELS))]
    read = SeenDirections(seen.duals, seen.basis, seen.spread, seen.readings + unit[:, :3] * seen.spread, seen.mean)
    x = method.begun(read, x0 + LEVELS[0] * eps[0], LEVELS[0], eps[0])
    wanted = covariance.matvec(torch.eye(8).double().reshape(8, 1, 8)).flatten(1)
    for k, levels in enumerate(itertools.pairwise(LEVELS), start=1):
        spread = (x - x0).flatten(1)
        torch.testing.assert_close(spread.T @ spread, levels[0] ** 2 * wanted, rtol=0, atol=1e-9 * levels[0] ** 2)
        x = method.moved(read, (x, x0.expand_as(x)), levels, eps[k])


def scalar_law(eta: float, spread: float, noise: float | None, levels: tuple[float, ...]) -> tuple[float, float]:
    """Mean and variance at the end of DDRM for x0 ~ N(0, spread^2), read as 1 with `noise` or not at all: a scalar."""
    level = levels[0]
    seen = noise is not None and noise <= level
    mean, variance = (1.0, level**2 - noise**2) if seen and noise is not None else (0.0, spread**2 + level**2)
    for level, after in itertools.pairwise(levels):
        gain, keep = spread**2 / (spread**2 + level**2), math.sqrt(1 - eta**2)
        if noise is None:
            slope, offset, fresh = gain + keep * after / level * (1 - gain), 0.0, (eta * after) ** 2
        elif noise > after:
            slope, offset, fresh = gain * (1 - keep * after / noise), keep * after / noise, (eta * after) ** 2
        else:
            slope, offset, fresh = 0.0, 1.0, after**2 - noise**2
        mean, variance = slope * mean + offset, slope**2 * variance + fresh
    return mean, variance


@pytest.mark.parametrize("eta", [0.85, 0.4])
def test_ddrm_on_a_diagonal_gaussian_is_the_scalar_recursion(eta):
    """Five points: read with noise below and above the levels, and one unseen; start, steps and the step to 0."""
    spread, std = vector(1.0, 0.7, 1.3, 0.4, 1.0), vector(0.05, 0.3, 4.0, 20.0)
    prior = GaussianPrior(torch.zeros(1, 5).double(), torch.diag(spread**2))
    sensors = PointSensors(torch.arange(4)[:, None], torch.ones(4, 1).double())
    seen = SeenDirections.of(Observation(torch.ones(4).double(), sensors, GaussianNoise(std)), prior)
    method, levels = DDRM(eta), (*LEVELS, 0.0)
    # The start of what is not replaced is that of the prior, N(0, spread^2 + level^2).
    mean = method.begun(seen, torch.zeros(1, 1, 5).double(), levels[0], torch.zeros(1, 1, 5).double()).flatten()
    root = torch.diag((spread**2 + levels[0] ** 2).sqrt())
    for i in (0, 1, 2):
        root[i, i] = math.sqrt(levels[0] ** 2 - float(std[i]) ** 2)
    law = mean, root @ root
    unit = torch.cat([torch.zeros(1, 5), torch.eye(5)]).double()[:, None]
    for level, after in itertools.pairwise(levels):
        denoised = prior(unit, torch.full((6,), level, dtype=torch.float64))
        out = method.moved(seen, (unit, denoised), (level, after), torch.zeros_like(unit)).flatten(1)
        still = torch.zeros(5, 1, 5).double()
        fresh = (method.moved(seen, (still, still), (level, after), unit[1:]) - out[0] * 0).flatten(1)
        fresh = fresh - method.moved(seen, (still[:1], still[:1]), (level, after), still[:1]).flatten(1)
        slope = out[1:] - out[0]
        law = law[0] @ slope + out[0], slope.T @ law[1] @ slope + fresh.T @ fresh
    for i, noise in enumerate([0.05, 0.3, 4.0, 20.0, None]):
        mean, variance = scalar_law(eta, float(spread[i]), noise, levels)
        assert float(law[0][i]) == pytest.approx(mean, abs=1e-10)
        assert float(law[1][i, i]) == pytest.approx(variance, abs=1e-10)


def test_ddrm_draws_as_its_law_says_and_ends_with_too_little_variance():
    """An unseen point of unit spread: the class against the recursion, whose limit is (1 + sqrt(1 - eta^2)) / 2."""
    prior = GaussianPrior(torch.zeros(1, 2).double(), torch.eye(2).double())
    sensor = PointSensors(torch.tensor([[0]]), torch.ones(1, 1).double())
    observation = Observation(torch.ones(1).double(), sensor, GaussianNoise(vector(0.5)))
    found = {}
    for steps in (10, 40):
        levels = (*edm_grid(20.0, 0.02, steps - 1), 0.0)
        _, seen = scalar_law(0.85, 1.0, 0.5, levels)
        mean, found[steps] = scalar_law(0.85, 1.0, None, levels)
        x = DDRM(steps=steps, sigma_max=20.0)(prior, observation, 3000, 0).x[:, 0]
        assert abs(float(x[:, 1].mean()) - mean) < 6 * math.sqrt(found[steps] / 3000)
        assert float(x[:, 0].var()) == pytest.approx(seen, rel=6 * math.sqrt(2 / 3000))
        assert float(x[:, 1].var()) == pytest.approx(found[steps], rel=6 * math.sqrt(2 / 3000))
        print(
            f"DDRM, {steps} steps: variance of an unseen point {found[steps]:.3f} for 1, of a seen {seen:.3f} for 0.2"
        )
    limit = (1 + math.sqrt(1 - 0.85**2)) / 2
    gaps = [limit - scalar_law(0.85, 1.0, None, (*uniform_lambda(20.0, 1e-3, n), 0.0))[1] for n in (250, 500, 1000)]
    assert 1.8 < gaps[0] / gaps[1] < 2.2
    assert 1.8 < gaps[1] / gaps[2] < 2.2


def pushed(guided: Denoiser, plan, law: Law) -> Law:
    """The law after a plan of `GuidedTravel`: every step affine, noise white."""
    size, gain = len(law[0]), None
    unit = torch.cat([torch.zeros(1, size), torch.eye(size)]).double()[:, None]
    for step in plan.steps:
        if isinstance(step, Eval):
            gain = guided(unit, torch.full((size + 1,), step.level, dtype=torch.float64)).flatten(1)
            continue
        terms, eye = dict(step.terms), torch.eye(size).double()
        slope, offset = terms["x"] * eye, torch.zeros(size).double()
        if "denoised" in terms:
            slope, offset = slope + terms["denoised"] * (gain[1:] - gain[0]), terms["denoised"] * gain[0]
        law = law[0] @ slope + offset, slope.T @ law[1] @ slope + step.variance * eye
    return law


def test_travel_with_the_exact_guidance_is_exact_as_steps_grow(bures):
    """Share 0: the flow, with returns; order one, down from what the start leaves."""
    here = bar.problem(0)
    guided = CalibratedGuidance()(here.prior, here.observation)
    start = (here.posterior.mean.flatten(), here.posterior.covariance + 20.0**2 * torch.eye(bar.SIZE).double())
    errors = []
    for steps in (24, 48, 96):
        plan = GuidedTravel(CalibratedGuidance(), steps, 0.0, 3, 2, sigma_max=20.0, sigma_min=0.01).plan()
        assert len([s for s in plan.steps if isinstance(s, Eval)]) == 2 * steps
        errors.append(bures(*pushed(guided, plan, start), here.posterior))
    print(f"GuidedTravel, share 0: {errors}")
    assert 1.7 < errors[0] / errors[1] < 2.4
    assert 1.8 < errors[1] / errors[2] < 2.2


def test_a_fixed_share_of_fresh_noise_ends_with_its_own_share_of_the_covariance(bures):
    """The exact guidance, share 0.7: the law tends to the posterior's with (1 + sqrt(0.3)) / 2 of its covariance."""
    here = bar.problem(0)
    guided = CalibratedGuidance()(here.prior, here.observation)
    start = (here.posterior.mean.flatten(), here.posterior.covariance + 20.0**2 * torch.eye(bar.SIZE).double())
    limit = (1 + math.sqrt(0.3)) / 2
    narrow, gaps = GaussianPrior(here.posterior.mean, limit * here.posterior.covariance), []
    for steps in (32, 128, 512):
        plan = GuidedTravel(CalibratedGuidance(), steps, 0.7, sigma_max=20.0, sigma_min=1e-3).plan()
        law = pushed(guided, plan, start)
        gaps.append((limit - float(law[1].trace() / here.posterior.covariance.trace()), bures(*law, narrow)))
    print(f"GuidedTravel, share 0.7: variance ratio short of {limit:.3f} by, and distance to it: {gaps}")
    assert gaps[0][0] > 3 * gaps[1][0] > 9 * gaps[2][0] > 0
    assert gaps[2][1] < 0.02


def test_share_zero_without_travel_is_the_flow_step_of_ddim():
    here = bar.problem(0)
    levels = (30.0, 0.05)
    ours = GuidedTravel(DiffPIR(), 7, 0.0, sigma_max=levels[0], sigma_min=levels[1])
    theirs = DDIM(eta=0.0).plan(uniform_lambda(*levels, 7))
    for a, b in zip(ours.plan().steps, theirs.steps, strict=True):
        assert type(a) is type(b)
        if not isinstance(a, Eval):
            torch.testing.assert_close(dict(a.terms), dict(b.terms))
    x = ours(here.prior, here.observation, 3, 5).x
    other = GuidedSampling(DiffPIR(), DDIM(eta=0.0), 7, *levels)(here.prior, here.observation, 3, 5).x
    torch.testing.assert_close(x, other, rtol=0, atol=1e-10)


def test_travel_settles_what_ddnm_takes_for_independent():
    """Two values of correlation 0.8, the first read as 1.5 without noise: the second is N(1.2, 0.36)."""
    prior = GaussianPrior(torch.zeros(1, 2).double(), vector(1.0, 0.8, 0.8, 1.0).reshape(2, 2))
    sensor = PointSensors(torch.tensor([[0]]), torch.ones(1, 1).double())
    observation = Observation(vector(1.5), sensor, GaussianNoise(vector(1.0)))
    guided, means = DDNM(False)(prior, observation), []
    for repeats in (1, 4, 16):
        plan = GuidedTravel(DDNM(False), 20, 1.0, 1, repeats, sigma_max=20.0).plan()
        law = pushed(guided, plan, (torch.zeros(2).double(), 401 * torch.eye(2).double()))
        means.append(float(law[0][1]))
    print(f"DDNM with travel: means {means} for 1.2")
    assert 1.2 - means[0] > 1.2 - means[1] > abs(1.2 - means[2])
    assert means[2] == pytest.approx(1.2, abs=0.05)


def test_inner_loops_of_stsl_by_hand():
    """One reading of one point of N(0, 1): gradients of |y - D| have one size, so loops are sums of known moves."""
    prior = GaussianPrior(torch.zeros(1, 1).double(), torch.ones(1, 1).double())
    observation = everything(1, vector(0.5))
    observation = Observation(vector(0.02), observation.operator, observation.noise)
    method = STSLLoops(STSL(0.3, 0.7), inner=3, rate=0.1, steps=4, eta=0.0, sigma_max=5.0, sigma_min=0.5)
    x, told = method(prior, observation, 40, 2).x.flatten(), []
    state = guided_start(prior, observation, 5.0, derive_many(2, Purpose.START, range(40))).flatten()
    for level, after in itertools.pairwise([*uniform_lambda(5.0, 0.5, 4), 0.0]):
        gain = 1 / (1 + level**2)
        if after:
            for _ in range(3):
                sign = torch.sign(0.02 - gain * state)
                # strength (1 + sigma^2) J / std; the second term of a Gaussian is zero.
                state = state + 0.1 * 0.3 * (1 + level**2) * gain / 0.5 * sign
                told.append(sign)
            state = gain * state + after / level * (1 - gain) * state
        else:
            state = gain * state
    torch.testing.assert_close(x, state, rtol=0, atol=1e-9)
    assert len(torch.unique(torch.cat(told))) == 2
    assert method(prior, observation, 40, 2).diagnostics == {"denoiser_calls": 4 * (3 * 2 + 1) + 1, "network_vjps": 24}
