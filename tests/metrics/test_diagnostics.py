"""Effective size, misfit, bootstrap, Gaussian distances."""

import numpy as np
import pytest

from pdediff.metrics import bootstrap, bures, distinct_roots, effective_sample_size, gaussian_distances, misfit


def test_effective_sample_size_by_hand():
    assert effective_sample_size(np.log([2.0, 1.0, 1.0])) == pytest.approx(16.0 / 6.0)
    assert effective_sample_size(np.full(7, -1234.5)) == pytest.approx(7.0)
    assert effective_sample_size(np.array([0.0, -np.inf, -np.inf])) == pytest.approx(1.0)
    assert distinct_roots(np.array([4, 4, 1, 4])) == 2


def test_misfit_by_hand():
    predicted = np.array([[1.0, 2.0], [3.0, 2.0]])
    assert misfit(predicted, np.array([1.0, 1.0]), np.array([1.0, 0.5])) == pytest.approx(np.sqrt((0 + 4 + 4 + 4) / 4))
    with pytest.raises(ValueError, match="positive"):
        misfit(predicted, np.zeros(2), np.array([1.0, 0.0]))


def test_bures_of_commuting_gaussians_by_hand():
    # diagonal: |m1 - m2|^2 + sum (s1 - s2)^2 = 9 + 16 + (2-1)^2 + (3-5)^2 = 30
    assert bures(
        np.array([3.0, 0.0]), np.diag([4.0, 9.0]), np.array([0.0, 4.0]), np.diag([1.0, 25.0])
    ) == pytest.approx(np.sqrt(30.0), rel=1e-12)


def test_bures_of_general_gaussians_is_the_cost_of_the_optimal_map():
    """T = C1^-1/2 (C1^1/2 C2 C1^1/2)^1/2 C1^-1/2 carries C1 to C2; the cost is tr((T - 1) C1 (T - 1))."""
    rng = np.random.default_rng(0)
    a, b = rng.normal(size=(2, 5, 5))
    first, second = a @ a.T + np.eye(5), b @ b.T
    values, vectors = np.linalg.eigh(first)
    root = vectors * np.sqrt(values) @ vectors.T
    inner_values, inner_vectors = np.linalg.eigh(root @ second @ root)
    inner = inner_vectors * np.sqrt(np.clip(inner_values, 0, None)) @ inner_vectors.T
    shift = np.linalg.inv(root) @ inner @ np.linalg.inv(root) - np.eye(5)
    assert bures(np.zeros(5), first, np.zeros(5), second) == pytest.approx(
        np.sqrt(np.trace(shift @ first @ shift)), rel=1e-9
    )
    assert bures(np.zeros(5), first, np.zeros(5), first) < 1e-6  # sqrt of rounding


def test_gaussian_distances_by_hand_and_as_fields():
    # exact: std 1 at four points (scale 2); mean off by 1 at one point, std 1.5 everywhere: bures of covariances 1
    mean, exact = np.zeros((2, 2)), np.zeros((2, 2))
    mean[0, 0] = 1.0
    found = gaussian_distances(mean, 2.25 * np.eye(4).reshape(2, 2, 2, 2), exact, np.eye(4).reshape(2, 2, 2, 2))
    assert found == pytest.approx({"mean": 0.5, "covariance": 0.5, "bures": np.sqrt(0.5)}, rel=1e-9)


def test_bootstrap_interval_covers_the_mean_of_few_cases():
    """Eight normal cases: the plain percentile interval covers about 88 %, this one should be near 95 %."""
    rng = np.random.default_rng(1)
    trials, inside = 600, 0
    for seed in range(trials):
        found = bootstrap(rng.normal(size=8), seed=seed, resamples=800)
        inside += found.lower <= 0.0 <= found.upper
    # 5 standard errors of 0.95 over 600 trials are 0.044; the plain interval would fail
    assert 0.915 < inside / trials < 0.985


def test_bootstrap_is_repeatable_and_honest_about_one_case():
    values = np.array([1.0, 2.0, 4.0])
    assert bootstrap(values, seed=3) == bootstrap(values, seed=3)
    assert bootstrap(values).mean == pytest.approx(7.0 / 3.0)
    one = bootstrap(np.array([2.0]))
    assert one.mean == 2.0
    assert np.isnan(one.lower)
