"""TDS and its variants: twists by hand, weights by densities, evidence against the law of the reference chain."""

from __future__ import annotations

import itertools
import math
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
import pytest
import torch

from pdediff.diffusion import GaussianPrior
from pdediff.errors import ConfigError
from pdediff.observe import Differentiable, GaussianNoise, Observation, PointSensors
from pdediff.posterior import TDS, Island, smc
from pdediff.posterior.twist import GaussNewtonTwist, LinearTwist, twist_of
from pdediff.types import Purpose, derive_many

# Forward-mode differentiation imports a part of torch that warns of its own age.
pytestmark = pytest.mark.filterwarnings("ignore:.torch.jit.script. is deprecated:DeprecationWarning")

GRID: dict[str, Any] = {"steps": 16, "sigma_max": 10.0, "sigma_min": 0.1}
VARIANTS = {
    "published": TDS(**GRID),
    "calibrated": TDS("calibrated", **GRID),
    "no gradient": TDS("calibrated", network_gradient=False, **GRID),
    "wide": TDS("calibrated", network_gradient=False, wide=True, **GRID),
    "isotropic, no gradient": TDS("isotropic", network_gradient=False, **GRID),
    "dps": TDS("dps", **GRID),
}
NAMES = list(VARIANTS)


def normal(mean: torch.Tensor, covariance: torch.Tensor, at: torch.Tensor) -> torch.Tensor:
    return torch.distributions.MultivariateNormal(mean, covariance).log_prob(at)


@dataclass(frozen=True, eq=False)
class Bent(Differentiable):
    """h(x) = H x + curvature (H x)^2."""

    rows: torch.Tensor
    curvature: float
    linear: ClassVar[bool] = False

    def __call__(self, x: torch.Tensor) -> torch.Tensor:
        value = x.flatten(1) @ self.rows.to(x).T
        return value + self.curvature * value**2


@pytest.mark.parametrize("name", ["isotropic", "calibrated"])
def test_twist_is_the_gaussian_and_its_pull_the_gradient(mixture, name):
    o, rows = mixture.observation, mixture.rows
    at = torch.randn(4, 1, 8, generator=torch.Generator().manual_seed(0), dtype=torch.float64).requires_grad_()
    covariance = {
        "isotropic": 0.49 / 1.49 * torch.eye(8, dtype=torch.float64),
        "calibrated": mixture.prior.error(0.7).matrix,
    }[name]
    log_g = normal(at.flatten(1) @ rows.T, mixture.noise + rows @ covariance @ rows.T, o.y)
    (gradient,) = torch.autograd.grad(log_g.sum(), at)
    dense = twist_of(name, mixture.prior, o)
    assert isinstance(dense, LinearTwist)
    for twist in (dense, GaussNewtonTwist(o, dense.spread)):
        found, pull, gain = twist(at.detach(), 0.7)
        torch.testing.assert_close(found, log_g.detach(), rtol=1e-10, atol=1e-10)
        torch.testing.assert_close(pull, gradient, rtol=1e-10, atol=1e-10)
        torch.testing.assert_close(gain.flatten(1), gradient.flatten(1) @ covariance, rtol=1e-10, atol=1e-10)


@pytest.mark.parametrize(("sigma", "slope"), [(2.0, 0.3 * 1.25), (0.05, math.sqrt(3))])
def test_dps_twist_is_a_norm_and_its_pull_the_gradient(mixture, sigma, slope):
    """c |R^-1/2 r| with the slope of DPS at high noise, that of the likelihood at low; for a curved operator too."""
    bent = Observation(mixture.observation.y, Bent(mixture.rows, 0.4), mixture.observation.noise)
    at = torch.randn(4, 1, 8, generator=torch.Generator().manual_seed(0), dtype=torch.float64).requires_grad_()
    log_g = -slope * (bent.residual(at) / 0.3).norm(dim=1)
    (gradient,) = torch.autograd.grad(log_g.sum(), at)
    found, pull, gain = twist_of("dps", mixture.prior, bent)(at.detach(), sigma)
    torch.testing.assert_close(found, log_g.detach())
    torch.testing.assert_close(pull, gradient)
    assert gain.abs().max() == 0


