"""Guidance on Gaussians: the sampler's affine map is pushed through exactly, so no bias hides in sampling error."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import ClassVar

import pytest
import torch

from pdediff.diffusion import GaussianPrior
from pdediff.observe import Differentiable, GaussianNoise, Observation, PointSensors
from pdediff.posterior import DPS, CalibratedGuidance, GuidedSampling, REDDiff
from pdediff.samplers import DDIM, PC, DPMSolverPP, Sampler, run

# Forward-mode differentiation imports a part of torch that warns of its own age.
pytestmark = pytest.mark.filterwarnings("ignore:.torch.jit.script. is deprecated:DeprecationWarning")


def levels(*sigmas: float) -> torch.Tensor:
    return torch.tensor(sigmas, dtype=torch.float64)


def normals(seed: int, *shape: int) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def pushed(case, sampler: Sampler, steps: int, sigma_min: float = 0.005) -> tuple[torch.Tensor, torch.Tensor]:
    """Exact mean and covariance of guided draws: the map read off at zero and at the unit fields."""
    plan = sampler.plan(sampler.grid(steps, 80.0, sigma_min))
    guided = CalibratedGuidance()(case.prior, case.observation)
    size = case.prior.mean.numel()
    unit = torch.cat([torch.zeros(1, size), torch.eye(size)]).double().reshape(-1, *case.prior.shape)
    out = run(plan, guided, unit, [0] * len(unit), denoise_last=True).flatten(1)
    linear = (out[1:] - out[0]).T
    start = case.posterior.covariance + 80.0**2 * torch.eye(size, dtype=torch.float64)
    return linear @ case.posterior.mean.flatten() + out[0], linear @ start @ linear.T


@pytest.mark.parametrize(("sampler", "steps"), [(DDIM(), 160), (DPMSolverPP(), 40), (PC(), 20)])
def test_calibrated_guidance_reaches_the_exact_posterior(field, bures, sampler, steps):
    mean, covariance = pushed(field, sampler, steps)
    distance = bures(mean, covariance, field.posterior)
    print(f"{type(sampler).__name__} at {steps} steps: Bures distance {distance:.2e} posterior std")
    assert distance < 0.02
    off = (mean - field.posterior.mean.flatten()).norm() / field.posterior.covariance.trace().sqrt()
    assert off < 0.02


@pytest.mark.parametrize("sampler", [DDIM(), DPMSolverPP(), PC()])
def test_calibrated_guidance_keeps_the_order_of_the_sampler(field, bures, sampler):
    """20 to 40 steps, above the floor of sigma_min = 0.005 (5e-5); a third of an order for the next term."""
    coarse, fine = (bures(*pushed(field, sampler, n), field.posterior) for n in (20, 40))
    order = math.log2(coarse / fine)
    print(f"{type(sampler).__name__}: {coarse:.2e} -> {fine:.2e}, order {order:.2f}, declared {sampler.slope}")
    assert sampler.slope - 0.33 < order < sampler.slope + 0.66


def test_one_estimate_is_the_conditional_mean(field):
    """E[x0 | x, y] by conditioning the Gaussian x0 | x on y with matrices, each row at its own level."""
    guided = CalibratedGuidance()(field.prior, field.observation)
    sigma = levels(0.03, 0.8, 20.0)
    x = sigma[:, None, None, None] * normals(1, 3, 1, 16, 16)
    found = guided(x, sigma)
    for i, s in enumerate(sigma):
        here = GaussianPrior(field.prior(x[i : i + 1], s[None])[0], field.prior.dense().error(float(s)).matrix)
        exact, _ = here.condition(field.rows, field.observation.y, field.noise)
        torch.testing.assert_close(found[i], exact.mean, rtol=1e-9, atol=1e-9)
        torch.testing.assert_close(guided(x[i : i + 1], s[None])[0], exact.mean, rtol=1e-9, atol=1e-9)


def test_unequal_noise_is_used_reading_by_reading(field):
    """A precise and a poor sensor: the estimate passes the first by and ignores the second."""
    std = torch.full((12,), 0.1, dtype=torch.float64)
    std[0], std[1] = 1e-4, 1e4
    observation = Observation(field.observation.y, field.observation.operator, GaussianNoise(std))
    for guidance in (CalibratedGuidance(), CalibratedGuidance(dense_limit=1, tolerance=1e-9)):
        guided = guidance(field.prior, observation)
        x = normals(2, 1, 1, 16, 16)
        assert observation.residual(guided(x, levels(1.0)))[0, 0].abs() < 1e-5
        other = Observation(observation.y + 5 * (std > 1), observation.operator, observation.noise)
        moved = guidance(field.prior, other)(x, levels(1.0)) - guided(x, levels(1.0))
        assert moved.abs().max() < 1e-6  # a shift of 5 against a variance of 1e8


@pytest.mark.parametrize("sigma", [0.05, 1.0, 40.0])
def test_iterative_gain_equals_the_dense_one(field, sigma):
    x, level = (1 + sigma) * normals(3, 4, 1, 16, 16), levels(*[sigma] * 4)
    dense = CalibratedGuidance()(field.prior, field.observation)(x, level)
    scale = (dense - field.prior(x, level)).abs().max()
    for tolerance in (1e-3, 1e-6, 1e-10):
        found = CalibratedGuidance(dense_limit=1, tolerance=tolerance)(field.prior, field.observation)(x, level)
        # Residual to error costs at most the condition number of R + H C H^T, below 200 here (noise 0.1, variance 1).
        assert (found - dense).abs().max() < max(200 * tolerance, 1e-12) * scale
    mixed = CalibratedGuidance(dense_limit=1, tolerance=1e-10)(field.prior, field.observation)
    rows = mixed(x[:2], levels(sigma, 2 * sigma))
    both = CalibratedGuidance()(field.prior, field.observation)(x[:2], levels(sigma, 2 * sigma))
    torch.testing.assert_close(rows, both, rtol=0, atol=1e-7 * float(scale))


@dataclass(frozen=True, eq=False)
class Bent(Differentiable):
    """h(x) = H x + curvature (H x)^2."""

    rows: torch.Tensor
    curvature: float
    linear: ClassVar[bool] = False

    def __call__(self, x: torch.Tensor) -> torch.Tensor:
        value = x.flatten(1) @ self.rows.to(x).T
        return value + self.curvature * value**2


def test_nonlinear_operator_is_linearised_at_the_estimate(field):
    """Beyond the dense limit. Gauss-Newton by matrices: J = (1 + 2 c H D) H, the residual of the true map."""
    bent = Observation(field.observation.y, Bent(field.rows, 0.4), field.observation.noise)
    guided = CalibratedGuidance(dense_limit=1, tolerance=1e-10)(field.prior, bent)
    x, sigma = normals(4, 2, 1, 16, 16), levels(0.7, 0.7)
    denoised = field.prior(x, sigma)
    c = field.prior.dense().error(0.7).matrix
    found = guided(x, sigma)
    for i in range(2):
        jacobian = (1 + 0.8 * (field.rows @ denoised[i].flatten()))[:, None] * field.rows
        gain = c @ jacobian.T @ torch.linalg.inv(field.noise + jacobian @ c @ jacobian.T)
        expected = denoised[i].flatten() + gain @ bent.residual(denoised[i : i + 1])[0]
        torch.testing.assert_close(found[i].flatten(), expected, rtol=1e-7, atol=1e-7)


def test_weakly_nonlinear_posterior_tends_to_the_linear_one(field):
    """Draws under curvature c differ from the linear ones by a multiple of c, seed by seed (same start for both)."""
    linear = Bent(field.rows, 0.0)
    method = GuidedSampling(CalibratedGuidance(tolerance=1e-10), DPMSolverPP(), steps=10)
    y, noise = field.observation.y, field.observation.noise
    base = method(field.prior, Observation(y, linear, noise), 3, 0).x
    gaps = [
        float((method(field.prior, Observation(y, Bent(field.rows, c), noise), 3, 0).x - base).abs().max())
        for c in (1e-6, 1e-5)
    ]
    assert 0 < gaps[0] < 1e-4
    assert gaps[1] / gaps[0] == pytest.approx(10, rel=0.01)


def test_dps_estimate_by_hand(field):
    """D - strength (1 + sigma^2) J^T H^T R^-1 r / |r|, r whitened, with the exact Jacobian S / (S + sigma^2)."""
    x, sigma = normals(5, 3, 1, 16, 16), levels(0.3, 0.9, 4.0)
    found = DPS(0.7)(field.prior, field.observation)(x, sigma)
    matrix = field.prior.dense().covariance
    for i, s in enumerate(sigma):
        denoised = field.prior(x[i : i + 1], s[None])
        jacobian = matrix @ torch.linalg.inv(matrix + s**2 * torch.eye(256, dtype=torch.float64))
        white = field.observation.noise.whiten(field.observation.residual(denoised))[0]
        gradient = -jacobian.T @ field.rows.T @ (white / 0.1) / white.norm()
        expected = denoised[0].flatten() - 0.7 * (1 + s**2) * gradient
        torch.testing.assert_close(found[i].flatten(), expected, rtol=1e-9, atol=1e-9)


def red_diff_fixed_point(prior: GaussianPrior, observation, method: REDDiff, sigmas: list[float]) -> torch.Tensor:
    """m + (H^T R^-1 H + Q)^-1 H^T R^-1 (y - H m), Q = weight / scale^2 * mean of sigma^2 (S + sigma^2)^-1."""
    rows, s = observation.rows(prior.mean).flatten(1), prior.covariance
    eye = torch.eye(len(s), dtype=torch.float64)
    pull = torch.stack([sigma**2 * torch.linalg.inv(s + sigma**2 * eye) for sigma in sigmas]).mean(0)
    weighted = rows.T / observation.noise.std**2
    shift = torch.linalg.solve(
        weighted @ rows + method.weight / method.scale**2 * pull,
        weighted @ (observation.y - rows @ prior.mean.flatten()),
    )
    return prior.mean.flatten() + shift


def test_red_diff_gradient_vanishes_at_its_fixed_point(field):
    """Averaged over levels and noise: D is affine, so the mean over noise is the value at no noise."""
    method, sigmas = REDDiff(weight=0.3, scale=0.07), [0.1, 0.5, 2.0, 9.0]
    mu = red_diff_fixed_point(field.prior.dense(), field.observation, method, sigmas).reshape(1, 1, 16, 16)
    gradients = torch.stack([method.gradient(mu, field.prior(mu, levels(s)), field.observation) for s in sigmas])
    assert gradients.mean(0).abs().max() < 1e-12
    assert gradients.abs().max() > 1e-3  # level by level it does not vanish: the average is what is tested


def test_red_diff_finds_its_fixed_point_and_not_the_posterior_mean():
    """One level held fixed and small steps: Adam settles at the closed form, up to its own noise.

    Which is biased by design: the prior enters through Q in place of its inverse covariance. Adam hovers at a
    distance of about sqrt(learning rate) = 0.1 a row, 0.013 after the mean over 64 rows; four times that is allowed.
    """
    basis = torch.linalg.qr(normals(1, 6, 6)).Q
    scales = torch.tensor([2.0, 1.5, 1.0, 0.7, 0.5, 0.3], dtype=torch.float64)
    prior = GaussianPrior(torch.zeros(1, 6).double(), (basis * scales) @ basis.T)
    sensors = PointSensors(torch.arange(6).expand(2, 6).contiguous(), normals(2, 2, 6) / math.sqrt(6))
    observation = Observation(levels(1.0, -1.5), sensors, GaussianNoise(levels(0.5, 0.5)))
    exact, _ = prior.condition(observation.rows(prior.mean).flatten(1), observation.y, 0.25 * torch.eye(2).double())
    method = REDDiff(steps=1000, learning_rate=0.01, weight=0.5, scale=0.5, sigma_max=1.0, sigma_min=1.0)
    mu = method(prior, observation, 64, 0).x.mean(0).flatten()
    fixed, spread = red_diff_fixed_point(prior, observation, method, [1.0]), exact.covariance.trace().sqrt()
    to_fixed = float((mu - fixed).norm() / spread)
    to_mean = float((fixed - exact.mean.flatten()).norm() / spread)
    print(f"RED-Diff at sigma 1: {to_fixed:.3f} std from its fixed point, which is {to_mean:.3f} from the mean")
    assert to_fixed < 0.05
    assert to_mean > 0.1


def test_vjps_are_counted(field):
    for guidance, expected in ((CalibratedGuidance(), 0.0), (DPS(), 6.0)):
        found = GuidedSampling(guidance, DDIM(), steps=5)(field.prior, field.observation, 1, 0).diagnostics
        assert found["denoiser_calls"] == 6.0
        assert found["network_vjps"] == expected
