"""Draws against the exact posterior: how far their mean, spread and errors are from the best that is possible."""

from __future__ import annotations

import numpy as np

from pdediff.metrics import errors
from pdediff.metrics.arrays import Draws, Grid, PerDraw
from pdediff.metrics.weights import effective_size, normalise, pair_correction


def against_exact(
    draws: Draws, truth: Grid, mean: Grid, std: Grid, log_weights: PerDraw | None = None
) -> dict[str, float]:
    """Scores of one field whose exact posterior has this mean and pointwise standard deviation.

    With m, s^2 the exact mean and variance, m_n the mean of the draws and n their effective number, averages over
    points: `exact_distance` sqrt(avg (m_n - m)^2 / s^2), which is `exact_floor` = 1 / sqrt(n) for n exact draws;
    `exact_spread` sqrt(avg var_n / avg s^2). `rmse_draw` is the error of a draw, `best_draw` = sqrt(avg (m - truth)^2 +
    avg s^2) and `best_mean` = sqrt(avg (m - truth)^2 + avg s^2 / n) what exact draws and their mean err by, given the
    same readings; `exact_draw_error` and `exact_mean_error` are the ratios, 1 at the Bayes optimum.

    Points that the exact posterior knows (s = 0) do not count in `exact_distance`. Draws that are not finite are left
    out; NaN where none is left.
    """
    kept = np.isfinite(draws).reshape(len(draws), -1).all(axis=1)
    if not kept.any() or (log_weights is not None and np.isneginf(np.asarray(log_weights)[kept]).all()):
        return dict.fromkeys(NAMES, float("nan"))
    x = np.asarray(draws, dtype=np.float64)[kept]
    weights = normalise(None if log_weights is None else np.asarray(log_weights)[kept], len(x))
    exact, truth, spread = (np.asarray(v, dtype=np.float64) for v in (mean, truth, std))
    centre, n = errors.mean(x, weights), effective_size(weights)
    known, variance = spread > 0.0, float(np.mean(spread**2))
    off = np.square((centre - exact)[known] / spread[known])
    own = float(np.mean(errors.standard_deviation(x, weights) ** 2)) * pair_correction(weights)
    missed = float(np.mean((exact - truth) ** 2))
    each = np.square(x - truth).reshape(len(x), -1).mean(axis=1)
    found = {
        "exact_distance": np.sqrt(off.mean()) if known.any() else np.nan,
        "exact_floor": 1.0 / np.sqrt(n),
        "exact_spread": np.sqrt(own / variance) if variance > 0.0 else np.nan,
        "rmse_draw": np.sqrt(weights @ each),
        "best_draw": np.sqrt(missed + variance),
        "best_mean": np.sqrt(missed + variance / n),
    }
    found["exact_mean_error"] = errors.rmse(centre, truth) / found["best_mean"]
    found["exact_draw_error"] = found["rmse_draw"] / found["best_draw"]
    return {name: float(found[name]) for name in NAMES}


NAMES = (
    *("exact_distance", "exact_floor", "exact_spread", "exact_mean_error", "exact_draw_error"),
    *("rmse_draw", "best_mean", "best_draw"),
)
"""What `against_exact` returns."""
