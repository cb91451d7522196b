"""Scores of forecasts on fields whose errors are known by hand."""

from __future__ import annotations

import numpy as np
import pytest

from pdediff.metrics import rollout

X = np.arange(32) / 32
WAVE = np.cos(2 * np.pi * X)


def test_errors_of_a_scaled_wave() -> None:
    truth = np.stack([WAVE, 2 * WAVE])
    found = 1.1 * truth
    np.testing.assert_allclose(rollout.nrmse(found, truth, 1), 0.1, rtol=1e-12)
    np.testing.assert_allclose(rollout.vrmse(found, truth, 1), 0.1, rtol=1e-12)
    np.testing.assert_allclose(rollout.correlation(found, truth, 1), 1.0, rtol=1e-12)


def test_variance_normalises_where_there_is_a_mean() -> None:
    truth = 3.0 + WAVE  # rms sqrt(9.5), std sqrt(0.5)
    found = truth + 0.1
    assert rollout.nrmse(found, truth, 1) == pytest.approx(0.1 / np.sqrt(9.5))
    assert rollout.vrmse(found, truth, 1) == pytest.approx(0.1 / np.sqrt(0.5))
    assert rollout.vrmse(np.full_like(truth, 3.0), truth, 1) == pytest.approx(1.0)
    assert rollout.correlation(np.full_like(truth, 3.0), truth, 1) == 0.0


def test_correlation_of_shifted_waves() -> None:
    for angle in (0.0, 0.3, 1.0, 3.0):
        shifted = 5.0 + 2.0 * np.cos(2 * np.pi * X + angle)
        assert rollout.correlation(shifted, WAVE, 1) == pytest.approx(np.cos(angle), abs=1e-12)


def test_sobolev_error_weighs_by_wave_number() -> None:
    """Error cos(2 pi 3 x / L) of size 0.1 on cos(2 pi x / L): sqrt((1 + k3^2) / (1 + k1^2)) / 10."""
    length = 5.0
    found = WAVE + 0.1 * np.cos(6 * np.pi * X)
    one, three = 2 * np.pi / length, 6 * np.pi / length
    expected = 0.1 * np.sqrt((1 + three**2) / (1 + one**2))
    assert rollout.h1_error(found, WAVE, [length]) == pytest.approx(expected, rel=1e-12)


def test_bands_hold_their_waves() -> None:
    """Waves 1, 4 and 8 of at most 16 lie at 1/16, 1/4 and 1/2: one in each band."""
    waves = [np.cos(2 * np.pi * k * X) for k in (1, 4, 8)]
    truth = sum(waves)
    found = 1.1 * waves[0] + 1.2 * waves[1] + 1.3 * waves[2]
    np.testing.assert_allclose(rollout.band_error(found, truth, 1), [0.1, 0.2, 0.3], rtol=1e-10)


def test_bands_are_radial_in_two_dimensions() -> None:
    y, x = np.meshgrid(X, X[:16] * 2, indexing="ij")
    truth = np.cos(2 * np.pi * x) + np.cos(2 * np.pi * (4 * y + 2 * x))  # radii 1/8 and sqrt(2) / 4
    found = truth + 0.5 * np.cos(2 * np.pi * (4 * y + 2 * x))
    np.testing.assert_allclose(rollout.band_error(found, truth, 2)[[0, 2]], [0.0, 0.5], atol=1e-10)


@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_what_is_not_finite_is_wrong(bad: float) -> None:
    found = np.stack([WAVE, WAVE])
    found[1, 3] = bad
    truth = np.stack([WAVE, WAVE])
    assert rollout.correlation(found, truth, 1).tolist() == [pytest.approx(1.0), 0.0]
    for score in (rollout.nrmse(found, truth, 1), rollout.vrmse(found, truth, 1), rollout.h1_error(found, truth, [1])):
        assert score[0] < 1e-12
        assert score[1] == np.inf
    assert np.isinf(rollout.band_error(found, truth, 1)[1]).all()
    assert rollout.blown_up(found, truth, 1).tolist() == [False, True]


def test_blow_up_is_ten_times_the_truth() -> None:
    found = np.stack([9.9 * WAVE, 10.1 * WAVE])
    assert rollout.blown_up(found, WAVE, 1).tolist() == [False, True]


def test_high_correlation_time_is_that_of_the_mean_over_cases() -> None:
    values = np.array([[0.99, 0.9, 0.7, 0.1], [0.99, 0.8, 0.9, 0.95]])
    times = np.array([1.0, 2.0, 3.0, 4.0])
    assert rollout.high_correlation_time(values, times, 0.95) == 2.0
    assert rollout.high_correlation_time(values, times, 0.82) == 3.0
    assert rollout.high_correlation_time(values, times, 0.5) == 4.0
    values[0, 0] = np.nan  # a blow-up is no perfect score
    assert rollout.high_correlation_time(values, times, 0.6) == 1.0


def test_equivalent_error_is_log_linear() -> None:
    errors, times = np.array([1e-2, 1e-3, 1e-4]), np.array([40.0, 60.0, 90.0])
    assert rollout.equivalent_error(40.0, errors, times) == pytest.approx(1e-2)
    assert rollout.equivalent_error(50.0, errors, times) == pytest.approx(10**-2.5)
    assert rollout.equivalent_error(75.0, errors, times) == pytest.approx(10**-3.5)
    assert rollout.equivalent_error(120.0, errors, times) == pytest.approx(1e-5)
    assert rollout.equivalent_error(20.0, errors, times) == pytest.approx(1e-1)
    cut = np.minimum(times, 60.0)
    assert rollout.equivalent_error(50.0, errors, cut) == pytest.approx(10**-2.5)
    assert np.isnan(rollout.equivalent_error(50.0, errors, np.minimum(times, 40.0)))


def test_histogram_distance_of_a_shift() -> None:
    assert rollout.histogram_distance(WAVE + 0.3, WAVE) == pytest.approx(0.3 / WAVE.std())
    assert rollout.histogram_distance(np.full(4, np.nan), WAVE) == np.inf


def test_shapes_that_do_not_fit() -> None:
    with pytest.raises(ValueError, match="must agree in the last 1 axes"):
        rollout.nrmse(WAVE[:-1], WAVE, 1)
