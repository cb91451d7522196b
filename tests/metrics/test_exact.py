"""Scores against an exact posterior: worked numbers, and what exact draws score."""

from __future__ import annotations

import numpy as np
import pytest

from pdediff.metrics import against_exact, rows, summarise


def test_a_worked_example() -> None:
    """Two draws of two points, by hand."""
    draws = np.array([[1.0, 4.0], [3.0, 4.0]])
    found = against_exact(draws, np.array([0.0, 4.0]), np.array([1.0, 3.0]), np.array([1.0, 2.0]))
    # mean of the draws (2, 4), of the exact posterior (1, 3): off by 1 std and by half of one
    assert found["exact_distance"] == pytest.approx(np.sqrt((1 + 0.25) / 2))
    assert found["exact_floor"] == pytest.approx(1 / np.sqrt(2))
    # variances of the draws (2, 0), exact (1, 4)
    assert found["exact_spread"] == pytest.approx(np.sqrt((2 / 2) / (5 / 2)))
    # squared errors of the draws (1, 0) and (9, 0), of the exact mean (1, 1)
    assert found["rmse_draw"] == pytest.approx(np.sqrt(10 / 4))
    assert found["best_draw"] == pytest.approx(np.sqrt(1 + 2.5))
    assert found["best_mean"] == pytest.approx(np.sqrt(1 + 2.5 / 2))
    assert found["exact_mean_error"] == pytest.approx(np.sqrt(2) / np.sqrt(1 + 2.5 / 2))
    assert found["exact_draw_error"] == pytest.approx(np.sqrt(2.5 / 3.5))


def exact_case(n: int, seed: int, factor: float = 1.0, shift: float = 0.0) -> dict[str, float]:
    """Draws around an exact mean of zero, `factor` too wide and `shift` standard deviations off."""
    rng = np.random.default_rng(seed)
    std = np.linspace(0.5, 2.0, 400)
    truth = std * rng.standard_normal(400)
    draws = std * (shift + factor * rng.standard_normal((n, 400)))
    found = against_exact(draws, truth, np.zeros(400), std)
    return found | {"rmse": float(np.sqrt(np.mean((draws.mean(0) - truth) ** 2)))}


def test_exact_draws_are_optimal_and_others_are_not() -> None:
    """400 independent points: each number errs by a few percent; over 50 cases by less than one."""
    found = [exact_case(32, seed) for seed in range(50)]
    # a mean square of 400 points errs by sqrt(2 / 400) = 7 %, its root over 50 cases by 0.5 %
    for name, wanted in (("exact_distance", 32**-0.5), ("exact_floor", 32**-0.5), ("exact_spread", 1.0)):
        assert np.mean([f[name] for f in found]) == pytest.approx(wanted, rel=0.03)
    for name in ("exact_mean_error", "exact_draw_error"):
        assert np.mean([f[name] for f in found]) == pytest.approx(1.0, abs=0.03)
    wide, off = exact_case(32, 0, factor=1.5), exact_case(32, 0, shift=0.5)
    assert wide["exact_spread"] == pytest.approx(1.5, rel=0.05)
    assert wide["exact_draw_error"] == pytest.approx(np.sqrt((1 + 1.5**2) / 2), rel=0.1)
    assert off["exact_distance"] == pytest.approx(np.sqrt(0.5**2 + 1 / 32), rel=0.1)
    assert off["exact_spread"] == pytest.approx(1.0, rel=0.05)


def test_weights_and_diverged_draws_count() -> None:
    """A draw without weight and one that is not finite change nothing; points that are known have no distance."""
    draws, std = np.array([[1.0, 2.0], [3.0, 2.0]]), np.array([1.0, 0.0])
    told = (np.zeros(2), np.zeros(2), std)
    plain = against_exact(draws, *told)
    more = np.concatenate([draws, [[np.nan, 0.0], [50.0, 50.0]]])
    weighted = against_exact(more, *told, np.array([0.0, 0.0, 0.0, -np.inf]))
    assert weighted == pytest.approx(plain)
    assert plain["exact_distance"] == pytest.approx(2.0)
    gone = against_exact(np.full((2, 2), np.nan), *told)
    assert all(np.isnan(value) for value in gone.values())


def test_ratios_over_cases_are_those_of_the_sums() -> None:
    """Two cases, errors 1 of 2 and 6 of 3: sqrt(37 / 13), not the mean of a half and two."""
    made = []
    for case, (rmse, best) in enumerate(((1.0, 2.0), (6.0, 3.0))):
        made += rows("m", case, {"f": {"rmse": rmse, "best_mean": best, "exact_mean_error": rmse / best}})
    found = summarise(made).get("m", "f", "exact_mean_error")
    assert found is not None
    assert found.mean == pytest.approx(np.sqrt(37 / 13))
