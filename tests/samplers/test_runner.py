"""Plans as data, the runner, tiles and seeds."""

from __future__ import annotations

import dataclasses
import json
import math
from typing import Any

import pytest
import torch
from torch import Tensor

from pdediff.diffusion import GaussianRandomField, matern_field
from pdediff.errors import ConfigError, NumericalError
from pdediff.samplers import (
    DDIM,
    PC,
    Default,
    DPMSolverPP,
    Eval,
    Lin,
    Plan,
    gaussian_start,
    moments,
    response,
    run,
    sample,
    uniform_lambda,
)

GRID = uniform_lambda(20.0, 0.1, 6)


def test_json_round_trip_gives_the_same_bits(oracle: Any, sampler: Any) -> None:
    plan = sampler.plan(GRID)
    again = Plan.from_json(plan.to_json())
    assert again == plan
    assert again.digest() == plan.digest()
    x = oracle.start_of(oracle.mixture(8), 3, 20.0)
    one, other = (run(p, oracle.mixture(8), x, (1, 2, 3)) for p in (plan, again))
    assert torch.equal(one, other)


def test_digest_sees_every_number() -> None:
    plan = DDIM(1.0).plan(GRID)
    step = plan.steps[1]
    assert isinstance(step, Lin)
    moved = dataclasses.replace(step, variance=math.nextafter(step.variance, 2.0))
    assert dataclasses.replace(plan, steps=(plan.steps[0], moved, *plan.steps[2:])).digest() != plan.digest()
    assert DDIM(1.0).plan(GRID).digest() == plan.digest()


def test_cost_of_a_step_is_the_declared_one(sampler: Any) -> None:
    few, many = (sampler.plan(uniform_lambda(20.0, 0.1, n)) for n in (12, 24))
    assert many.nfe - few.nfe == 12 * sampler.evaluations
    assert few.levels == tuple(uniform_lambda(20.0, 0.1, 12))
    assert len(few.slots) == len(many.slots)  # memory does not grow with the steps
    assert sampler.source


@pytest.mark.parametrize(
    "text", ["", "{}", '{"levels": [1], "steps": [{"op": "Exec"}]}', '{"levels": [1], "steps": [{"op": "Eval"}]}']
)
def test_other_text_is_not_a_plan(text: str) -> None:
    with pytest.raises(ConfigError, match="plan"):
        Plan.from_json(text)


def test_plan_refuses_unknown_slots_and_wild_numbers() -> None:
    with pytest.raises(ConfigError, match="reads"):
        Plan((Lin("x", (("y", 1.0),)),), (1.0, 0.5))
    with pytest.raises(ConfigError, match="not finite"):
        Plan((Lin("x", (("x", math.nan),)),), (1.0, 0.5))
    with pytest.raises(ConfigError, match="negative"):
        Plan((Eval("d", "x", -1.0),), (1.0, 0.5))


def test_rows_do_not_see_each_other(oracle: Any, sampler: Any) -> None:
    prior = oracle.mixture(8)
    x = oracle.start_of(prior, 5, 20.0)
    plan = sampler.plan(GRID)
    together = run(plan, prior, x, range(5))
    alone = torch.cat([run(plan, prior, x[i : i + 1], (i,)) for i in range(5)])
    assert float((together - alone).abs().max()) < 1e-12  # BLAS may sum another batch in another order
    turned = run(plan, prior, x.flip(0), range(4, -1, -1)).flip(0)
    assert float((together - turned).abs().max()) < 1e-12


def test_same_seed_same_bits_other_seed_other_noise(oracle: Any, sampler: Any) -> None:
    prior = oracle.mixture(8)
    x = oracle.start_of(prior, 2, 20.0)
    kept = x.clone()
    plan = sampler.plan(GRID)
    first, second, other = (run(plan, prior, x, seeds) for seeds in ((1, 2), (1, 2), (1, 3)))
    assert torch.equal(x, kept)  # the caller's start is not scratch space
    assert torch.equal(first, second)
    assert torch.equal(first[0], other[0])
    assert torch.equal(first[1], other[1]) is not plan.stochastic


def test_samples_do_not_depend_on_n_or_order_of_tiles(oracle: Any, sampler: Any) -> None:
    prior = oracle.mixture(8)
    long = sample(prior, 11, sampler=sampler, steps=5, seed=3, tile=4)
    short = sample(prior, 3, sampler=sampler, steps=5, seed=3, tile=4)
    assert torch.equal(long[:3], short)
    wide = sample(prior, 11, sampler=sampler, steps=5, seed=3, tile=11)
    assert float((long - wide).abs().max()) < 1e-10
    assert not torch.equal(long, sample(prior, 11, sampler=sampler, steps=5, seed=4, tile=4))


