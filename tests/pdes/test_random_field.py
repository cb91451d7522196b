"""Gaussian random fields: their law, and one seed names one field at every resolution."""

from __future__ import annotations

import numpy as np
import pytest
import scipy.fft
import torch

from pdediff.pdes.random_field import cosine_field, periodic_deviation, periodic_field


def test_cosine_field_is_the_same_field_on_a_finer_grid() -> None:
    coarse, fine = (cosine_field((11, 12), n, 2.0, 3.0).numpy() for n in (12, 48))
    # amplitudes of the normalised cosines: orthonormal discrete coefficients divided by the grid
    modes = [scipy.fft.dctn(field, axes=(1, 2), norm="ortho") / field.shape[-1] for field in (coarse, fine)]
    np.testing.assert_allclose(modes[1][:, :12, :12], modes[0], atol=1e-14)
    assert np.abs(modes[1][:, 12:, 12:]).max() > 1e-5


def test_cosine_field_has_its_covariance() -> None:
    alpha, tau, draws = 2.0, 3.0, 4000
    field = cosine_field(range(draws), 8, alpha, tau).numpy()
    x = (np.arange(8) + 0.5) / 8
    for k_y, k_x in ((1, 0), (0, 2), (1, 2), (3, 3)):
        phi = np.cos(np.pi * k_y * x)[:, None] * np.cos(np.pi * k_x * x)[None, :]
        phi *= np.sqrt(2.0) ** ((k_y > 0) + (k_x > 0))
        amplitude = (field * phi).mean((1, 2))
        expected = tau ** (2 * alpha - 2) * (np.pi**2 * (k_x**2 + k_y**2) + tau**2) ** -alpha
        # the estimate of a variance from 4000 normals has relative deviation sqrt(2 / 4000) = 2.2 %
        assert abs(amplitude.var() / expected - 1.0) < 0.09
    assert np.abs(field.mean((1, 2))).max() < 1e-14


@pytest.mark.parametrize("dims", [1, 2, 3])
def test_periodic_field_is_the_same_field_on_a_finer_grid(dims: int) -> None:
    axes = tuple(range(1, dims + 1))
    coarse, fine = (
        torch.fft.fftn(periodic_field((5, 6), n, 4.0, 3.0, dims), dim=axes, norm="forward") for n in (16, 48)
    )
    live = torch.arange(-5, 6)
    pick = (slice(None), *torch.meshgrid(*[live] * dims, indexing="ij"))
    torch.testing.assert_close(fine[pick], coarse[pick], atol=1e-15, rtol=0.0)
    assert (coarse.abs() > 1e-12).sum() == 2 * (11**dims - 1), "every live mode but the mean, and no other"


def test_periodic_field_of_two_dimensions_keeps_its_numbers() -> None:
    # stored data sets were drawn from these
    field = periodic_field((3,), 12, 6.0, 4.0)
    expected = torch.tensor([1.332474579993649, 1.511268353449471, 1.5303658717196014], dtype=torch.float64)
    torch.testing.assert_close(field[0, 3, :3], expected, atol=1e-14, rtol=0.0)


def test_deviation_of_one_dimension_by_hand() -> None:
    # variance: 2 sum over k > 0 of 2 (k^2 + 4)^-2, of which k = 1, 2, 3 give 4 (1/25 + 1/64 + 1/169)
    k = torch.arange(1.0, 65.0, dtype=torch.float64)
    assert abs(periodic_deviation(2.0, 2.0, 1) - float((4.0 * (k**2 + 4.0) ** -2).sum().sqrt())) < 1e-14
    field = periodic_field(range(3000), 48, 2.0, 2.0, 1)
    assert abs(field.square().mean().sqrt() - 1.0) < 0.02


def test_periodic_field_has_unit_variance_and_its_spectrum() -> None:
    field = periodic_field(range(2000), 48, 6.0, 4.0)
    spectrum = torch.fft.fft2(field, norm="forward").abs().square().mean(0)
    assert abs(field.square().mean().sqrt() - 1.0) < 0.02
    # mode (0, 1) to (3, 2), of either sign: ratio (13 + 16)^6 / (1 + 16)^6 with relative deviation sqrt(2 / 2000)
    for a, b in (((0, 1), (3, 2)), ((1, 0), (-2, 3))):
        assert abs(spectrum[a] / spectrum[b] / (29.0 / 17.0) ** 6 - 1.0) < 0.13
