"""The hybrid for modes: its potential by closed forms of a mixture, and what it does to the weights of modes."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

from pdediff.diffusion import GaussianFieldPrior, GaussianMixturePrior, GaussianRandomField, matern_field
from pdediff.errors import ConfigError
from pdediff.observe import GaussianNoise, Observation, PointSensors
from pdediff.posterior import JFPS, MMPS, CalibratedGuidance, GuidedSampling, HybridGuidance
from pdediff.samplers import DPMSolverPP, SASolver


def components(prior: GaussianMixturePrior, x: Tensor, sigma: float) -> tuple[Tensor, Tensor, Tensor]:
    """Responsibilities (k, batch), conditional means (k, batch, d) and covariances (k, d, d) of x0 given x."""
    flat, eye = x.flatten(1), torch.eye(x[0].numel(), dtype=torch.float64)
    joint, means, covariances = [], [], []
    for weight, m, c in zip(prior.weights, prior.means.flatten(1), prior.covariances, strict=True):
        total = c + sigma**2 * eye
        joint.append(weight.log() + torch.distributions.MultivariateNormal(m, total).log_prob(flat))
        means.append(m + (flat - m) @ torch.linalg.solve(total, c))
        covariances.append(sigma**2 * torch.linalg.solve(total, c))
    return torch.stack(joint).softmax(0), torch.stack(means), torch.stack(covariances)


def potential(case, x: Tensor, sigma: float, along: Tensor) -> Tensor:
    """log N(r; 0, L (I + (v - c) e e^T) L^T) with the exact V of the mixture and the directions e (batch, m) given."""
    r_k, mu, v_k = components(case.prior, x, sigma)
    denoised = (r_k[..., None] * mu).sum(0)
    off = mu - denoised
    v = torch.einsum("kb,kij->bij", r_k, v_k) + torch.einsum("kb,kbi,kbj->bij", r_k, off, off)
    c = case.prior.error(sigma).matrix
    factor = torch.linalg.cholesky(case.rows @ c @ case.rows.T + case.noise)
    u = torch.linalg.solve_triangular(factor, case.rows, upper=False)
    z = torch.linalg.solve_triangular(factor, (case.observation.y - denoised @ case.rows.T).T, upper=False).T
    change = torch.einsum("bm,md,bde,ne,bn->b", along, u, v - c, u, along)
    inner = torch.eye(len(case.rows)).double() + change[:, None, None] * along[:, :, None] * along[:, None]
    return -0.5 * torch.einsum("bm,bmn,bn->b", z, torch.linalg.inv(inner), z) - 0.5 * torch.logdet(inner)


@pytest.mark.parametrize("sigma", [0.3, 0.8, 2.5])
def test_guidance_is_the_gradient_of_the_stated_potential(mixture, sigma):
    """Exact V of a mixture, exact derivative; the finite difference of the network errs by O(probe)."""
    g = torch.Generator().manual_seed(7)
    x = mixture.prior.sample((1, 2, 3, 4)) + sigma * torch.randn(4, 1, 8, generator=g, dtype=torch.float64)
    level = torch.full((4,), sigma, dtype=torch.float64)
    denoised = mixture.prior(x, level)
    factor = torch.linalg.cholesky(mixture.rows @ mixture.prior.error(sigma).matrix @ mixture.rows.T + mixture.noise)
    z = torch.linalg.solve_triangular(factor, mixture.observation.residual(denoised).T, upper=False).T
    at = x.clone().requires_grad_()
    (gradient,) = torch.autograd.grad(potential(mixture, at, sigma, z / z.norm(dim=1, keepdim=True)).sum(), at)
    wanted, errors = denoised + sigma**2 * gradient, []
    for probe in (1e-2, 1e-3):
        found = HybridGuidance(probe)(mixture.prior, mixture.observation)(x, level)
        errors.append(float((found - wanted).norm() / (wanted - denoised).norm()))
    print(f"sigma {sigma}: relative error of the move {errors}")
    assert errors[1] < 5e-3
    assert errors[0] / errors[1] == pytest.approx(10, rel=0.2)
    # The curvature is worth something here: without it the move is another.
    frozen = CalibratedGuidance()(mixture.prior, mixture.observation)(x, level)
    assert (frozen - wanted).norm() > 0.02 * (wanted - denoised).norm()


@pytest.mark.parametrize("guidance", [HybridGuidance(), JFPS(), MMPS(None, 1e-12), MMPS(None, 1e-12, True)], ids=str)
def test_coloured_noise_of_the_diffusion(guidance):
    """V = sigma^2 N J^T for noise of covariance N: on a Gaussian field all of them are the measured error's gain."""
    spectrum = matern_field((6, 6), length=0.2, smoothness=2.0).spectrum
    prior = GaussianFieldPrior(torch.zeros(1, 6, 6).double(), spectrum, GaussianRandomField(0.1, 1.5))
    sensors = PointSensors.at([0, 0], torch.tensor([[0.4, 1.3], [3.0, 4.6]]).double(), (1, 6, 6))
    noise = GaussianNoise(torch.tensor([0.1, 0.3]).double())
    observation = Observation(torch.tensor([1.0, -0.5]).double(), sensors, noise)
    x = torch.randn(3, 1, 6, 6, generator=torch.Generator().manual_seed(5), dtype=torch.float64)
    sigma = torch.tensor([0.2, 1.0, 6.0], dtype=torch.float64)
    wanted = CalibratedGuidance()(prior, observation)(x, sigma)
    torch.testing.assert_close(guidance(prior, observation)(x, sigma), wanted, rtol=1e-7, atol=1e-8)


