"""Mixtures of Gaussian fields given linear readings, against the dense mixture."""

from __future__ import annotations

import math

import pytest
import torch

from pdediff.diffusion import FourierCovariance, GaussianFieldMixturePrior, GaussianMixturePrior, matern_field
from pdediff.errors import ConfigError
from pdediff.observe import Differentiable, GaussianNoise, Observation, PointSensors
from pdediff.posterior import ExactMixture, FieldMixturePosterior

SHAPE, SIZE = (1, 3, 4), 12


def normals(seed: int, *shape: int) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def problem() -> tuple[GaussianFieldMixturePrior, GaussianMixturePrior, Observation]:
    """Three components that two readings do not tell apart for certain."""
    spectrum = matern_field((3, 4), length=0.3, smoothness=2.0).spectrum
    weights, means = torch.tensor([0.5, 0.3, 0.2], dtype=torch.float64), 0.8 * normals(0, 3, *SHAPE)
    matrix = FourierCovariance(spectrum).matvec(torch.eye(SIZE).double().reshape(-1, *SHAPE)).flatten(1)
    sensors = PointSensors(torch.arange(SIZE).expand(2, SIZE).contiguous(), normals(3, 2, SIZE) / math.sqrt(SIZE))
    observation = Observation(normals(5, 2), sensors, GaussianNoise(torch.tensor([0.3, 0.5], dtype=torch.float64)))
    dense = GaussianMixturePrior(weights, means, matrix.expand(3, -1, -1))
    return GaussianFieldMixturePrior(weights, means, spectrum), dense, observation


def test_the_posterior_is_that_of_the_dense_mixture():
    ours, dense, observation = problem()
    wanted, evidence = ExactMixture().posterior(dense, observation)
    found = FieldMixturePosterior.of(ours, observation)
    weights, told = found.weights(observation)
    assert float(weights.min()) > 0.02
    torch.testing.assert_close(weights, wanted.weights)
    torch.testing.assert_close(found.means(observation), wanted.means)
    assert told == pytest.approx(evidence, abs=1e-10)


def test_draws_have_the_moments_of_the_dense_mixture():
    """All means and covariances of 20000 draws: six standard errors."""
    ours, dense, observation = problem()
    wanted, evidence = ExactMixture().posterior(dense, observation)
    drawn = ExactMixture()(ours, observation, 20000, 0)
    assert drawn.diagnostics["log_evidence"] == pytest.approx(evidence, abs=1e-10)
    between = (wanted.means - wanted.mean).flatten(1)
    matrix = torch.tensordot(wanted.weights, wanted.covariances, dims=1) + (wanted.weights * between.T) @ between
    x, n = drawn.x.flatten(1) - wanted.mean.flatten(), 20000
    assert (x.mean(0) / (matrix.diagonal() / n).sqrt()).abs().max() < 6
    products = x[:, :, None] * x[:, None]
    assert ((products.mean(0) - matrix) / (products.std(0) / math.sqrt(n))).abs().max() < 6


class Square(Differentiable):
    def __call__(self, x: torch.Tensor) -> torch.Tensor:
        return x.flatten(1)[:, :2] ** 2


def test_readings_that_are_not_linear_are_refused():
    ours, _, observation = problem()
    with pytest.raises(ConfigError, match="linear"):
        ExactMixture()(ours, Observation(observation.y, Square(), observation.noise), 2, 0)
