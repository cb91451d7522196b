"""The exact priors: denoiser, score, density, error covariance, flow and conditioning agree with each other."""

from __future__ import annotations

import math
from functools import cache

import pytest
import torch

from pdediff.diffusion import (
    GaussianFieldPrior,
    GaussianMixturePrior,
    GaussianPrior,
    GaussianRandomField,
    WhiteNoise,
    matern_field,
)

SHAPE = (2, 4)
SIZE = 8


def normals(seed: int, *shape: int) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def covariance(seed: int) -> torch.Tensor:
    root = normals(seed, SIZE, SIZE)
    return root @ root.T / SIZE + 0.05 * torch.eye(SIZE, dtype=torch.float64)


@cache
def gaussian() -> GaussianPrior:
    return GaussianPrior(normals(1, *SHAPE), covariance(2))


@cache
def field(coloured: bool) -> GaussianFieldPrior:
    smooth = matern_field((4,), length=0.3, smoothness=2.0, channels=2, std=1.3)
    noise = GaussianRandomField(0.05, 1.0) if coloured else WhiteNoise()
    return GaussianFieldPrior(normals(3, *SHAPE), smooth.spectrum, noise)


@cache
def mixture() -> GaussianMixturePrior:
    weights = torch.tensor([0.5, 0.3, 0.2], dtype=torch.float64)
    return GaussianMixturePrior(weights, 2 * normals(4, 3, *SHAPE), torch.stack([covariance(i) for i in (5, 6, 7)]))


PRIORS = {
    "gaussian": gaussian,
    "field": lambda: field(False),
    "coloured": lambda: field(True),
    "mixture": mixture,
}


