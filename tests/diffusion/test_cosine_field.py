"""Fields that are diagonal in cosines: every product against the full matrix, every density against autograd."""

from __future__ import annotations

import math

import pytest
import scipy.fft
import torch

from pdediff.diffusion import CosineCovariance, CosineFieldPrior, GaussianPrior
from pdediff.diffusion.cosine_field import from_cosines, to_cosines
from pdediff.types import normal

SHAPES = [(1, 7), (2, 5, 6), (1, 3, 4, 5)]


def made(shape: tuple[int, ...]) -> tuple[CosineFieldPrior, GaussianPrior]:
    """A prior and the same one by its matrix."""
    mean, spectrum = normal((1, 2), shape, dtype=torch.float64)
    prior = CosineFieldPrior(mean, spectrum.exp())
    unit = torch.eye(mean.numel(), dtype=torch.float64).reshape(-1, *shape)
    return prior, GaussianPrior(mean, prior.error(math.inf).matvec(unit).flatten(1))


@pytest.mark.parametrize("shape", SHAPES)
def test_the_transform_is_the_orthonormal_cosine_transform(shape: tuple[int, ...]) -> None:
    v = normal((3, 4), shape, dtype=torch.float64)
    axes = tuple(range(2, v.dim()))
    wanted = torch.from_numpy(scipy.fft.dctn(v.numpy(), type=2, norm="ortho", axes=axes))
    torch.testing.assert_close(to_cosines(v), wanted, rtol=0, atol=1e-13)
    torch.testing.assert_close(from_cosines(to_cosines(v)), v, rtol=0, atol=1e-13)


@pytest.mark.parametrize("shape", SHAPES)
def test_all_that_a_covariance_does_is_what_its_matrix_does(shape: tuple[int, ...]) -> None:
    prior, full = made(shape)
    covariance = prior.error(math.inf)
    assert isinstance(covariance, CosineCovariance)
    v = normal((3, 4), shape, dtype=torch.float64)
    torch.testing.assert_close(covariance.solve(covariance.matvec(v)), v, rtol=0, atol=1e-12)
    torch.testing.assert_close(covariance.sqrt(covariance.sqrt(v)), covariance.matvec(v), rtol=0, atol=1e-12)
    torch.testing.assert_close(covariance.diagonal(), full.covariance.diagonal().reshape(shape))
    torch.testing.assert_close(covariance.scaled(3.0).matvec(v), 3.0 * covariance.matvec(v))
    torch.testing.assert_close(
        covariance.draw((5, 6), torch.float64), covariance.sqrt(normal((5, 6), shape, dtype=torch.float64))
    )


@pytest.mark.parametrize("shape", SHAPES)
def test_the_prior_is_the_gaussian_of_its_matrix(shape: tuple[int, ...]) -> None:
    prior, full = made(shape)
    x, sigma = normal((7, 8), shape, dtype=torch.float64), torch.tensor([0.3, 2.0], dtype=torch.float64)
    for ours, wanted in (
        (prior(x, sigma), full(x, sigma)),
        (prior.score(x, sigma), full.score(x, sigma)),
        (prior.log_prob(x, sigma), full.log_prob(x, sigma)),
        (prior.flow(x, 2.0, 0.1), full.flow(x, 2.0, 0.1)),
        (prior.error(0.7).matvec(x), full.error(0.7).matvec(x)),
        (prior.error(0.7).diagonal(), full.error(0.7).diagonal()),
    ):
        torch.testing.assert_close(ours, wanted, rtol=1e-10, atol=1e-11)
    assert prior.error_scale(x, 1.0) is None


def test_modes_without_variance_stay_at_the_mean() -> None:
    """A zero-mean field has no constant mode: the denoiser removes it at every level, and no draw has it."""
    spectrum = torch.ones(1, 4, 4, dtype=torch.float64)
    spectrum[0, 0, 0] = 0.0
    prior = CosineFieldPrior(torch.zeros(1, 4, 4, dtype=torch.float64), spectrum)
    x, sigma = normal((1, 2), (1, 4, 4), dtype=torch.float64), torch.tensor([1e-3, 80.0], dtype=torch.float64)
    torch.testing.assert_close(prior(x, sigma).mean((-2, -1)), torch.zeros(2, 1, dtype=torch.float64))
    drawn = prior.error(math.inf).draw((3,), torch.float64)
    assert float(drawn.mean().abs()) < 1e-14
