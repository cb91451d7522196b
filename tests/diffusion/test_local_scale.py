"""The value-conditioned error: against the closed form of a two-phase field, and by hand."""

from __future__ import annotations

import pytest
import torch

from pdediff.diffusion import LocalScale, measure_scale
from pdediff.diffusion.local_scale import local_ratio, value_edges
from pdediff.types import normal, uniform

SIGMAS = (0.6, 1.5)


def two_phase(sigma: float, n: int = 400, points: int = 64) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Independent signs, their exact denoiser tanh(x / sigma^2) and its errors."""
    x0 = torch.where(uniform(range(n), (1, points)) < 0.5, -1.0, 1.0).double()
    x = x0 + sigma * normal(range(n, 2 * n), (1, points), dtype=torch.float64)
    denoised = torch.tanh(x / sigma**2)
    return x0, denoised, x0 - denoised


def test_a_value_that_says_nothing_of_the_error_gives_no_table():
    """Errors of a Gaussian do not depend on the estimate; those of two phases do."""
    fields = normal(range(200), (1, 64), dtype=torch.float64)
    pairs = [(fields, 0.3 * normal(range(1000 * k, 1000 * k + 200), (1, 64), dtype=torch.float64)) for k in (1, 2)]
    assert measure_scale(pairs, SIGMAS, fields) is None
    assert measure_scale([two_phase(s)[1:] for s in SIGMAS], SIGMAS, two_phase(SIGMAS[0])[0]) is not None
    assert LocalScale.from_tensors({}) is None


def test_two_phase_error_is_one_minus_the_square_of_the_estimate():
    """E[(x0 - D)^2 | D] = 1 - D^2 for signs; each bin holds over 300 points, 7 standard errors of a bounded square."""
    x0, denoised, errors = two_phase(SIGMAS[0])
    edges = value_edges(x0)
    ratio = local_ratio(denoised, errors, edges, prior_count=0.0)
    average = errors.square().mean()
    which = torch.bucketize(denoised[:, 0].contiguous(), edges[0]).flatten()
    checked = 0
    for b in range(edges.shape[1] + 1):
        here = which == b
        if here.sum() < 300:
            continue
        expected = (1 - denoised.flatten()[here] ** 2).mean()
        spread = errors.flatten()[here].square().std() / here.sum() ** 0.5
        # place-wise averages scatter by sqrt(2 / 400) about the common one
        assert abs(ratio[0, b] * average - expected) < 7 * spread + 0.1 * expected
        checked += 1
    assert checked >= 8


def test_mean_ratio_is_one_and_empty_bins_say_nothing():
    x0, denoised, errors = two_phase(SIGMAS[1])
    edges = value_edges(x0)
    ratio = local_ratio(denoised, errors, edges, prior_count=50.0)
    which = torch.bucketize(denoised[:, 0].contiguous(), edges[0])
    assert ratio[0][which].mean() == pytest.approx(1.0, abs=0.02)
    counts = torch.bincount(which.flatten(), minlength=edges.shape[1] + 1)
    assert (ratio[0][counts == 0] == 1).all()


def test_scale_interpolates_in_log_sigma_and_reads_each_channel():
    """At the geometric mean of two levels the ratio is the average; outside it stays."""
    edges = torch.tensor([[0.0], [1.0]])
    ratio = torch.tensor([[[1.0, 4.0], [9.0, 1.0]], [[3.0, 16.0], [1.0, 1.0]]])
    scale = LocalScale((0.1, 10.0), edges, ratio)
    d = torch.tensor([[[-1.0, 1.0], [0.0, 2.0]]])
    expected = torch.tensor([[[2.0, 10.0], [5.0, 1.0]]]).sqrt()
    torch.testing.assert_close(scale(d, 1.0), expected)
    torch.testing.assert_close(scale(d, 0.01), ratio[0][[[0, 0], [1, 1]], [[0, 1], [0, 1]]].sqrt()[None])
    torch.testing.assert_close(scale(d, 99.0), ratio[1][[[0, 0], [1, 1]], [[0, 1], [0, 1]]].sqrt()[None])


def test_checkpoint_round_trip():
    pairs = [two_phase(s)[1:] for s in SIGMAS]
    scale = measure_scale(pairs, SIGMAS, two_phase(SIGMAS[0])[0])
    again = LocalScale.from_tensors(scale.tensors())
    d = pairs[0][0][:3].float()
    assert again.sigmas == SIGMAS
    torch.testing.assert_close(again(d, 0.9), scale(d, 0.9))