@pytest.mark.parametrize("name", PRIORS)
def test_tweedie(name):
    """D = x + sigma^2 C grad log p_sigma, the gradient taken by autograd of the density, rows at their own level."""
    prior = PRIORS[name]()
    sigma = torch.tensor([0.05, 0.7, 9.0], dtype=torch.float64)
    x = (prior.mean + (1 + sigma)[:, None, None] * normals(8, 3, *SHAPE)).requires_grad_()
    (score,) = torch.autograd.grad(prior.log_prob(x, sigma).sum(), x)
    c = prior.noise.covariance(SHAPE)
    expected = x.detach() + sigma[:, None, None] ** 2 * c.matvec(score)
    torch.testing.assert_close(prior(x.detach(), sigma), expected, rtol=1e-10, atol=1e-10)
    if hasattr(prior, "score"):
        torch.testing.assert_close(prior.score(x.detach(), sigma), score, rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("sigma", [0.1, 1.0, 30.0])
def test_field_prior_equals_its_dense_form(sigma):
    prior = field(False)
    matrix = prior.dense()
    x, level = normals(9, 3, *SHAPE), torch.full((3,), sigma, dtype=torch.float64)
    exact = {"rtol": 1e-11, "atol": 1e-11}
    torch.testing.assert_close(matrix(x, level), prior(x, level), **exact)
    torch.testing.assert_close(matrix.log_prob(x, level), prior.log_prob(x, level), **exact)
    torch.testing.assert_close(matrix.flow(x, sigma, 0.3 * sigma), prior.flow(x, sigma, 0.3 * sigma), **exact)
    torch.testing.assert_close(matrix.error(sigma).matvec(x), prior.error(sigma).matvec(x), **exact)


@pytest.mark.parametrize("coloured", [False, True])
def test_gaussian_error_is_the_conditional_covariance(coloured):
    """error(sigma) = (S^-1 + (sigma^2 N)^-1)^-1 by brute force, and the prior covariance at infinity."""
    prior = field(coloured)
    identity = torch.eye(SIZE, dtype=torch.float64).reshape(SIZE, *SHAPE)
    s = prior.error(math.inf).matvec(identity).flatten(1)
    torch.testing.assert_close(s, prior.dense().covariance, rtol=1e-12, atol=1e-12)
    noise = prior.noise.covariance(SHAPE).matvec(identity).flatten(1)
    for sigma in (0.2, 3.0):
        brute = torch.linalg.inv(torch.linalg.inv(s) + torch.linalg.inv(noise) / sigma**2)
        torch.testing.assert_close(prior.error(sigma).matvec(identity).flatten(1), brute, rtol=1e-9, atol=1e-9)


def test_dense_gaussian_error():
    s = gaussian().covariance
    for sigma in (0.2, 3.0):
        brute = torch.linalg.inv(torch.linalg.inv(s) + torch.eye(SIZE, dtype=torch.float64) / sigma**2)
        torch.testing.assert_close(gaussian().error(sigma).matrix, brute, rtol=1e-9, atol=1e-9)
    torch.testing.assert_close(gaussian().error(math.inf).matrix, s, rtol=1e-12, atol=1e-12)


def test_density_by_hand():
    """One point, two equal components at -1 and 1 with variance 3, sigma = 1, x = 0: N(1; 0, 4), D = 0."""
    one = torch.ones(1, 1, 1, dtype=torch.float64)
    prior = GaussianMixturePrior(
        torch.tensor([0.5, 0.5], dtype=torch.float64), torch.cat([-one, one]), 3 * torch.ones(2, 1, 1).double()
    )
    level = torch.ones(1, dtype=torch.float64)
    expected = -0.5 * (1 / 4 + math.log(2 * math.pi * 4))
    assert float(prior.log_prob(0 * one, level)) == pytest.approx(expected, abs=1e-14)
    assert float(prior(0 * one, level)) == pytest.approx(0.0, abs=1e-14)
    single = GaussianPrior(one[0], 3 * torch.ones(1, 1).double())
    assert float(single(5 * one, level)) == pytest.approx(1 + 3 / 4 * 4, abs=1e-13)


def test_flow_transports_the_law():
    """The flow is affine for a Gaussian: its push-forward of level 2 must be the law at level 0.5, to rounding."""
    prior = gaussian()
    identity = torch.eye(SIZE, dtype=torch.float64).reshape(SIZE, *SHAPE)
    origin = prior.flow(torch.zeros(1, *SHAPE, dtype=torch.float64), 2.0, 0.5)
    linear = (prior.flow(identity, 2.0, 0.5) - origin).flatten(1).T
    eye = torch.eye(SIZE, dtype=torch.float64)
    pushed = linear @ (prior.covariance + 4 * eye) @ linear.T
    torch.testing.assert_close(pushed, prior.covariance + 0.25 * eye, rtol=1e-11, atol=1e-11)
    centre = origin + (prior.mean.flatten() @ linear.T).reshape(1, *SHAPE)
    torch.testing.assert_close(centre[0], prior.mean, rtol=1e-11, atol=1e-11)


def test_mixture_samples_have_its_moments():
    prior = mixture()
    n = 40000
    x = prior.sample(tuple(range(3 * 10**6, 3 * 10**6 + 3 * n, 3))).flatten(1)
    offset = x - prior.mean.flatten()
    assert (offset.mean(0).abs() / offset.std(0) * math.sqrt(n)).max() < 6  # eight means at six standard errors: 2e-8
    spread = (prior.means - prior.mean).flatten(1)
    total = torch.einsum("k,kij->ij", prior.weights, prior.covariances + spread[:, :, None] * spread[:, None])
    products = offset[:, :, None] * offset[:, None]
    error = products.std(0) / math.sqrt(n)
    assert ((products.mean(0) - total).abs() / error).max() < 6  # 64 moments, false alarm about 1e-7
    torch.testing.assert_close(prior.sample((3 * 10**6 + 6,)).flatten(), x[2], rtol=0, atol=1e-12)


@pytest.mark.parametrize("sigma", [0.3, 2.0, math.inf])
def test_mixture_error_is_the_mean_squared_error(sigma):
    """The stored 8192-draw estimate against an independent one of the same size.

    Both carry the standard error s of an entry, so the difference has sqrt(2) s; six of that over 64 entries is a
    false alarm of 1e-7. The trace tells a wrong scale: its bound is a few per cent.
    """
    prior = mixture()
    stored = prior.error(sigma).matrix
    n = 8192
    x0 = prior.sample(tuple(range(10**9, 10**9 + 3 * n, 3)))
    if math.isinf(sigma):
        e = (x0 - prior.mean).flatten(1)
    else:
        level = torch.full((n,), sigma, dtype=torch.float64)
        e = (x0 - prior(x0 + sigma * normals(21, n, *SHAPE), level)).flatten(1)
    products = e[:, :, None] * e[:, None]
    error = products.std(0) * math.sqrt(2 / n)
    assert ((products.mean(0) - stored).abs() / error).max() < 6
    assert float(products.mean(0).trace() / stored.trace()) == pytest.approx(1, abs=0.1)


def test_condition_gaussian_by_brute_force():
    """Joint Gaussian of (x0, y) by its precision matrix, and the evidence as the density of y."""
    prior, matrix, y = gaussian(), normals(11, 3, SIZE), normals(12, 3)
    noise = torch.diag(torch.tensor([0.1, 0.2, 0.3], dtype=torch.float64))
    posterior, evidence = prior.condition(matrix, y, noise)
    precision = torch.linalg.inv(prior.covariance) + matrix.T @ torch.linalg.inv(noise) @ matrix
    right = torch.linalg.inv(prior.covariance) @ prior.mean.flatten() + matrix.T @ torch.linalg.inv(noise) @ y
    torch.testing.assert_close(posterior.covariance, torch.linalg.inv(precision), rtol=1e-9, atol=1e-9)
    torch.testing.assert_close(posterior.mean.flatten(), torch.linalg.solve(precision, right), rtol=1e-9, atol=1e-9)
    marginal = torch.distributions.MultivariateNormal(
        matrix @ prior.mean.flatten(), matrix @ prior.covariance @ matrix.T + noise
    )
    assert evidence == pytest.approx(float(marginal.log_prob(y)), rel=1e-10)


def test_condition_mixture_by_bayes():
    """posterior(x) = prior(x) N(y; Hx, R) / evidence at every x: checked at points, so weights and all are right."""
    prior, matrix, y = mixture(), normals(13, 2, SIZE), normals(14, 2)
    noise = torch.diag(torch.tensor([0.4, 0.9], dtype=torch.float64))
    posterior, evidence = prior.condition(matrix, y, noise)
    x = prior.mean + normals(15, 5, *SHAPE)
    tiny = torch.full((5,), 1e-9, dtype=torch.float64)  # level 0 up to 1e-18 in variance
    likelihood = torch.distributions.MultivariateNormal(x.flatten(1) @ matrix.T, noise).log_prob(y)
    expected = prior.log_prob(x, tiny) + likelihood - evidence
    torch.testing.assert_close(posterior.log_prob(x, tiny), expected, rtol=1e-9, atol=1e-9)
    assert float(posterior.weights.sum()) == pytest.approx(1, abs=1e-14)


def test_matern_field_variance_and_draws():
    prior = matern_field((8, 8), length=0.2, smoothness=2.0, std=1.7)
    torch.testing.assert_close(prior.error(math.inf).diagonal(), torch.full((1, 8, 8), 1.7**2, dtype=torch.float64))
    x = prior.error(math.inf).draw(range(4000), torch.float64)
    # Sixty-four correlated variances of 4000 draws: relative standard error sqrt(2 / 4000) = 0.022, six of them.
    assert (x.var(0) / 1.7**2 - 1).abs().max() < 0.14
