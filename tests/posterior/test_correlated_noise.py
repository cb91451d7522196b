"""Correlated errors: whitened at the door, so that every method has the posterior of the full covariance."""

from __future__ import annotations

import torch

from pdediff.diffusion import GaussianPrior
from pdediff.observe import CorrelatedGaussianNoise, Observation, PointSensors
from pdediff.posterior import CalibratedGuidance, Conditioning, GuidedSampling, Kriging
from pdediff.posterior.base import independent
from pdediff.samplers import DPMSolverPP


def problem() -> tuple[GaussianPrior, Observation, torch.Tensor, torch.Tensor]:
    """Twelve points, five sensors whose errors have correlation 0.6^|i - j|."""
    at = torch.arange(12, dtype=torch.float64)
    covariance = torch.exp(-0.5 * ((at[:, None] - at) / 2.0) ** 2) + 1e-6 * torch.eye(12, dtype=torch.float64)
    prior = GaussianPrior(torch.linspace(-1.0, 1.0, 12, dtype=torch.float64)[None], covariance)
    picked = torch.tensor([0, 3, 4, 8, 11])
    sensors = torch.arange(5, dtype=torch.float64)
    noise = 0.09 * 0.6 ** (sensors[:, None] - sensors).abs()
    operator = PointSensors(picked[:, None], torch.ones(5, 1, dtype=torch.float64))
    y = torch.tensor([0.4, -1.0, 0.2, 0.9, 1.3], dtype=torch.float64)
    matrix = torch.eye(12, dtype=torch.float64)[picked]
    return prior, Observation(y, operator, CorrelatedGaussianNoise.of(noise)), matrix, noise


def test_conditioning_is_that_of_the_full_covariance() -> None:
    prior, observation, matrix, noise = problem()
    exact, _ = prior.condition(matrix, observation.y, noise)
    white = independent(observation)
    c = Conditioning.of(white, prior.error(float("inf")), white.rows(prior.mean))
    mean = c.update(prior.mean[None], white.residual(prior.mean[None]))[0]
    assert float((mean - exact.mean).abs().max()) < 1e-10
    uncorrelated, _ = prior.condition(matrix, observation.y, torch.diag(noise.diagonal()))
    assert float((mean - uncorrelated.mean).abs().max()) > 0.02


def test_posteriors_whiten_by_themselves() -> None:
    prior, observation, _, _ = problem()
    sampled = GuidedSampling(CalibratedGuidance(), DPMSolverPP(2), steps=6)
    for posterior in (Kriging(), sampled):
        by_itself = posterior(prior, observation, 4, 0).x
        assert torch.equal(by_itself, posterior(prior, observation.whitened(), 4, 0).x)
