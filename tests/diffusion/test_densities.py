"""Densities and scores of the exact priors, and of sums of covariances, against full matrices and autograd."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.distributions import MultivariateNormal

from pdediff.diffusion import (
    Covariance,
    DenseCovariance,
    DiagonalCovariance,
    FourierCovariance,
    GaussianFieldPrior,
    GaussianMixturePrior,
    GaussianPrior,
    GaussianRandomField,
    LowRankCovariance,
    WhiteNoise,
    gaussian_density,
    isotropic,
    matern_field,
)
from pdediff.errors import ConfigError

NOISES = {"white": WhiteNoise(), "coloured": GaussianRandomField(0.1, 2.0)}
GRIDS = [(7,), (8,), (4, 5), (4, 6), (2, 3, 4)]


def normals(seed: int, *shape: int) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def matrix(covariance: Covariance) -> Tensor:
    """Dense form by its action on unit vectors."""
    size = math.prod(covariance.shape)
    return covariance.matvec(torch.eye(size, dtype=torch.float64).reshape(size, *covariance.shape)).flatten(1)


def field(grid: tuple[int, ...], noise: str) -> GaussianFieldPrior:
    """Two channels of different strength around a mean."""
    smooth = matern_field(grid, length=0.3, smoothness=2.0, channels=2, std=1.3).spectrum.clone()
    smooth[1] *= 0.2
    return GaussianFieldPrior(normals(3, 2, *grid), smooth, NOISES[noise])


def dense(seed: int) -> Tensor:
    root = normals(seed, 8, 8)
    return root @ root.T / 8 + 0.05 * torch.eye(8, dtype=torch.float64)


PRIORS = {
    "gaussian": GaussianPrior(normals(1, 2, 4), dense(2)),
    "field": field((4,), "white"),
    "coloured": field((4,), "coloured"),
    "mixture": GaussianMixturePrior(
        torch.tensor([0.5, 0.3, 0.2], dtype=torch.float64),
        2 * normals(4, 3, 2, 4),
        torch.stack([dense(i) for i in (5, 6, 7)]),
    ),
}


@pytest.mark.parametrize("noise", NOISES)
@pytest.mark.parametrize("grid", GRIDS, ids=str)
@pytest.mark.parametrize("sigma", [0.05, 2.0, 60.0])
def test_field_density_is_that_of_real_fields(grid: tuple[int, ...], noise: str, sigma: float) -> None:
    """Complex modes come in pairs: counted wrongly, the density would be off by a factor in the exponent."""
    prior = field(grid, noise)
    total = matrix(FourierCovariance(prior.spectrum)) + sigma**2 * matrix(prior.noise.covariance(prior.shape))
    law = MultivariateNormal(prior.mean.flatten(), 0.5 * (total + total.T))
    x = prior.mean + (1 + sigma) * normals(8, 3, *prior.shape)
    level = torch.full((3,), sigma, dtype=torch.float64)
    torch.testing.assert_close(prior.log_prob(x, level), law.log_prob(x.flatten(1)), rtol=1e-10, atol=1e-9)
    exact = -torch.linalg.solve(total, (x - prior.mean).flatten(1).T).T
    torch.testing.assert_close(prior.score(x, level).flatten(1), exact, rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("name", PRIORS)
def test_score_is_the_gradient_of_the_density(name: str) -> None:
    """At every level, zero included, where (D - x) / sigma^2 has no digits left; rows at their own level."""
    prior: Any = PRIORS[name]
    sigma = torch.tensor([0.0, 1e-9, 1e-3, 0.7, 9.0, 1e3], dtype=torch.float64)
    x = (prior.mean + (1 + sigma)[:, None, None] * normals(8, 6, 2, 4)).requires_grad_()
    (expected,) = torch.autograd.grad(prior.log_prob(x, sigma).sum(), x)
    torch.testing.assert_close(prior.score(x.detach(), sigma), expected, rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize("name", ["gaussian", "field", "coloured"])
def test_exact_flow_changes_the_density_by_its_jacobian(name: str) -> None:
    """log p_next(flow(x)) + log |det| = log p(x): flow and density fit together, for coloured noise too."""
    prior: Any = PRIORS[name]
    x = prior.mean + 3 * normals(9, 4, 2, 4)
    origin = prior.flow(torch.zeros(1, 2, 4, dtype=torch.float64), 2.0, 0.3)
    jacobian = (prior.flow(torch.eye(8, dtype=torch.float64).reshape(8, 2, 4), 2.0, 0.3) - origin).flatten(1)
    moved = prior.log_prob(prior.flow(x, 2.0, 0.3), torch.full((4,), 0.3, dtype=torch.float64))
    expected = prior.log_prob(x, torch.full((4,), 2.0, dtype=torch.float64))
    torch.testing.assert_close(moved + torch.linalg.slogdet(jacobian).logabsdet, expected, rtol=1e-10, atol=1e-10)


SPECTRUM = matern_field((4,), length=0.3, smoothness=2.0, channels=2, std=1.3).spectrum
KINDS: dict[str, Covariance] = {
    "diagonal": DiagonalCovariance(0.2 + normals(10, 2, 4) ** 2),
    "dense": DenseCovariance(dense(11), (2, 4)),
    "fourier": FourierCovariance(SPECTRUM),
    "low rank": LowRankCovariance(0.2 + normals(12, 2, 4) ** 2, normals(13, 3, 2, 4)),
    "none": LowRankCovariance(0.2 + normals(12, 2, 4) ** 2, normals(13, 0, 2, 4)),
}
ADDED: dict[str, Covariance] = {
    "white": isotropic((2, 4), 4.0),
    "uneven": DiagonalCovariance(0.5 + normals(14, 2, 4) ** 2),
    "coloured": GaussianRandomField(0.1, 2.0).covariance((2, 4)).scaled(4.0),
}


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("added", ADDED)
def test_density_of_a_sum_of_covariances(kind: str, added: str) -> None:
    mean, x = normals(15, 2, 4), 2 * normals(16, 5, 2, 4)
    total = matrix(KINDS[kind]) + matrix(ADDED[added])
    expected = MultivariateNormal(mean.flatten(), 0.5 * (total + total.T)).log_prob(x.flatten(1))
    found = gaussian_density(mean, ADDED[added], KINDS[kind])(x)
    torch.testing.assert_close(found, expected, rtol=1e-11, atol=1e-11)


def test_density_of_large_fields() -> None:
    """A closed form scales to any grid; a pair without one is refused before it fills the memory."""
    shape = (1, 96, 96)
    noise = GaussianRandomField(0.05, 1.5).covariance(shape)
    spectrum = matern_field((96, 96), length=0.2, smoothness=2.0).spectrum
    found = gaussian_density(torch.zeros(shape), noise, FourierCovariance(spectrum))(torch.zeros(1, *shape).double())
    total = spectrum + GaussianRandomField(0.05, 1.5).covariance(shape).spectrum
    assert float(found) == pytest.approx(-0.5 * float((2 * math.pi * total).log().sum()), rel=1e-13)
    rank_one = LowRankCovariance(torch.ones(shape), torch.ones(1, *shape))
    with pytest.raises(ConfigError, match="no closed form") as caught:
        gaussian_density(torch.zeros(shape), noise, rank_one)
    assert "terminal" in str(caught.value.hint)
