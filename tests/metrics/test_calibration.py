"""Calibration scores: worked examples by hand, closed forms, and exactness for any number of draws."""

import numpy as np
import pytest
import scoringrules
from scipy.special import ndtr

from pdediff.metrics import (
    chi_square,
    coverage,
    crps,
    energy_score,
    rank_cell,
    rank_histogram,
    spread,
    spread_skill,
    uniformity,
    weighted_quantile,
)

TWO_THIRDS = np.log([2.0, 1.0, 1.0])  # weights 1/2, 1/4, 1/4


def column(*values):
    return np.array(values, dtype=np.float64)[:, None]


def test_crps_by_hand():
    # draws 0, 1, 3 and truth 2: E|X-y| = (2+1+1)/3 = 4/3; distinct pairs |1|+|3|+|2| over 3 = 2; 4/3 - 1.
    assert crps(column(0, 1, 3), np.array([2.0])) == pytest.approx(1.0 / 3.0, abs=1e-14)


def test_weighted_crps_by_hand():
    # weights 1/2, 1/4, 1/4: E|X-y| = 1 + 1/4 + 1/4 = 3/2. All pairs: 2 (1/8*1 + 1/8*3 + 1/16*2) = 5/4;
    # distinct pairs: / (1 - 1/4 - 1/16 - 1/16) = / (5/8) = 2. So 3/2 - 1.
    assert crps(column(0, 1, 3), np.array([2.0]), TWO_THIRDS) == pytest.approx(0.5, abs=1e-14)


def test_one_draw_scores_its_absolute_error():
    assert crps(column(5), np.array([2.0])) == pytest.approx(3.0)


def test_collapsed_weights_get_no_credit_for_spread():
    """All weight on a draw 3 off with another far away: the fair factor is capped, so the score stays at 3."""
    nearly = np.log([1.0 - 1e-9, 1e-9])
    assert crps(column(5, 105), np.array([2.0]), nearly) == pytest.approx(3.0, abs=1e-5)


@pytest.mark.parametrize("weighted", [False, True])
def test_crps_agrees_with_scoringrules_fair_estimator(weighted):
    rng = np.random.default_rng(0)
    draws, truth = rng.normal(size=(17, 5, 4)), rng.normal(size=(5, 4))
    log_weights = rng.normal(size=17) if weighted else np.zeros(17)
    weights = np.exp(log_weights) / np.exp(log_weights).sum()
    members = np.moveaxis(draws, 0, -1)
    wanted = scoringrules.crps_ensemble(
        truth, members, ens_w=np.broadcast_to(weights, members.shape).copy(), estimator="fair", backend="numpy"
    )
    assert crps(draws, truth, log_weights) == pytest.approx(float(np.mean(wanted)), rel=1e-12)


@pytest.mark.parametrize("draws", [2, 5, 40])
def test_fair_crps_of_a_gaussian_is_its_closed_form_for_any_number_of_draws(draws):
    """CRPS(N(0,1), y) = y (2 Phi(y) - 1) + 2 phi(y) - 1/sqrt(pi) (Gneiting et al. 2005)."""
    y, cells = 0.7, 100_000
    sample = np.random.default_rng(1).normal(size=(draws, cells))
    wanted = y * (2 * ndtr(y) - 1) + 2 * np.exp(-(y**2) / 2) / np.sqrt(2 * np.pi) - 1 / np.sqrt(np.pi)
    # std of one value is below 1 for every m >= 2: five standard errors
    assert crps(sample, np.full(cells, y)) == pytest.approx(wanted, abs=5.0 / np.sqrt(cells))


def test_importance_weights_give_the_crps_of_the_target():
    """Draws of N(0, 1) weighted to N(0.5, 1): the score is that of N(0.5, 1)."""
    sample = np.random.default_rng(2).normal(size=(200_000, 1))
    log_weights = 0.5 * sample[:, 0] - 0.125
    z = 0.2 - 0.5
    wanted = z * (2 * ndtr(z) - 1) + 2 * np.exp(-(z**2) / 2) / np.sqrt(2 * np.pi) - 1 / np.sqrt(np.pi)
    assert crps(sample, np.array([0.2]), log_weights) == pytest.approx(wanted, abs=0.01)


def test_energy_score_by_hand():
    # one field of two points; draws (3, 4) and (0, 0), truth (0, 0): E||X-y|| = 5/2, the one pair is 5; over sqrt(2).
    draws = np.array([[3.0, 4.0], [0.0, 0.0]])
    assert energy_score(draws, np.zeros(2)) == pytest.approx(0.0, abs=1e-14)
    assert energy_score(draws, np.array([3.0, 4.0]) * 2) == pytest.approx((7.5 - 2.5) / np.sqrt(2), rel=1e-14)


