"""No sampler sees more of a process than its levels, nor where the data lie or in which unit (T10)."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

from pdediff.diffusion import AdaptedDenoiser, Affine, DDPMTable, Flow, Process, SubVP, VPLinear
from pdediff.samplers import PC, run


class Rescaled:
    """alpha and sigma of a process times c(t) = e^t + 1."""

    def __init__(self, process: Process) -> None:
        self.process = process
        self.time = process.time

    def alpha(self, t: Tensor) -> Tensor:
        return (t.exp() + 1) * self.process.alpha(t)

    def sigma(self, t: Tensor) -> Tensor:
        return (t.exp() + 1) * self.process.sigma(t)


def velocity_network(prior: Any, process: Any) -> AdaptedDenoiser:
    """The exact v = alpha eps - sigma x0 of the process, as a denoiser again."""

    def network(x_t: Tensor, t: Tensor) -> Tensor:
        alpha, sigma = process.alpha(t)[:, None, None], process.sigma(t)[:, None, None]
        denoised = prior(x_t / alpha, (sigma / alpha).flatten())
        return alpha * (x_t - alpha * denoised) / sigma - sigma * denoised

    return AdaptedDenoiser(network, process, "v", prior.mean, prior.noise, prior.error)


@pytest.mark.parametrize(
    "process",
    [VPLinear(), Flow(), DDPMTable(), Rescaled(VPLinear()), Rescaled(SubVP())],
    ids=["vp", "flow", "ddpm", "c vp", "c subvp"],
)
def test_the_process_of_the_network_does_not_count(oracle: Any, sampler: Any, process: Any) -> None:
    prior = oracle.mixture(8)
    x = oracle.start_of(prior, 4, 20.0)
    plan = sampler.plan(sampler.grid(9, 20.0, 0.05))
    direct, adapted = run(plan, prior, x, range(4)), run(plan, velocity_network(prior, process), x, range(4))
    # The start is 20 in size: a hundred roundings of it over nine steps.
    torch.testing.assert_close(adapted, direct, rtol=0, atol=1e-12 * 20)


def test_grids_of_a_process_feed_every_sampler(oracle: Any, sampler: Any) -> None:
    """Quadratic in the time of VP: 80 steps of any sampler end near the exact flow, or its marginal."""
    prior = oracle.gaussian()
    levels = VPLinear().levels(80, power=2.0)
    x = oracle.start_of(oracle.mixture(6), 4, levels[0])
    plan = sampler.plan(levels)
    out = run(plan, prior, x, range(4))
    assert plan.levels == tuple(levels)
    if not plan.stochastic:
        assert oracle.rms(out - prior.flow(x, levels[0], levels[-1])) < 0.1 * oracle.rms(out)


def test_shift_and_unit_by_the_affine_wrapper(oracle: Any, sampler: Any) -> None:
    """run on shift + c z0 is shift + c times run on z0: the sampler for residuals needs no other code."""
    if isinstance(sampler, PC) and sampler.field == "F":
        pytest.skip("F is exact for one Gaussian around zero, hence not shift invariant at finite steps")
    prior, c = oracle.mixture(8), 3.0
    shift = torch.linspace(-2.0, 5.0, 8, dtype=torch.float64)[None]
    x = oracle.start_of(prior, 4, 20.0)
    scaled = oracle.with_scale(sampler, c)
    plan, other = sampler.plan(sampler.grid(9, 20.0, 0.05)), scaled.plan(scaled.grid(9, 20.0 * c, 0.05 * c))
    out = run(plan, prior, x, range(4))
    found = run(other, Affine(prior, shift, c), shift + c * x, range(4))
    torch.testing.assert_close(found, shift + c * out, rtol=0, atol=1e-10)
    rows = shift + torch.arange(4, dtype=torch.float64)[:, None, None]
    each = run(other, Affine(prior, shift, c).given(rows), rows + c * x, range(4))
    torch.testing.assert_close(each, rows + c * out, rtol=0, atol=1e-10)
