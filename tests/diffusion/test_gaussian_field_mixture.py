"""A mixture of Gaussian fields against the dense mixture, and its covariances against their matrices."""

from __future__ import annotations

import math
from functools import cache

import pytest
import torch

from pdediff.diffusion import (
    FourierCovariance,
    GaussianFieldMixturePrior,
    GaussianMixturePrior,
    LowRankUpdate,
    matern_field,
)
from pdediff.posterior import root

SHAPE, SIZE = (2, 3, 4), 24
EXACT = {"rtol": 1e-10, "atol": 1e-10}


def normals(seed: int, *shape: int) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def dense(apply) -> torch.Tensor:
    return apply(torch.eye(SIZE, dtype=torch.float64).reshape(SIZE, *SHAPE)).reshape(SIZE, SIZE).T


@cache
def pair() -> tuple[GaussianFieldMixturePrior, GaussianMixturePrior]:
    """The same law twice."""
    spectrum = matern_field((3, 4), length=0.3, smoothness=2.0, channels=2).spectrum
    weights, means = torch.tensor([0.5, 0.3, 0.2], dtype=torch.float64), 0.7 * normals(0, 3, *SHAPE)
    matrix = dense(FourierCovariance(spectrum).matvec)
    return GaussianFieldMixturePrior(weights, means, spectrum), GaussianMixturePrior(
        weights, means, matrix.expand(3, -1, -1)
    )


def test_denoiser_and_density_are_those_of_the_dense_mixture():
    """Rows at their own level, from one where components are told apart to one where they are not."""
    ours, theirs = pair()
    sigma = torch.tensor([0.1, 0.5, 2.0, 40.0], dtype=torch.float64)
    x = ours.mean + (1 + sigma)[:, None, None, None] * normals(1, 4, *SHAPE)
    torch.testing.assert_close(ours(x, sigma), theirs(x, sigma), **EXACT)
    torch.testing.assert_close(ours.log_prob(x, sigma), theirs.log_prob(x, sigma), **EXACT)
    torch.testing.assert_close(ours.mean, theirs.mean)


@pytest.mark.parametrize("sigma", [0.3, 1.0, 3.0])
def test_the_error_is_that_of_many_draws(sigma):
    """Variances along 24 fixed directions over 40000 draws: six standard errors, and 2 % for the 8192 trials inside."""
    ours, _ = pair()
    x0 = ours.sample(tuple(range(40000)))
    x = x0 + sigma * normals(2, *x0.shape)
    error = (x0 - ours(x, torch.full((len(x),), sigma, dtype=torch.float64))).flatten(1)
    along = torch.linalg.qr(normals(3, SIZE, SIZE)).Q
    found = (error @ along).square()
    wanted = (along * (dense(ours.error(sigma).matvec) @ along)).sum(0)
    off = (found.mean(0) - wanted).abs()
    assert bool((off < 6 * found.std(0) / 200 + 0.02 * wanted).all())


def test_the_prior_covariance_is_exact():
    ours, _ = pair()
    between = (ours.means - ours.mean).flatten(1)
    wanted = dense(ours.within.matvec) + (ours.weights * between.T) @ between
    torch.testing.assert_close(dense(ours.error(math.inf).matvec), wanted, **EXACT)


def test_draws_have_the_law_and_repeat():
    ours, _ = pair()
    x = ours.sample(tuple(range(20000))).flatten(1)
    variance = ours.error(math.inf).diagonal().flatten()
    assert ((x.mean(0) - ours.mean.flatten()) / (variance / len(x)).sqrt()).abs().max() < 6
    assert (x.var(0) / variance - 1).abs().max() < 6 * math.sqrt(2 / len(x))
    assert torch.equal(ours.sample((7,))[0].flatten(), x[7])


@cache
def update() -> LowRankUpdate:
    return LowRankUpdate(FourierCovariance(pair()[0].spectrum + 0.1), normals(4, 3, *SHAPE))


def test_a_low_rank_update_is_its_matrix():
    c, matrix, v = update(), dense(update().matvec), normals(5, 4, *SHAPE)
    u = c.factor.flatten(1)
    torch.testing.assert_close(matrix, dense(c.base.matvec) + u.T @ u, **EXACT)
    torch.testing.assert_close(c.solve(v).flatten(1), torch.linalg.solve(matrix, v.flatten(1).T).T, **EXACT)
    torch.testing.assert_close(c.diagonal().flatten(), matrix.diagonal(), **EXACT)
    torch.testing.assert_close(dense(c.scaled(0.3).matvec), 0.3 * matrix, **EXACT)


def test_its_root_and_its_draws_have_its_covariance():
    c, matrix = update(), dense(update().matvec)
    found = root(c)
    b = found.spread(torch.eye(found.size, dtype=torch.float64)).flatten(1).T
    torch.testing.assert_close(b @ b.T, matrix, **EXACT)
    torch.testing.assert_close(found.gather(torch.eye(SIZE, dtype=torch.float64).reshape(-1, *SHAPE)), b, **EXACT)
    n, variance = 20000, matrix.diagonal()
    x = c.draw(range(n), torch.float64).flatten(1)
    error = ((variance[:, None] * variance + matrix**2) / n).sqrt()
    assert ((x.T @ x / n - matrix) / error).abs().max() < 6
