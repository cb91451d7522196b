"""Errors and spectra: worked examples by hand, single waves, Parseval."""

import numpy as np
import pytest

from pdediff.metrics import (
    mean_spectrum,
    misclassified,
    radial_spectrum,
    relative_l2,
    relative_l2_of_draws,
    rmse,
    spectral_error,
)


def test_errors_by_hand():
    truth, estimate = np.array([3.0, 4.0]), np.array([3.0, 1.0])
    assert relative_l2(estimate, truth) == pytest.approx(3.0 / 5.0)
    assert rmse(estimate, truth) == pytest.approx(3.0 / np.sqrt(2.0))
    draws = np.stack([truth, estimate])
    assert relative_l2_of_draws(draws, truth) == pytest.approx(0.3)
    assert relative_l2_of_draws(draws, truth, np.log([3.0, 1.0])) == pytest.approx(0.15)
    assert np.isnan(relative_l2(estimate, np.zeros(2)))


def test_misclassified_by_hand():
    truth, estimate = np.array([[3.0, 12.0], [12.0, 3.0]]), np.array([[4.0, 7.6], [7.4, 11.0]])
    assert misclassified(estimate, truth, 7.5) == 0.5
    with pytest.raises(ValueError, match="one shape"):
        misclassified(estimate, truth[0], 7.5)


@pytest.mark.parametrize("shape", [(16,), (16, 24), (9, 7)])
@pytest.mark.parametrize("boundary", ["periodic", "bounded"])
def test_powers_sum_to_the_mean_square(shape, boundary):
    field = np.random.default_rng(0).normal(size=(3, *shape)) + 2.0
    power = radial_spectrum(field, (1.5, 2.0)[: len(shape)], boundary)[1]
    np.testing.assert_allclose(power.sum(axis=-1), np.square(field).reshape(3, -1).mean(axis=1), rtol=1e-12)


def test_periodic_wave_by_hand():
    # 3 cycles along x and 4 along y over a box of side 2: wavenumber 5/2; 2 cos^2 has mean 1
    x = np.arange(32) / 32.0
    wave = np.sqrt(2.0) * np.cos(2 * np.pi * (4 * x[:, None] + 3 * x[None, :]))
    wavenumber, power = radial_spectrum(wave, (2.0, 2.0), "periodic")
    assert wavenumber[np.argmax(power)] == pytest.approx(2.5)
    assert power.max() == pytest.approx(1.0, rel=1e-12)
    assert np.delete(power, np.argmax(power)).max() < 1e-25


def test_bounded_half_wave_by_hand():
    # cos(pi * 3 x / L) at cell centres is the mode p = 3 alone: wavenumber 3 / (2 L) = 0.75, power 1/2
    x = (np.arange(20) + 0.5) / 20.0
    wavenumber, power = radial_spectrum(np.cos(3 * np.pi * x), (2.0,), "bounded")
    assert wavenumber[np.argmax(power)] == pytest.approx(0.75)
    assert power.max() == pytest.approx(0.5, rel=1e-12)
    assert np.delete(power, 3).max() < 1e-25


def test_a_ramp_has_less_false_power_in_the_cosine_transform():
    """A ramp is smooth inside but jumps at a periodic edge: k^-2 tail of the one, k^-4 of the other."""
    ramp = np.linspace(-1.0, 1.0, 64)
    periodic, bounded = (mean_spectrum(ramp[None], (1.0,), b)[1] for b in ("periodic", "bounded"))
    assert bounded[-8:].sum() < 1e-2 * periodic[-8:].sum()


def test_mean_spectrum_weights_draws_averages_time_and_stops_at_nyquist():
    x = np.arange(16) / 16.0
    draws = np.stack([np.ones((2, 16)), np.sqrt(2) * np.cos(2 * np.pi * 2 * x) * np.ones((2, 1))])
    wavenumber, power = mean_spectrum(draws, (1.0,), "periodic", np.log([1.0, 3.0]))
    assert wavenumber[-1] == 8.0
    assert power[0] == pytest.approx(0.25)
    assert power[2] == pytest.approx(0.75)


def test_spectral_error_by_hand():
    truth = np.array([5.0, 1.0, 0.1, 0.01])
    assert spectral_error(truth * np.array([9.0, 10.0, 0.1, 1.0]), truth) == pytest.approx(2.0 / 3.0)
    quiet = np.array([1.0, 1.0, 1e-16, 1e-18])
    assert spectral_error(np.array([1.0, 1.0, 1e-13, 1e-15]), quiet) == 0.0  # rounding noise is not compared