def test_samples_have_the_law_of_the_prior(oracle: Any) -> None:
    prior = oracle.gaussian(3)
    x = sample(prior, 4000, steps=30, sigma_min=0.02, tile=2000).flatten(1)
    covariance = prior.covariance + 0.02**2 * torch.eye(3)
    standard = covariance.diagonal().sqrt()
    error = (x.mean(0) - prior.mean[0]) / standard * math.sqrt(4000)
    assert float(error.abs().max()) < 4.0  # standard errors
    spread = (x.T.cov() - covariance) / torch.outer(standard, standard) * math.sqrt(4000)
    assert float(spread.abs().max()) < 4.0 * math.sqrt(2.0)


def test_start_and_steps_share_no_noise(oracle: Any) -> None:
    """From a low level the start's numbers are not forgotten: the law is exact only if the steps draw others."""
    prior = oracle.gaussian(3)
    grid = uniform_lambda(2.0, 0.5, 3)
    mean, covariance = prior.mean.flatten().numpy(), prior.covariance.numpy()
    exact = torch.from_numpy(moments(DDIM(1.0).plan(grid), mean, covariance)[1])
    x = sample(prior, 4000, sampler=DDIM(1.0), grid=grid, tile=2000).flatten(1)
    standard = exact.diagonal().sqrt()
    error = (x.T.cov() - exact) / torch.outer(standard, standard) * math.sqrt(4000)
    assert float(error.abs().max()) < 4.0 * math.sqrt(2.0)  # standard errors


def test_denoise_last_is_the_conditional_mean(oracle: Any) -> None:
    prior = oracle.mixture(8)
    x = oracle.start_of(prior, 3, 20.0)
    plan = PC("v", 2).plan(GRID)
    end = run(plan, prior, x, range(3))
    denoised = run(plan, prior, x, range(3), denoise_last=True)
    assert torch.equal(denoised, prior(end, torch.full((3,), GRID[-1], dtype=torch.float64)))
    to_zero = PC("v", 2).plan([*GRID, 0.0])
    assert torch.equal(run(to_zero, prior, x, range(3)), run(to_zero, prior, x, range(3), denoise_last=True))


@pytest.mark.parametrize("coloured", [False, True])
def test_gaussian_start_has_the_marginal_law(coloured: bool) -> None:
    prior = matern_field((8,), length=0.2, smoothness=1.5, std=2.0)
    if coloured:
        prior = dataclasses.replace(prior, noise=GaussianRandomField(0.1, 1.0))
    x = gaussian_start(prior, 1.5, range(6000))
    modes = torch.fft.fftn(x, dim=(2,), norm="ortho")[:, 0]
    noise = prior.noise.covariance(prior.shape)
    identity = torch.eye(8, dtype=torch.float64)[:, None]
    spectrum = torch.fft.fft(noise.matvec(identity)[0, 0]).real
    expected = prior.spectrum[0] + 1.5**2 * spectrum
    ratio = (modes.abs() ** 2).mean(0) / expected
    assert float((ratio - 1.0).abs().max()) < 4.0 * math.sqrt(2.0 / 6000)  # standard errors of a variance


def test_injected_noise_has_the_colour_of_the_prior() -> None:
    """On a field prior with coloured noise the fold in its modes gives the exact variance; compare with rows."""
    prior = dataclasses.replace(matern_field((8,), length=0.2, smoothness=1.5), noise=GaussianRandomField(0.1, 1.0))
    plan = DPMSolverPP(1, noise=1.0).plan(uniform_lambda(10.0, 0.3, 4))
    colour = torch.fft.fft(prior.noise.covariance(prior.shape).matvec(torch.eye(8, dtype=torch.float64)[:1, None])).real
    colour = colour[0, 0]
    found = response(plan, (prior.spectrum[0] / colour).numpy())
    out = run(plan, prior, gaussian_start(prior, 10.0, range(6000)), range(6000, 12000))
    exact = torch.from_numpy(found.variance((prior.spectrum[0] / colour).numpy() + 10.0**2)) * colour
    ratio = (torch.fft.fftn(out, dim=(2,), norm="ortho")[:, 0].abs() ** 2).mean(0) / exact
    assert float((ratio - 1.0).abs().max()) < 4.0 * math.sqrt(2.0 / 6000)


