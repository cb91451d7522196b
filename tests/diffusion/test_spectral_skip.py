"""The Wiener filter under a network: exact for Gaussian fields, never worse than one number times every point."""

from __future__ import annotations

import math
from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn

from pdediff.diffusion import (
    CosineCovariance,
    CosineFieldPrior,
    DenoisingLoss,
    GaussianFieldPrior,
    GaussianRandomField,
    NoiseLevels,
    SpectralSkip,
    WhiteNoise,
    matern_field,
    precondition,
)
from pdediff.diffusion.cosine_field import inside, known_margin, padded

SIGMAS = (0.05, 0.4, 3.0)


class Given(nn.Module):
    """A network that notes its input and gives a number."""

    def __init__(self, value: float) -> None:
        super().__init__()
        self.value, self.seen = value, torch.zeros(0)

    def forward(self, x: Tensor, label: Tensor) -> Tensor:
        self.seen = x
        return torch.full_like(x[:, : x.shape[1] // 2], self.value)


def cosine_prior() -> CosineFieldPrior:
    k = torch.arange(12, dtype=torch.float64)
    spectrum = 40 / (1 + k[:, None] ** 2 + k**2) ** 2
    return CosineFieldPrior(torch.full((1, 12, 12), 0.7, dtype=torch.float64), spectrum[None])


def phases(n: int, seed: int) -> Tensor:
    """Two channels that are no Gaussian field and depend on one another: signs of a smooth field, and its square."""
    g = cosine_prior().error(math.inf).draw(range(seed, seed + n), torch.float64)
    return torch.cat([g.sign(), 0.1 * g**2], 1)


def levels(sigma: float, n: int) -> Tensor:
    return torch.full((n,), sigma, dtype=torch.float64)


@pytest.mark.parametrize(
    ("prior", "periodic"),
    [
        (cosine_prior, False),
        (lambda: matern_field((12, 10), length=0.2, smoothness=2.0, channels=2), True),
        (
            lambda: GaussianFieldPrior(
                torch.zeros(1, 24, dtype=torch.float64),
                GaussianRandomField(0.2, 1.0).covariance((1, 24)).spectrum,
                GaussianRandomField(0.05, 1.0),
            ),
            True,
        ),
    ],
    ids=["cosines", "periodic", "coloured noise"],
)
def test_it_is_the_exact_denoiser_of_a_gaussian_set(prior: Callable[[], CosineFieldPrior], periodic: bool) -> None:
    exact, n = prior(), 6000
    fields = exact.mean + exact.error(math.inf).draw(range(n), torch.float64)
    skip = SpectralSkip.of(fields, exact.noise, periodic=periodic)
    for sigma in SIGMAS:
        x0 = exact.mean + exact.error(math.inf).draw(range(n, n + 400), torch.float64)
        x = x0 + sigma * exact.noise.sample(range(2 * n, 2 * n + 400), x0.shape[1:], torch.float64)
        wanted = exact(x, levels(sigma, 400))
        gap = (skip(x, levels(sigma, 400)) - wanted).square().mean().sqrt()
        # The power of a mode is known to sqrt(2 / n) = 0.018, its mean to 1 / sqrt(n): the gap to the exact denoiser
        # is at most that share of the error, and of what lies in the few modes that the noise hides.
        assert float(gap) < 0.05 * float((x0 - wanted).square().mean().sqrt())
        trace = float(exact.error(sigma).diagonal().mean())
        assert float(skip.std(levels(sigma, 1)).square().mean()) == pytest.approx(trace, rel=0.05)


def test_it_errs_as_it_says_and_less_than_one_number_for_all_modes() -> None:
    """On fields that are not Gaussian, whose channels know of one another; the noise averaged in closed form."""
    fields = phases(600, 0)
    skip = SpectralSkip.of(fields, WhiteNoise(), periodic=False)
    variance = (fields - fields.mean(0)).square().mean((0, 2, 3))
    for sigma in SIGMAS:
        noise = torch.randn(4, *fields.shape, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
        error = torch.stack([skip(fields + sigma * e, levels(sigma, 600)) - fields for e in noise])
        found = error.square().mean((0, 1, 3, 4))
        told = skip.std(levels(sigma, 1))[0].double() ** 2
        # The fields are given; 2400 of noise in 144 modes: known to sqrt(2 / 345600), to 3 % at one mode in a hundred.
        torch.testing.assert_close(found, told, rtol=0.03, atol=0)
        isotropic = variance * sigma**2 / (variance + sigma**2)
        assert bool((told < isotropic).all())
        alone = [
            SpectralSkip.of(fields[:, c : c + 1], WhiteNoise(), periodic=False).std(levels(sigma, 1)) for c in (0, 1)
        ]
        assert bool((told.sqrt() <= torch.cat(alone, 1)[0].double() * (1 + 1e-4)).all())


def test_channels_help_one_another() -> None:
    """A field seen twice with independent noise is known better: its error is that of half the noise variance."""
    g = cosine_prior().error(math.inf).draw(range(500), torch.float64)
    twice, once = (SpectralSkip.of(f, WhiteNoise(), periodic=False) for f in (torch.cat([g, g], 1), g))
    found, wanted = twice.std(levels(0.5, 1))[0], once.std(levels(0.5 / math.sqrt(2), 1))[0, 0]
    torch.testing.assert_close(found, wanted.expand(2), rtol=1e-4, atol=0)


def test_the_network_is_given_unit_inputs_and_asked_for_unit_outputs() -> None:
    fields = phases(200, 3)
    skip = SpectralSkip.of(fields, WhiteNoise(), periodic=False)
    x, sigma = fields + 0.3 * torch.randn(fields.shape, generator=torch.Generator().manual_seed(0)), levels(0.3, 200)
    network = Given(2.0)
    found = precondition(network, x, sigma, 1.5, skip)
    linear = skip(x, sigma)
    torch.testing.assert_close(found, linear + 2.0 * skip.std(sigma)[:, :, None, None], rtol=1e-6, atol=1e-6)
    torch.testing.assert_close(network.seen[:, :2], x / math.sqrt(0.3**2 + 1.5**2), rtol=1e-12, atol=0)
    torch.testing.assert_close(network.seen[:, 2:], linear, rtol=0, atol=0)
    # A network that gives 0 has the loss 1: the mean over the channels of the error that W has.
    loss = DenoisingLoss(WhiteNoise(), NoiseLevels(), 0, skip=skip)
    eps = torch.randn(fields.shape, dtype=torch.float64, generator=torch.Generator().manual_seed(2))
    assert float(loss.at(Given(0.0), fields, eps, sigma).mean()) == pytest.approx(1.0, abs=0.05)


def test_known_edges_are_left_out() -> None:
    g = cosine_prior().error(math.inf).draw(range(3000), torch.float64)
    fields = 2.0 + torch.nn.functional.pad(g, (2, 0, 1, 1))
    assert known_margin(fields) == ((1, 1), (2, 0))
    assert known_margin(g) == ()
    assert known_margin(fields[:1]) == ()  # of one field nothing is known to vary
    skip = SpectralSkip.of(fields, WhiteNoise(), periodic=False)
    inner = SpectralSkip.of(g, WhiteNoise(), periodic=False)
    x = fields[:50] + 0.4 * torch.randn(50, *fields.shape[1:], generator=torch.Generator().manual_seed(5))
    found, wanted = skip(x, levels(0.4, 50)), inner(inside(x, skip.margin) - 2.0, levels(0.4, 50))
    torch.testing.assert_close(found, 2.0 + padded(wanted, skip.margin), rtol=1e-6, atol=1e-6)
    torch.testing.assert_close(skip.std(levels(0.4, 1)), inner.std(levels(0.4, 1)), rtol=1e-6, atol=0)
    corrected = precondition(Given(5.0), x, levels(0.4, 50), 1.0, skip)
    assert bool((corrected[:, :, 0] == found[:, :, 0]).all())
    assert bool((corrected[:, :, 1:-1, 2:] != found[:, :, 1:-1, 2:]).all())


@pytest.mark.parametrize("periodic", [True, False])
def test_tensors_round_trip(periodic: bool) -> None:
    fields = torch.nn.functional.pad(phases(40, 0), (1, 0, 0, 0)).float()
    skip = SpectralSkip.of(fields, GaussianRandomField(), periodic=periodic)
    again = SpectralSkip.from_tensors(skip.tensors(), periodic=periodic)
    assert again is not None
    assert again.margin == (() if periodic else ((0, 0), (1, 0)))
    sigma = torch.full((40,), 0.2)
    assert torch.equal(again(fields, sigma), skip(fields, sigma))
    assert torch.equal(again.std(sigma), skip.std(sigma))
    assert SpectralSkip.from_tensors({}, periodic=periodic) is None


def test_cosines_in_a_box_are_a_matrix_with_zeros_around() -> None:
    c = CosineCovariance(cosine_prior().spectrum[:, :3, :4], ((1, 0), (0, 2)))
    assert c.shape == (1, 4, 6)
    matrix = c.matvec(torch.eye(24, dtype=torch.float64).reshape(24, 1, 4, 6)).flatten(1)
    inner = CosineCovariance(c.spectrum).matvec(torch.eye(12, dtype=torch.float64).reshape(12, 1, 3, 4)).flatten(1)
    place = padded(torch.arange(1.0, 13.0).reshape(1, 1, 3, 4), c.margin).flatten().long()
    wanted = torch.nn.functional.pad(inner, (1, 0, 1, 0))[place][:, place]
    torch.testing.assert_close(matrix, wanted, rtol=0, atol=1e-12)
    torch.testing.assert_close(c.diagonal().flatten(), matrix.diagonal(), rtol=0, atol=1e-12)
    v = torch.randn(3, 1, 4, 6, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    torch.testing.assert_close(c.solve(v).flatten(1), v.flatten(1) @ torch.linalg.pinv(matrix), rtol=0, atol=1e-9)
    torch.testing.assert_close(c.sqrt(c.sqrt(v)), c.matvec(v), rtol=0, atol=1e-12)
    assert c.scaled(2.0).margin == c.margin