def test_nonlinear_twist_is_linearised_at_each_estimate(mixture):
    """By matrices, row by row, in blocks of one particle too."""
    bent = Observation(mixture.observation.y, Bent(mixture.rows, 0.4), mixture.observation.noise)
    at = torch.randn(3, 1, 8, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    c = mixture.prior.error(0.7).matrix
    for block in (1, 2**24):
        log_g, pull, gain = GaussNewtonTwist(bent, mixture.prior.error, block)(at, 0.7)
        for i in range(3):
            jacobian = (1 + 0.8 * (mixture.rows @ at[i].flatten()))[:, None] * mixture.rows
            inner = mixture.noise + jacobian @ c @ jacobian.T
            residual = bent.residual(at[i : i + 1])[0]
            expected = jacobian.T @ torch.linalg.solve(inner, residual)
            torch.testing.assert_close(log_g[i], normal(torch.zeros(3).double(), inner, residual))
            torch.testing.assert_close(pull[i].flatten(), expected)
            torch.testing.assert_close(gain[i].flatten(), c @ expected)


@pytest.mark.parametrize("name", NAMES)
def test_weights_are_ratios_of_densities(mixture, name):
    """M(x_s | x_t) G(x_s) / (proposal(x_s | x_t) G(x_t)) with both kernels written as densities, and the last."""
    method = VARIANTS[name]
    chain = method.chain(mixture.prior, mixture.observation)
    state, _ = chain.start((1, 2, 3))
    for step in (0, 3):
        sigma, target = chain.levels[step : step + 2]
        state = chain._estimate(sigma * torch.ones(3, 1, 8).double() * torch.tensor([0.3, 1, -1])[:, None, None], sigma)
        after, found = chain.move(state, step, (4, 5, 6))
        keep = (target / sigma) ** 2
        extra = (1 - keep) ** 2 * float(mixture.prior.error(sigma).matrix.trace()) / 8 if method.wide else 0.0
        kernel = (target**2 * (1 - keep) + extra) * torch.eye(8, dtype=torch.float64)
        means = [(keep * state[0] + (1 - keep) * d).flatten(1) for d in state[1:3]]
        reference, proposal = (normal(mean, kernel, after[0].flatten(1)) for mean in means)
        torch.testing.assert_close(found, reference + after[3] - proposal - state[3], rtol=1e-8, atol=1e-8)
        expected, _, gain = chain.twist(after[1], target)
        torch.testing.assert_close(after[3], expected)
        assert (after[2] - after[1]).abs().max() > 1e-6
        if not method.network_gradient:
            torch.testing.assert_close(after[2] - after[1], gain)
    last, found = chain.move(after, chain.steps - 1, (7, 8, 9))
    torch.testing.assert_close(found, mixture.observation.log_prob(after[1]) - after[3])
    torch.testing.assert_close(last[0], after[1])


def test_published_shift_is_the_gradient_through_the_network(mixture):
    chain = TDS(steps=4).chain(mixture.prior, mixture.observation)
    x, sigma = torch.randn(3, 1, 8, generator=torch.Generator().manual_seed(2)).double().requires_grad_(), 0.8
    denoised = mixture.prior(x, torch.full((3,), sigma, dtype=torch.float64))
    inner = mixture.noise + sigma**2 / (1 + sigma**2) * mixture.rows @ mixture.rows.T
    log_g = normal(denoised.flatten(1) @ mixture.rows.T, inner, mixture.observation.y)
    (gradient,) = torch.autograd.grad(log_g.sum(), x)
    found = chain._estimate(x.detach(), sigma)
    torch.testing.assert_close(found[2] - found[1], sigma**2 * gradient, rtol=1e-9, atol=1e-9)


def small() -> GaussianPrior:
    factor = torch.tensor([[1.0, 0.0], [0.6, 0.5]], dtype=torch.float64)
    return GaussianPrior(torch.tensor([[0.3, -0.2]], dtype=torch.float64), factor @ factor.T)


def chain_law(prior: GaussianPrior, method: TDS) -> GaussianPrior:
    """Law of x0 under the reference chain of a Gaussian prior: affine steps pushed through."""
    levels = method.chain(prior, observed(prior, 0.0)).levels
    eye, m = torch.eye(2, dtype=torch.float64), prior.mean.flatten()
    covariance = prior.covariance + levels[0] ** 2 * eye
    for sigma, target in itertools.pairwise(levels):
        gain = prior.covariance @ torch.linalg.inv(prior.covariance + sigma**2 * eye)
        keep = (target / sigma) ** 2
        step = keep * eye + (1 - keep) * gain
        extra = (1 - keep) ** 2 * float(prior.error(sigma).matrix.trace()) / 2 if method.wide and target else 0.0
        covariance = step @ covariance @ step.T + (target**2 * (1 - keep) + extra) * eye
    return GaussianPrior(m.reshape(1, 2), covariance)


def observed(prior: GaussianPrior, curvature: float, noise: float = 0.5) -> Observation:
    rows, std = torch.tensor([[0.9, 0.4]], dtype=torch.float64), torch.tensor([noise], dtype=torch.float64)
    operator = Bent(rows, curvature) if curvature else PointSensors(torch.tensor([[0, 1]]), rows)
    return Observation(torch.tensor([1.1], dtype=torch.float64), operator, GaussianNoise(std))


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("curvature", [0.0, 0.4])
def test_evidence_is_unbiased_for_the_reference_chain(name, curvature):
    """50 runs of 32 particles, 16 steps: the mean of Z within five standard errors of p(y) under the chain's law.

    z = H x0 is Gaussian under that law, so p(y) = E N(y; z + c z^2, R) is an integral over one number.
    """
    prior, method = small(), VARIANTS[name]
    noise = 2.0 if name == "dps" else 0.5
    law, o = chain_law(prior, method), observed(prior, curvature, noise)
    rows = torch.tensor([0.9, 0.4], dtype=torch.float64)
    centre, spread = float(rows @ law.mean.flatten()), float(rows @ law.covariance @ rows) ** 0.5
    z = torch.linspace(-10, 10, 20001, dtype=torch.float64)
    inner = -0.5 * z**2 - 0.5 * ((1.1 - (u := centre + spread * z) - curvature * u**2) / noise) ** 2
    exact = float(inner.exp().sum() * (z[1] - z[0])) / (2 * math.pi * noise)
    chain = method.chain(prior, o)
    with torch.no_grad():
        found = np.array(
            [math.exp(smc(chain, derive_many(r, Purpose.STEP, range(32)), seed=r, threshold=0.5).log_evidence) / exact
             for r in range(50)]
        )  # fmt: skip
    error = found.std() / math.sqrt(len(found))
    print(f"{name}, curvature {curvature}: Z / p(y) = {found.mean():.4f} +- {error:.4f}")
    assert abs(found.mean() - 1) < 5 * error
    assert error < 0.1


def test_wide_kernel_keeps_the_spread_of_few_steps():
    """Six steps lose a quarter of the variance of the prior; the wide kernel brings back most of it."""
    prior = small()
    narrow, wide = (chain_law(prior, VARIANTS[n]).covariance.trace() for n in ("no gradient", "wide"))
    total = prior.covariance.trace()
    assert narrow < 0.8 * total
    assert abs(wide / total - 1) < 0.5 * abs(narrow / total - 1)


def test_a_twist_that_moves_nothing_is_refused():
    with pytest.raises(ConfigError, match="moves nothing"):
        TDS("dps", network_gradient=False)


def test_costs_are_those_of_all_particles(mixture):
    told = TDS(steps=5, island=Island(3))(mixture.prior, mixture.observation, 4, 0).diagnostics
    assert told["denoiser_calls"] == 15
    assert told["network_vjps"] == 15
    assert isinstance(twist_of("isotropic", mixture.prior, mixture.observation), LinearTwist)