def test_gradients_flow_through_a_run(oracle: Any) -> None:
    prior = oracle.gaussian(4)
    plan = PC("v", 2).plan(GRID)
    x = oracle.start_of(oracle.mixture(4), 1, 20.0).requires_grad_()
    (gradient,) = torch.autograd.grad(run(plan, prior, x, (0,)).sum(), x)
    values, vectors = torch.linalg.eigh(prior.covariance)
    gain = torch.from_numpy(response(plan, values.numpy()).gain)
    expected = (vectors * gain) @ vectors.T @ torch.ones(4, dtype=torch.float64)
    assert torch.allclose(gradient.flatten(), expected, rtol=1e-12, atol=1e-14)


@dataclasses.dataclass
class Faulty:
    """The mixture with a fault from one call on."""

    prior: Any
    fault: Any
    after: float

    def __getattr__(self, name: str) -> Any:
        return getattr(self.prior, name)

    def __call__(self, x: Tensor, sigma: Tensor) -> Tensor:
        out = self.prior(x, sigma)
        return self.fault(x, out) if float(sigma[0]) <= self.after else out


@pytest.mark.parametrize("value", [math.nan, math.inf])
def test_divergence_names_step_level_and_rows(oracle: Any, sampler: Any, value: float) -> None:
    def blow_up(x: Tensor, out: Tensor) -> Tensor:
        return torch.cat([out[:1], torch.full_like(out[1:], value)])

    prior = oracle.mixture(4)
    x = oracle.start_of(prior, 3, 20.0)
    plan = sampler.plan(GRID)
    levels = [step.level for step in plan.steps if isinstance(step, Eval)]
    count, sigma = next((i, level) for i, level in enumerate(levels, start=1) if level <= GRID[3] * 1.001)
    with pytest.raises(NumericalError, match=f"step {count} of {len(levels)}, noise level sigma={sigma:g}") as caught:
        run(plan, Faulty(prior, blow_up, GRID[3] * 1.001), x, range(3))
    assert caught.value.context == {"step": count, "sigma": sigma, "rows": [1, 2]}


def test_wrong_shape_is_refused_by_name(oracle: Any) -> None:
    prior = oracle.mixture(4)
    x = oracle.start_of(prior, 3, 20.0)
    with pytest.raises(ConfigError, match=r"Faulty returned shape \(3, 4\) for a state of \(3, 1, 4\)"):
        run(Default().plan(GRID), Faulty(prior, lambda x, out: out[:, 0], 99.0), x, range(3))
    with pytest.raises(ConfigError, match="one seed for each of 3 rows, got 2"):
        run(Default().plan(GRID), prior, x, range(2))


def test_denoiser_may_return_its_argument(oracle: Any, sampler: Any) -> None:
    """D = x is the flow that stands still; the state is overwritten in place, so aliases must be copied."""
    prior = Faulty(oracle.mixture(4), lambda x, out: x, 99.0)
    x = oracle.start_of(prior, 3, 20.0)
    copy = Faulty(oracle.mixture(4), lambda x, out: x.clone(), 99.0)
    plan = sampler.plan(GRID)
    assert torch.equal(run(plan, prior, x, range(3)), run(plan, copy, x, range(3)))


def test_observer_sees_every_evaluation(oracle: Any) -> None:
    prior = oracle.mixture(4)
    x = oracle.start_of(prior, 2, 20.0)
    seen = []

    def look(index: int, sigma: float, state: Tensor, denoised: Tensor) -> None:
        level = torch.full((2,), sigma, dtype=torch.float64)
        seen.append((index, sigma, float((denoised - prior(state, level)).abs().max())))

    run(PC("v", 2).plan(GRID), prior, x, range(2), observe=look)
    assert seen == [(i, sigma, 0.0) for i, sigma in enumerate(GRID[:-1])]


def test_float32_state_keeps_float64_coefficients(oracle: Any) -> None:
    """With a float32 state the result is that of float64 up to rounding of the state, not of the weights."""
    prior = oracle.mixture(8)
    x = oracle.start_of(prior, 3, 20.0).float()
    plan = Default().plan(uniform_lambda(20.0, 0.05, 40))
    assert float((run(plan, prior, x, range(3)) - run(plan, prior, x.double(), range(3))).abs().max()) < 2e-5
    assert run(plan, prior, x, range(3)).dtype == torch.float32


def test_json_is_plain(sampler: Any) -> None:
    data = json.loads(sampler.plan(GRID).to_json())
    assert set(data) == {"inputs", "levels", "steps"}
    assert {step["op"] for step in data["steps"]} <= {"Band", "Eval", "Kick", "Lin"}
