"""Effective sample size, data misfit, bootstrap intervals over cases, distances between Gaussians."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from pdediff.metrics.arrays import Grid, PerCase, PerDraw, Vector
from pdediff.metrics.weights import effective_size, normalise


def effective_sample_size(log_weights: PerDraw) -> float:
    """(sum w)^2 / sum w^2 from log-weights of any scale; between 1 and the number of draws."""
    return effective_size(normalise(log_weights, len(log_weights)))


def distinct_roots(ancestors: np.ndarray) -> int:
    """Number of different first ancestors among the final draws; few of them mean that resampling left few lines."""
    return len(np.unique(np.asarray(ancestors)))


def misfit(predicted: Grid, observed: Vector, std: Vector | float) -> float:
    """Root-mean-square of (predicted - observed) / std over draws and observations (no units); 1 is at the noise."""
    std = np.asarray(std, dtype=np.float64)
    if (std <= 0.0).any():
        raise ValueError("std must be positive for every observation")
    scaled = (np.asarray(predicted, dtype=np.float64) - np.asarray(observed, dtype=np.float64)) / std
    return float(np.sqrt(np.mean(np.square(scaled))))


@dataclass(frozen=True)
class Estimate:
    """A mean over cases with its interval; `missing` cases had no finite value."""

    mean: float
    lower: float
    upper: float
    count: int
    missing: int = 0


def _mean(values: np.ndarray) -> np.ndarray:
    return values.mean(axis=1)


def bootstrap(
    values: PerCase,
    statistic: Callable[[np.ndarray], np.ndarray] = _mean,
    level: float = 0.95,
    seed: int = 0,
    resamples: int = 4000,
) -> Estimate:
    """Bootstrap interval over cases of a statistic `(resample, case, *rest) -> (resample,)`.

    Percentile interval with the probabilities widened from the normal to Student's t and by sqrt(n / (n - 1)), because
    the plain one is too short for few cases (Hesterberg 2015, "expanded percentile"). NaN bounds for a single case.
    """
    from scipy.special import ndtr, stdtrit

    values = np.asarray(values, dtype=np.float64)
    cases = len(values)
    if cases == 0:
        return Estimate(float("nan"), float("nan"), float("nan"), 0)
    centre = float(statistic(values[None])[0])
    if cases == 1:
        return Estimate(centre, float("nan"), float("nan"), 1)
    picks = np.random.default_rng(seed).integers(0, cases, size=(resamples, cases))
    replicates = statistic(values[picks])
    tail = float(ndtr(np.sqrt(cases / (cases - 1)) * stdtrit(cases - 1, (1.0 - level) / 2.0)))
    lower, upper = np.quantile(replicates, [tail, 1.0 - tail])
    return Estimate(centre, float(lower), float(upper), cases)


def _root(covariance: np.ndarray) -> np.ndarray:
    values, vectors = np.linalg.eigh(covariance)
    return vectors * np.sqrt(np.clip(values, 0.0, None))


def _gaussians(*arrays: np.ndarray) -> list[np.ndarray]:
    mean1, cov1, mean2, cov2 = (np.asarray(a, dtype=np.float64) for a in arrays)
    mean1, mean2 = mean1.reshape(-1), mean2.reshape(-1)
    cov1, cov2 = cov1.reshape(mean1.size, -1), cov2.reshape(mean2.size, -1)
    if not cov1.shape == cov2.shape == (mean1.size, mean2.size):
        raise ValueError(f"means and covariances do not fit: {mean1.shape} {cov1.shape}, {mean2.shape} {cov2.shape}")
    return [mean1, cov1, mean2, cov2]


def bures(mean1: np.ndarray, cov1: np.ndarray, mean2: np.ndarray, cov2: np.ndarray) -> float:
    """Wasserstein-2 distance of two Gaussians, in the units of the field.

    W^2 = |m1 - m2|^2 + tr(C1 + C2 - 2 (C1^1/2 C2 C1^1/2)^1/2) (Dowson and Landau 1982); the last trace is the nuclear
    norm of R1^T R2 with Ci = Ri Ri^T. Means and covariances may be shaped as fields; they are flattened.
    """
    mean1, cov1, mean2, cov2 = _gaussians(mean1, cov1, mean2, cov2)
    cross = float(np.linalg.svd(_root(cov1).T @ _root(cov2), compute_uv=False).sum())
    square = float(np.sum(np.square(mean1 - mean2))) + float(np.trace(cov1) + np.trace(cov2)) - 2.0 * cross
    return float(np.sqrt(max(square, 0.0)))


def gaussian_distances(mean: np.ndarray, cov: np.ndarray, exact_mean: np.ndarray, exact_cov: np.ndarray) -> dict:
    """Distances from a Gaussian to the exact one, each divided by the exact root-mean-square std (no units).

    `mean`: |m1 - m2| / sqrt(tr C2); `covariance`: Bures distance of the covariances alone / sqrt(tr C2);
    `bures`: both together; so bures^2 = mean^2 + covariance^2.
    """
    mean, cov, exact_mean, exact_cov = _gaussians(mean, cov, exact_mean, exact_cov)
    scale = float(np.sqrt(np.trace(exact_cov)))
    if scale <= 0.0:
        raise ValueError("the exact covariance must have positive trace")
    return {
        "mean": float(np.linalg.norm(mean - exact_mean)) / scale,
        "covariance": bures(exact_mean, cov, exact_mean, exact_cov) / scale,
        "bures": bures(mean, cov, exact_mean, exact_cov) / scale,
    }
