"""Noise fields: unit variance, keyed rows, and one law on all grids."""

from __future__ import annotations

import math

import pytest
import torch

from pdediff.diffusion import GaussianRandomField, WhiteNoise

NOISES = {"white": WhiteNoise(), "field": GaussianRandomField(0.1, 2.0), "rough": GaussianRandomField(0.05, 1.5)}


@pytest.mark.parametrize("name", NOISES)
@pytest.mark.parametrize("shape", [(1, 16), (2, 8, 8), (1, 4, 4, 6)])
def test_unit_point_variance(name, shape):
    diagonal = NOISES[name].covariance(shape).diagonal()
    torch.testing.assert_close(diagonal, torch.ones(shape, dtype=torch.float64))


@pytest.mark.parametrize("name", NOISES)
def test_rows_are_keyed_by_their_seed(name):
    noise, shape = NOISES[name], (2, 6, 6)
    all_rows = noise.sample((11, 12, 13), shape, torch.float64)
    torch.testing.assert_close(noise.sample((13,), shape, torch.float64)[0], all_rows[2], rtol=0, atol=1e-13)
    assert not torch.equal(all_rows[0], all_rows[1])
    assert noise.sample((11,), shape).dtype == torch.float32


@pytest.mark.parametrize("name", NOISES)
def test_samples_have_the_covariance(name):
    noise, shape = NOISES[name], (1, 4, 4)
    matrix = noise.covariance(shape).matvec(torch.eye(16, dtype=torch.float64).reshape(16, 1, 4, 4)).flatten(1)
    x = noise.sample(range(20000), shape, torch.float64).flatten(1)
    error = ((matrix**2 + 1) / len(x)).sqrt()  # of one entry; 256 entries at six errors: false alarm 5e-7
    assert ((x.T @ x / len(x) - matrix).abs() / error).max() < 6


@pytest.mark.parametrize("space", [(32,), (16, 16)])
def test_same_law_on_two_grids(space):
    """Fourier amplitude variances of the shared modes agree between a grid and one twice as fine.

    They are eigenvalue / points. Their ratio is one number for all modes (the unit variance is shared out over more
    modes), and tends to one because the spectrum is summable: here within the share of the modes that were added.
    """
    noise = GaussianRandomField(0.2, 2.5)
    fine_space = tuple(2 * n for n in space)
    coarse, fine = (noise.covariance((1, *s)).spectrum[0] / math.prod(s) for s in (space, fine_space))
    shared = fine
    for axis, n in enumerate(space):
        keep = [k % (2 * n) for k in range(-(n // 2) + 1, n // 2)]  # without the mode that aliases with its mirror
        shared = shared.index_select(axis, torch.tensor(keep))
        coarse = coarse.index_select(axis, torch.tensor([k % n for k in range(-(n // 2) + 1, n // 2)]))
    ratio = shared / coarse
    torch.testing.assert_close(ratio, torch.full_like(ratio, float(ratio.flatten()[0])), rtol=1e-12, atol=0)
    added = 1 - float(shared.sum())
    assert 0 < 1 - float(ratio.flatten()[0]) <= added < 0.02


def test_spectrum_by_hand():
    """Four points in the unit box: wave numbers 0, 2 pi, 4 pi, 2 pi and (1 + (l k)^2)^-1 with l = 1 / (2 pi)."""
    spectrum = GaussianRandomField(1 / (2 * math.pi), 1.0).covariance((1, 4)).spectrum[0]
    expected = torch.tensor([1.0, 1 / 2, 1 / 5, 1 / 2], dtype=torch.float64)
    torch.testing.assert_close(spectrum, expected / expected.mean())
