"""A gain for each row: the covariance diag(s) C diag(s) against dense algebra."""

from __future__ import annotations

import torch

from pdediff.diffusion import DenseCovariance, GaussianPrior, LowRankCovariance
from pdediff.observe import GaussianNoise, Observation, PointSensors
from pdediff.posterior import CalibratedGuidance, Conditioning
from pdediff.posterior.conditioning import local_update
from pdediff.types import normal

SHAPE = (2, 4, 4)


def problem() -> tuple[Observation, torch.Tensor, torch.Tensor]:
    positions = torch.tensor([[0.3, 1.7], [2.2, 0.1], [3.0, 3.0]], dtype=torch.float64)
    sensors = PointSensors.at([0, 1, 1], positions, SHAPE)
    noise = GaussianNoise(torch.full((3,), 0.1, dtype=torch.float64))
    observation = Observation(torch.tensor([0.4, -1.0, 0.2], dtype=torch.float64), sensors, noise)
    mean = normal((1, 2), SHAPE, dtype=torch.float64)
    return observation, mean, 0.5 + normal((3, 4), SHAPE, dtype=torch.float64).abs()


def dense(c: torch.Tensor, h: torch.Tensor, noise: float, mean: torch.Tensor, residual: torch.Tensor) -> torch.Tensor:
    return mean + c @ h.T @ torch.linalg.solve(h @ c @ h.T + noise**2 * torch.eye(len(h)).double(), residual)


def test_local_update_is_the_dense_formula_row_by_row():
    observation, mean, scale = problem()
    rows = observation.rows(mean[0])
    factor = normal(range(5), SHAPE, dtype=torch.float64)
    variance = 0.1 + normal((9,), SHAPE, dtype=torch.float64)[0] ** 2
    covariance = LowRankCovariance(variance, factor)
    full = torch.diag(variance.flatten()) + factor.flatten(1).T @ factor.flatten(1)
    residual = observation.residual(mean)
    found = local_update(Conditioning.of(observation, covariance, rows), mean, residual, scale)
    for i in range(2):
        s = scale[i].flatten()
        wanted = dense(s[:, None] * full * s, rows.flatten(1), 0.1, mean[i].flatten(), residual[i])
        torch.testing.assert_close(found[i].flatten(), wanted, atol=1e-10, rtol=0)
    ones = local_update(Conditioning.of(observation, covariance, rows), mean, residual, torch.ones_like(mean))
    torch.testing.assert_close(ones, Conditioning.of(observation, covariance, rows).update(mean, residual))


class Scaled(GaussianPrior):
    """A Gaussian prior that claims a field-dependent error."""

    def error_scale(self, denoised, sigma):
        return 1.0 + denoised**2


def test_dense_and_iterative_gain_use_the_scale_alike_and_local_false_ignores_it():
    observation, mean, _ = problem()
    root = normal(range(32), (32,), dtype=torch.float64)
    prior = Scaled(torch.zeros(SHAPE, dtype=torch.float64), root @ root.T / 32 + 0.1 * torch.eye(32).double())
    sigma = torch.full((2,), 0.7).double()
    gain = CalibratedGuidance()(prior, observation)(mean, sigma)
    iterative = CalibratedGuidance(dense_limit=1, tolerance=1e-12)(prior, observation)(mean, sigma)
    torch.testing.assert_close(gain, iterative, atol=1e-9, rtol=0)
    plain = CalibratedGuidance(local=False)(prior, observation)(mean, sigma)
    average = Conditioning.of(observation, prior.error(0.7), observation.rows(mean[0]))
    torch.testing.assert_close(plain, average.update(prior(mean, sigma), observation.residual(prior(mean, sigma))))
    assert (gain - plain).abs().max() > 1e-3
    assert isinstance(prior.error(0.7), DenseCovariance)
