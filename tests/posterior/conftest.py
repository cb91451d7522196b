"""Two problems with closed-form posteriors: a Gaussian field seen by point sensors, and a mixture with modes."""

from __future__ import annotations

import math
import sys
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from torch import Tensor

from pdediff.config import build
from pdediff.diffusion import GaussianFieldPrior, GaussianMixturePrior, GaussianPrior, matern_field
from pdediff.observe import GaussianNoise, Observation, PointSensors

sys.path.insert(0, str(Path(__file__).parent))

CLOSED = {"exact_gaussian", "exact_mixture", "two_resolutions"}
"""Configs that take one kind of prior only: tested in test_references_exact.py and test_two_resolutions.py."""

FOLDER = Path(__file__).parents[2] / "configs" / "posterior"
CONFIGS = sorted(path for path in FOLDER.glob("*.yaml") if path.stem not in CLOSED)


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    """A config enrols its algorithm in every test that asks for a posterior."""
    if "posterior" in metafunc.fixturenames:
        found = [build("posterior", yaml.safe_load(path.read_text())) for path in CONFIGS]
        metafunc.parametrize(("name", "posterior"), list(zip([p.stem for p in CONFIGS], found, strict=True)))


@dataclass(frozen=True, eq=False)
class Case:
    """A prior, one observation of it, and the exact answer."""

    prior: Any
    observation: Observation
    rows: Tensor
    noise: Tensor
    posterior: Any
    log_evidence: float


@cache
def _field() -> Case:
    prior: GaussianFieldPrior = matern_field((16, 16), length=0.1, smoothness=2.0)
    g = torch.Generator().manual_seed(0)
    positions = 15 * torch.rand(12, 2, generator=g, dtype=torch.float64)
    operator = PointSensors.at([0] * 12, positions, (1, 16, 16))
    truth = prior.error(math.inf).draw((1,), torch.float64)
    std = torch.full((12,), 0.1, dtype=torch.float64)
    y = operator(truth)[0] + std * torch.randn(12, generator=g, dtype=torch.float64)
    observation = Observation(y, operator, GaussianNoise(std))
    rows, noise = observation.rows(prior.mean).flatten(1), torch.diag(std**2)
    return Case(prior, observation, rows, noise, *prior.dense().condition(rows, y, noise))


@cache
def _mixture() -> Case:
    """Eight dimensions, three modes, three readings; posterior weights 0.19, 0.02 and 0.79."""
    g = torch.Generator().manual_seed(3)

    def normals(*shape: int) -> Tensor:
        return torch.randn(*shape, generator=g, dtype=torch.float64)

    means, covariances = 0.6 * normals(3, 1, 8), []
    for _ in range(3):
        basis = torch.linalg.qr(normals(8, 8)).Q
        covariances.append((basis / torch.arange(1, 9, dtype=torch.float64)) @ basis.T)
    weights = torch.tensor([0.4, 0.35, 0.25], dtype=torch.float64)
    prior = GaussianMixturePrior(weights, means, torch.stack(covariances))
    rows, std = normals(3, 8) / math.sqrt(8), torch.full((3,), 0.3, dtype=torch.float64)
    operator = PointSensors(torch.arange(8).expand(3, 8).contiguous(), rows)
    y = operator(means[2:3] + 0.3 * normals(1, 1, 8))[0] + std * normals(3)
    noise = torch.diag(std**2)
    return Case(prior, Observation(y, operator, GaussianNoise(std)), rows, noise, *prior.condition(rows, y, noise))


@pytest.fixture
def field() -> Case:
    return _field()


@pytest.fixture
def mixture() -> Case:
    return _mixture()


def _bures(mean: Tensor, covariance: Tensor, exact: GaussianPrior) -> float:
    """Wasserstein-2 distance of two Gaussians over the spread of the second."""
    values, vectors = torch.linalg.eigh(covariance)
    root = (vectors * values.clamp(min=0).sqrt()) @ vectors.T
    cross = torch.linalg.eigvalsh(root @ exact.covariance @ root).clamp(min=0).sqrt().sum()
    squared = (mean - exact.mean.flatten()).square().sum() + covariance.trace() + exact.covariance.trace() - 2 * cross
    return float((squared.clamp(min=0) / exact.covariance.trace()).sqrt())


@pytest.fixture
def bures() -> Any:
    return _bures


@dataclass(frozen=True)
class Moments:
    """Bias and spread of equally weighted draws against a Gaussian posterior, with their sampling errors.

    mean: |mean - exact| in posterior standard deviations, squared, less the 1 / n that n exact draws would have;
    spread: total variance over the exact one; z_mean and z_spread: both in standard errors of n exact draws.
    """

    mean: float
    spread: float
    z_mean: float
    z_spread: float


def _moments(x: Tensor, exact: GaussianPrior) -> Moments:
    n, total = len(x), exact.covariance.trace()
    relative = float((exact.covariance**2).sum().sqrt() / total)
    squared = float((x.mean(0) - exact.mean).square().sum() / total) - 1 / n
    spread = float(x.flatten(1).var(0).sum() / total)
    return Moments(
        math.copysign(math.sqrt(abs(squared)), squared),
        spread,
        squared / (math.sqrt(2) * relative / n),
        (spread - 1) / (math.sqrt(2 / (n - 1)) * relative),
    )


@pytest.fixture
def moments() -> Any:
    return _moments


def _mode_weights(posterior: GaussianMixturePrior, x: Tensor, weights: Tensor | None = None) -> Tensor:
    """Posterior probability that each draw came from each mode, averaged: an unbiased estimate of the weights."""
    share = torch.full((len(x),), 1 / len(x), dtype=x.dtype) if weights is None else weights
    offset = x.flatten(1)[None] - posterior.means.flatten(1)[:, None]
    joint = torch.stack(
        [
            w.log() + torch.distributions.MultivariateNormal(torch.zeros(len(c), dtype=c.dtype), c).log_prob(o)
            for w, c, o in zip(posterior.weights, posterior.covariances, offset, strict=True)
        ]
    )
    return joint.softmax(0) @ share


@pytest.fixture
def mode_weights() -> Any:
    return _mode_weights