def test_curvature_below_zero_counts_as_zero(mixture):
    """A network may say that the error has a negative variance; the potential stays finite."""

    class Backwards(GaussianMixturePrior):
        def __call__(self, x, sigma):
            return self.mean - 3.0 * (x - self.mean)

    prior = Backwards(mixture.prior.weights, mixture.prior.means, mixture.prior.covariances)
    x = torch.randn(5, 1, 8, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    assert torch.isfinite(HybridGuidance()(prior, mixture.observation)(x, torch.ones(5).double())).all()


def test_modes_get_weights_that_guidance_alone_misses(mixture, mode_weights):
    """Posterior weights 0.19, 0.02 and 0.79: total variation of 600 draws at 100 steps of two evaluations.

    Calibrated guidance is off by 0.37 (docs/posterior.md); the standard error of a weight is 0.02.
    """
    exact = mixture.posterior.weights
    sampler = SASolver(order=1, corrector=1, tau=3.0, sigma_low=0.1, sigma_high=3.0)
    off = {}
    for name, guidance, under in (
        ("hybrid", HybridGuidance(), sampler),
        ("hybrid, no extra noise", HybridGuidance(), DPMSolverPP()),
        ("calibrated", CalibratedGuidance(), DPMSolverPP()),
        ("calibrated, extra noise", CalibratedGuidance(), sampler),
    ):
        x = GuidedSampling(guidance, under, steps=100, sigma_max=40.0)(mixture.prior, mixture.observation, 600, 0).x
        found = mode_weights(mixture.posterior, x)
        off[name] = 0.5 * float((found - exact).abs().sum())
        print(f"{name}: weights {[round(float(w), 3) for w in found]}, total variation {off[name]:.3f}")
    assert off["hybrid"] < 0.15
    assert off["hybrid"] < 0.6 * min(off["calibrated"], off["calibrated, extra noise"])
    assert off["hybrid, no extra noise"] < off["calibrated"]


def test_many_readings_cost_no_more_evaluations(mixture):
    """Two evaluations a call, whatever the number of readings."""
    calls = []

    class Counted(GaussianMixturePrior):
        def __call__(self, x, sigma):
            calls.append(len(x))
            return super().__call__(x, sigma)

    prior = Counted(mixture.prior.weights, mixture.prior.means, mixture.prior.covariances)
    guided = HybridGuidance()(prior, mixture.observation)
    x = torch.zeros(2, 1, 8).double()
    guided(x, torch.ones(2).double())
    calls.clear()
    guided(x, torch.ones(2).double())
    assert calls == [2, 2]


def test_nonlinear_operators_are_refused(mixture):
    class Bent(type(mixture.observation.operator)):
        linear = False

    bent = Bent(mixture.observation.operator.indices, mixture.observation.operator.weights)
    with pytest.raises(ConfigError, match="HybridGuidance needs a linear"):
        HybridGuidance()(mixture.prior, Observation(mixture.observation.y, bent, mixture.observation.noise))
    assert math.isfinite(mixture.log_evidence)
