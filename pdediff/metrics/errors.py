"""Errors of an estimate against the truth: relative L2, root mean square, wrong phase."""

from __future__ import annotations

import numpy as np

from pdediff.metrics.arrays import Draws, Grid, PerDraw
from pdediff.metrics.weights import normalise


def _same_shape(estimate: np.ndarray, truth: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    estimate, truth = np.asarray(estimate, dtype=np.float64), np.asarray(truth, dtype=np.float64)
    if estimate.shape != truth.shape:
        raise ValueError(f"estimate and truth must have one shape; got {estimate.shape} and {truth.shape}")
    return estimate, truth


def mean(draws: Draws, weights: PerDraw) -> Grid:
    """Weighted mean of the draws, in the units of the field."""
    return np.tensordot(weights, np.asarray(draws, dtype=np.float64), axes=1)


def standard_deviation(draws: Draws, weights: PerDraw) -> Grid:
    """Weighted standard deviation of the draws about their mean (divisor 1, not m - 1), in the units of the field."""
    centred = np.asarray(draws, dtype=np.float64) - mean(draws, weights)
    return np.sqrt(np.tensordot(weights, np.square(centred), axes=1))


def relative_l2(estimate: Grid, truth: Grid) -> float:
    """||estimate - truth|| / ||truth|| in the 2-norm (no units); NaN for a truth that is zero everywhere."""
    estimate, truth = _same_shape(estimate, truth)
    size = float(np.linalg.norm(truth))
    return float(np.linalg.norm(estimate - truth)) / size if size > 0.0 else float("nan")


def relative_l2_of_draws(
    draws: Draws,
    truth: Grid,
    log_weights: PerDraw | None = None,
) -> float:
    """Relative L2 error of a single draw, averaged over the draws by their weights (no units).

    For a calibrated posterior it is about sqrt(2) times the error of the mean; papers often print this one.
    """
    weights = normalise(log_weights, len(draws))
    return float(sum(w * relative_l2(x, truth) for w, x in zip(weights, draws, strict=True) if w > 0.0))


def rmse(estimate: Grid, truth: Grid) -> float:
    """Root mean square error over all points, in the units of the field."""
    estimate, truth = _same_shape(estimate, truth)
    return float(np.sqrt(np.mean(np.square(estimate - truth))))


def misclassified(estimate: Grid, truth: Grid, threshold: float) -> float:
    """Share of points where estimate and truth lie on different sides of `threshold` (no units).

    For a field of two values with the threshold midway, the posterior mean is above it exactly where most of the
    weight is on the upper value, so thresholding the mean is the decision with the fewest expected mistakes.
    """
    estimate, truth = _same_shape(estimate, truth)
    return float(np.mean((estimate > threshold) != (truth > threshold)))
