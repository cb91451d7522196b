"""Importance weights of posterior draws, normalised once for every metric."""

from __future__ import annotations

import numpy as np

from pdediff.metrics.arrays import PerDraw


def normalise(log_weights: PerDraw | None, draws: int) -> PerDraw:
    """Weights that sum to one, in float64; equal weights when there are no log-weights.

    Raises ValueError when the length is not `draws`, when a log-weight is NaN or +inf, or when all are -inf.
    """
    if log_weights is None:
        return np.full(draws, 1.0 / draws)
    values = np.asarray(log_weights, dtype=np.float64)
    if values.shape != (draws,):
        raise ValueError(f"log_weights must have shape ({draws},), one for each draw; got {values.shape}")
    if np.isnan(values).any() or np.isposinf(values).any():
        raise ValueError("log_weights must be finite or -inf; got NaN or +inf")
    if np.isneginf(values).all():
        raise ValueError("all log_weights are -inf: no draw has any weight")
    weights = np.exp(values - values.max())
    return weights / weights.sum()


def effective_size(weights: PerDraw) -> float:
    """Effective sample size 1 / sum(w^2) of normalised weights, between 1 and the number of draws (Kish 1965)."""
    return float(1.0 / np.sum(np.square(weights)))


def pair_correction(weights: PerDraw) -> float:
    """Factor 1 / (1 - sum(w^2)) that makes a weighted mean over all pairs of draws one over distinct pairs.

    It is m / (m - 1) for m equal weights. It is capped at 2, the value of two equal draws: below an effective sample
    size of two a collapsed set of weights is not credited with a spread that it does not show.
    """
    return 1.0 / max(1.0 - float(np.sum(np.square(weights))), 0.5)
