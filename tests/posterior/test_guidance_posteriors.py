"""Relatives of guidance that are posteriors of their own: RePaint, CODE and D-Flow, where a closed form is known."""

from __future__ import annotations

import math

import gaussian_bar as bar
import pytest
import torch

from pdediff.diffusion import GaussianPrior
from pdediff.errors import ConfigError
from pdediff.observe import GaussianNoise, Observation, PointSensors
from pdediff.posterior import CODE, DFlow, RePaint
from pdediff.samplers import DDIM, DPMSolverPP, gaussian_start, run
from pdediff.types import Purpose, derive_many


def pair() -> tuple[GaussianPrior, Observation]:
    """Two values of correlation 0.8, the first read as 1.5: the second is N(1.2, 0.36)."""
    prior = GaussianPrior(torch.zeros(1, 2).double(), torch.tensor([[1.0, 0.8], [0.8, 1.0]]).double())
    sensor = PointSensors(torch.tensor([[0]]), torch.ones(1, 1).double())
    return prior, Observation(torch.tensor([1.5]).double(), sensor, GaussianNoise(torch.ones(1).double()))


def test_repaint_needs_its_repeats():
    """Without repeats the unseen value hardly hears of the seen one; the mean tends to 1.2 as they grow."""
    prior, observation = pair()
    found = {}
    for repeats in (1, 8):
        x = RePaint(steps=15, repeats=repeats, sigma_max=20.0)(prior, observation, 300, 0).x.flatten(1)
        assert (x[:, 0] - 1.5).abs().max() < 1e-9
        found[repeats] = (float(x[:, 1].mean()), float(x[:, 1].var()))
        print(f"{repeats} repeats: mean {found[repeats][0]:.3f}, variance {found[repeats][1]:.3f}")
    # Standard error of a mean 0.035; 0.7 and 1.1 were measured.
    assert found[1][0] < 0.9
    assert found[8] == pytest.approx((1.2, 0.36), abs=0.21)


def test_repaint_meets_readings_that_mix_the_field():
    here = bar.problem(0)
    draws = RePaint(steps=10, repeats=2)(here.prior, here.observation, 4, 0)
    assert (here.observation.residual(draws.x)).abs().max() < 1e-9
    assert draws.diagnostics["denoiser_calls"] == 21


def everything(size: int, y: torch.Tensor) -> Observation:
    sensors = PointSensors(torch.arange(size)[:, None], torch.ones(size, 1).double())
    return Observation(y, sensors, GaussianNoise(torch.ones(size).double()))


def test_code_without_changes_returns_its_input():
    """K = 0: up the flow and down again, an error of the solver's order 2."""
    here = bar.problem(0)
    y = here.prior.mean.flatten() + torch.linspace(-1, 1, bar.SIZE).double()
    gaps = []
    for steps in (20, 40):
        x = CODE(level=2.0, langevin=0, confidence=100.0, steps=steps)(here.prior, everything(bar.SIZE, y), 2, 0).x
        assert torch.equal(x[0], x[1])
        gaps.append(float((x[0].flatten() - y).abs().max()))
    print(f"CODE round trip at 20 and 40 steps: {gaps}")
    assert gaps[1] < 0.05
    assert math.log2(gaps[0] / gaps[1]) > 1.67


def test_code_forgets_its_input_in_the_end():
    """K to infinity: the law at the level is that of the prior whatever came in."""
    prior, _ = pair()
    x = CODE(level=1.0, langevin=150, r=0.1, confidence=50.0)(
        prior, everything(2, torch.tensor([4.0, -4.0]).double()), 300, 0
    )
    x = x.x.flatten(1)
    # Langevin of size r widens by up to 1 / (1 - r / 2); standard errors 0.058 and 8 %.
    assert x.mean(0).abs().max() < 6 * 0.058
    assert (x.var(0) - 1).abs().max() < 6 * 0.082
    assert float(torch.corrcoef(x.T)[0, 1]) == pytest.approx(0.8, abs=0.15)


def test_code_clamps_what_cannot_be():
    """A point 30 standard deviations off comes back at the edge of what the prior has at that level, denoised."""
    prior = GaussianPrior(torch.zeros(1, 3).double(), torch.eye(3).double())
    wild = everything(3, torch.tensor([30.0, 0.5, -0.5]).double())
    kept = CODE(level=1.0, langevin=0, confidence=3.0, steps=200, sigma_min=1e-3)(prior, wild, 1, 0).x.flatten()
    # The flow of N(0, 1) scales by sqrt(1 + 1): 3 sqrt(2) at the level is 3 below.
    torch.testing.assert_close(kept, torch.tensor([3.0, 0.5, -0.5]).double(), rtol=0, atol=2e-3)


def test_code_fills_what_is_not_read_with_the_nearest_field():
    prior, observation = pair()
    x = CODE(level=0.5, langevin=0, confidence=50.0, steps=100)(prior, observation, 1, 0).x.flatten()
    torch.testing.assert_close(x, torch.tensor([1.5, 0.0]).double(), rtol=0, atol=0.01)


def test_d_flow_minimises_what_it_says():
    """A Gaussian prior makes the flow affine, x = A z + b: the minimiser is a ridge regression of each row's start."""
    prior, observation = pair()
    observation = Observation(observation.y, observation.operator, GaussianNoise(torch.tensor([0.5]).double()))
    method = DFlow(DPMSolverPP(), steps=6, iterations=400, rate=0.05, weight=2.0, sigma_max=10.0)
    draws = method(prior, observation, 3, 4)
    plan = method.sampler.plan(method.sampler.grid(6, 10.0, method.sigma_min))
    unit = torch.cat([torch.zeros(1, 2), torch.eye(2)]).double()[:, None]
    out = run(plan, prior, 10.0 * unit, [0] * 3).flatten(1)
    flow, shift = (out[1:] - out[0]).T, out[0]
    start = gaussian_start(prior, 10.0, derive_many(4, Purpose.START, range(3))).flatten(1) / 10.0
    rows = (flow[:1] / 0.5).double()
    aim = (1.5 - shift[0]) / 0.5
    for i in range(3):
        z = torch.linalg.solve(rows.T @ rows + 2.0 * torch.eye(2).double(), (rows.T * aim)[:, 0] + 2.0 * start[i])
        torch.testing.assert_close(draws.x[i].flatten(), flow @ z + shift, rtol=0, atol=1e-3)
    assert draws.diagnostics == {"denoiser_calls": 6.0 * 401, "network_vjps": 6.0 * 400}


def test_d_flow_refuses_noise():
    prior, observation = pair()
    with pytest.raises(ConfigError, match="D-Flow needs a deterministic sampler, DDIM adds noise"):
        DFlow(DDIM(eta=1.0))(prior, observation, 1, 0)


@pytest.mark.parametrize("method", [RePaint(steps=2), CODE(steps=2)], ids=["RePaint", "CODE"])
def test_linear_methods_name_themselves(method):
    prior, observation = pair()

    class Bent(PointSensors):
        linear = False

    bent = Bent(torch.tensor([[0]]), torch.ones(1, 1).double())
    with pytest.raises(ConfigError, match=f"{type(method).__name__} needs a linear observation operator"):
        method(prior, Observation(observation.y, bent, observation.noise), 1, 0)