def test_energy_score_of_one_point_is_crps():
    draws, truth = np.random.default_rng(3).normal(size=(9, 1)), np.array([0.3])
    log_weights = np.linspace(-1.0, 1.0, 9)
    assert energy_score(draws, truth, log_weights) == pytest.approx(crps(draws, truth, log_weights), rel=1e-12)


def test_energy_score_sees_wrong_correlation_that_crps_does_not():
    rng = np.random.default_rng(4)
    common, own = rng.normal(size=(400, 1)) * np.ones(30), rng.normal(size=(400, 30))
    truths = rng.normal(size=(60, 1)) * np.ones(30)
    right = np.mean([energy_score(common, t) for t in truths])
    wrong = np.mean([energy_score(own, t) for t in truths])
    assert wrong > 1.1 * right


def test_rank_cell_by_hand():
    lower, upper = rank_cell(column(0, 1, 3), np.array([2.0]))
    assert (lower[0], upper[0]) == (pytest.approx(2 / 4), pytest.approx(3 / 4))
    tied = rank_cell(column(0, 2, 3), np.array([2.0]))  # equals one draw: ranks 1 and 2 are alike
    assert (tied[0][0], tied[1][0]) == (pytest.approx(1 / 4), pytest.approx(3 / 4))
    rounded = rank_cell(column(0, 1.9, 3), np.array([2.1]), resolution=1.0)
    assert (rounded[0][0], rounded[1][0]) == (pytest.approx(1 / 4), pytest.approx(3 / 4))


def test_weighted_rank_cell_by_hand():
    # weights 1/2, 1/4, 1/4: effective size 8/3; below the truth 3/4: [3/4 * 8/3 / (11/3), (3/4 * 8/3 + 1) / (11/3)]
    lower, upper = rank_cell(column(0, 1, 3), np.array([2.0]), TWO_THIRDS)
    assert (lower[0], upper[0]) == (pytest.approx(6 / 11), pytest.approx(9 / 11))


def test_coverage_by_hand():
    # three draws, truth in the cell [1/2, 3/4]: wholly inside [0.25, 0.75], and 50 % of it inside [0.375, 0.625]
    found = coverage(column(0, 1, 3), np.array([2.0]), (0.25, 0.5))
    np.testing.assert_allclose(found, [0.5, 1.0], atol=1e-12)
    # below all draws: cell [0, 1/4], of which [0.05, 0.25] is inside the 90 % interval
    np.testing.assert_allclose(coverage(column(0, 1, 3), np.array([-1.0]), (0.9,)), [0.8], atol=1e-12)


@pytest.mark.parametrize("draws", [1, 2, 7, 32])
def test_coverage_and_ranks_are_exactly_nominal_over_all_ranks(draws):
    """Truth at each rank once is the exact expectation under exchangeability: no sampling error, any ensemble size."""
    members = np.arange(draws, dtype=np.float64)[:, None] * np.ones(draws + 1)
    truth = np.arange(draws + 1) - 0.5
    levels = (0.1, 0.5, 0.9, 0.99)
    np.testing.assert_allclose(coverage(members, truth, levels), levels, atol=1e-12)
    np.testing.assert_allclose(rank_histogram(members, truth, 10), 0.1, atol=1e-12)


def test_coverage_of_a_two_phase_field_is_exactly_nominal_with_resolution():
    """Draws and truth of two values with noise far below the phase contrast: exchangeable, so coverage is nominal."""
    rng = np.random.default_rng(5)
    cells, m = 20_000, 8
    chance = rng.uniform(size=cells)
    phase = np.where(rng.uniform(size=(m + 1, cells)) < chance, 12.0, 3.0)
    draws = phase[1:] + 0.05 * rng.normal(size=(m, cells))
    found = coverage(draws, phase[0], (0.5, 0.9), resolution=1.0)
    # shares lie in [0, 1]: their variance is below q (1 - q); five standard errors: false alarm < 1e-6
    for value, level in zip(found, (0.5, 0.9), strict=True):
        assert abs(value - level) < 5.0 * np.sqrt(level * (1 - level) / cells)
    assert rank_histogram(draws, phase[0], 10, resolution=1.0) == pytest.approx(np.full(10, 0.1), abs=0.011)


@pytest.mark.parametrize("m", [4, 32])
def test_exact_draws_cover_within_a_binomial_bound(m):
    rng = np.random.default_rng(6)
    cells = 20_000
    centre = rng.normal(size=cells)
    draws, truth = centre + rng.normal(size=(m, cells)), centre + rng.normal(size=cells)
    for value, level in zip(coverage(draws, truth), (0.5, 0.9), strict=True):
        assert abs(value - level) < 5.0 * np.sqrt(level * (1 - level) / cells)


def test_narrow_draws_are_over_confident_and_wide_ones_cautious():
    rng = np.random.default_rng(7)
    truth, noise = rng.normal(size=5000), rng.normal(size=(64, 5000))
    narrow, wide = coverage(0.5 * noise, truth), coverage(2.0 * noise, truth)
    # Phi(0.6745 / 2) and Phi(0.6745 * 2) central shares
    assert narrow[0] == pytest.approx(2 * ndtr(0.6745 * 0.5) - 1, abs=0.03)
    assert wide[0] == pytest.approx(2 * ndtr(0.6745 * 2.0) - 1, abs=0.03)
    ends = rank_histogram(0.5 * noise, truth, 10)
    assert ends[0] + ends[-1] > 0.4
    assert ends[0] == pytest.approx(ends[-1], abs=0.03)


def test_weighted_quantile_by_hand():
    # draws 3, 1, 2 sit at probabilities 3/4, 1/4, 2/4
    draws = column(3, 1, 2)
    values = [weighted_quantile(draws, p)[0] for p in (0.1, 0.25, 0.375, 0.5, 0.75, 0.95)]
    np.testing.assert_allclose(values, [1.0, 1.0, 1.5, 2.0, 3.0, 3.0], atol=1e-12)


def test_weighted_quantile_of_weighted_draws_is_that_of_the_target():
    sample = np.random.default_rng(8).normal(size=(200_000, 1))
    log_weights = 0.5 * sample[:, 0]  # to N(0.5, 1)
    assert weighted_quantile(sample, 0.9, log_weights)[0] == pytest.approx(0.5 + 1.2816, abs=0.02)
    one = weighted_quantile(column(0, 1, 3), 0.5, np.array([-np.inf, 0.0, -np.inf]))
    assert one[0] == 1.0


def test_spread_skill_by_hand():
    # draws 0, 2 about truth 4: mean 1, error 3; variance 1; (m+1)/(m-1) = 3: sqrt(3) / 3
    assert spread(column(0, 2)) == pytest.approx(np.sqrt(3.0))
    assert spread_skill(column(0, 2), np.array([4.0])) == pytest.approx(np.sqrt(3.0) / 3.0)
    # weights 1/2, 1/4, 1/4 on 0, 1, 3: mean 1, variance 3/2, sum w^2 = 3/8: (11/8) / (5/8) * 3/2 = 3.3
    assert spread(column(0, 1, 3), TWO_THIRDS) == pytest.approx(np.sqrt(3.3))


@pytest.mark.parametrize("m", [3, 32])
def test_spread_skill_of_exact_draws_is_one_for_any_number_of_draws(m):
    sample = np.random.default_rng(9).normal(size=(m + 1, 200_000))
    # relative error of each mean square is about sqrt(2 / n): ratio within 5 * sqrt(2 / n)
    assert spread_skill(sample[1:], sample[0]) == pytest.approx(1.0, abs=0.016)


def test_chi_square_by_hand():
    statistic, p_value = chi_square(np.array([5.0, 15.0]))
    assert statistic == pytest.approx(5.0)
    assert p_value == pytest.approx(2.0 * (1.0 - ndtr(np.sqrt(5.0))), rel=1e-9)


def test_uniformity_has_the_right_size_for_correlated_points_and_finds_a_slope():
    """Cases whose points share one rank: Pearson on points would always reject, this does so in about 5 %."""
    rng = np.random.default_rng(10)
    small = 0
    for _ in range(400):
        # each case: 30 points in two clusters, all points of a cluster in one bin
        bins = rng.integers(0, 6, size=(20, 2))
        histograms = np.stack([np.bincount(b, minlength=6) / 2.0 for b in bins])
        small += uniformity(histograms)[1] < 0.05
    assert 2 <= small <= 42  # binomial(400, 0.05) has mean 20, std 4.4: five of them
    slope = np.stack([np.bincount(rng.integers(0, 6, 40) ** 2 // 6, minlength=6) / 40.0 for _ in range(8)])
    assert uniformity(slope)[1] < 1e-4
    assert np.isnan(uniformity(slope[:1])[1])


@pytest.mark.parametrize(
    ("draws", "log_weights", "match"),
    [
        (np.zeros((3, 2)), None, "draws must be"),
        (np.zeros((3, 4)), np.zeros(2), "log_weights must have shape"),
        (np.zeros((3, 4)), np.array([0.0, np.nan, 0.0]), "NaN"),
        (np.zeros((3, 4)), np.full(3, -np.inf), "no draw has any weight"),
    ],
)
def test_wrong_input_is_refused(draws, log_weights, match):
    with pytest.raises(ValueError, match=match):
        crps(draws, np.zeros(4), log_weights)
