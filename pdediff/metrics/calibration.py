"""Can the error bars be trusted: CRPS, energy score, coverage, spread-skill ratio, rank histogram.

All take draws `(draw, *space)`, a truth `(*space)` and optional log-weights. Finite ensembles are corrected for, so
that draws from the true posterior score the nominal value for any number of draws.
"""

from __future__ import annotations

import itertools

import numpy as np

from pdediff.metrics.arrays import Draws, Grid, Matrix, PerDraw, Vector
from pdediff.metrics.errors import mean, standard_deviation
from pdediff.metrics.weights import effective_size, normalise, pair_correction


def _prepare(
    draws: np.ndarray, truth: np.ndarray, log_weights: np.ndarray | None
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    draws, truth = np.asarray(draws, dtype=np.float64), np.asarray(truth, dtype=np.float64)
    if draws.ndim == 0 or draws.shape[1:] != truth.shape:
        raise ValueError(f"draws must be (draw, *space) with space {truth.shape} as the truth; got {draws.shape}")
    weights = normalise(log_weights, len(draws))
    return draws[weights > 0.0], truth, weights[weights > 0.0]


def crps(
    draws: Draws,
    truth: Grid,
    log_weights: PerDraw | None = None,
) -> float:
    """Fair continuous ranked probability score, mean over points, in the units of the field; smaller is better.

    CRPS = E|X - y| - 1/2 E|X - X'| with the second mean over distinct pairs only: sum_ij w_i w_j |x_i - x_j| /
    (1 - sum w^2), which is 1 / (m (m - 1)) for equal weights (Ferro 2014). Its expectation does not depend on the
    number of draws, so ensembles of different size are comparable. With one draw it is the absolute error.
    """
    import scoringrules

    draws, truth, weights = _prepare(draws, truth, log_weights)
    flat, target = draws.reshape(len(draws), -1), truth.reshape(-1)
    absolute = weights @ np.abs(flat - target)
    # The quantile form costs m log m instead of m^2; absolute - plain is half the mean over all pairs.
    plain = scoringrules.crps_ensemble(
        target, flat.T, ens_w=np.broadcast_to(weights, flat.T.shape).copy(), estimator="qd", backend="numpy"
    )
    return float(np.mean(absolute - pair_correction(weights) * (absolute - plain)))


def energy_score(
    draws: Draws,
    truth: Grid,
    log_weights: PerDraw | None = None,
) -> float:
    """Fair energy score of the whole field in the root-mean-square norm, in the units of the field.

    ES = E||X - y|| - 1/2 E||X - X'||, distinct pairs as in `crps`. Unlike CRPS it sees wrong correlation between
    points (Gneiting and Raftery 2007, eq. 22).
    """
    draws, truth, weights = _prepare(draws, truth, log_weights)
    flat, target = draws.reshape(len(draws), -1), truth.reshape(-1)
    scale = np.sqrt(target.size)
    error = weights @ np.linalg.norm(flat - target, axis=1)
    pairs = sum(
        2.0 * weights[i] * float(weights[i + 1 :] @ np.linalg.norm(flat[i + 1 :] - flat[i], axis=1))
        for i in range(len(flat) - 1)
    )
    return float((error - 0.5 * pair_correction(weights) * pairs) / scale)


def weighted_quantile(
    draws: Draws,
    probability: float,
    log_weights: PerDraw | None = None,
) -> Grid:
    """Quantile at each point, linear between the draws placed at probabilities i / (m + 1), in the field's units.

    With these positions the interval between two order statistics has the coverage that its probabilities say.
    Weighted draws sit at the middle of their share of the weight. Beyond the last draw its value is returned, so a
    central interval of level q needs m >= (1 + q) / (1 - q) draws: 19 for 90 %.
    """
    weights = normalise(log_weights, len(draws))
    kept = weights > 0.0
    values, weights = np.asarray(draws, dtype=np.float64)[kept], weights[kept]
    flat = values.reshape(len(values), -1)
    order = np.argsort(flat, axis=0, kind="stable")
    ordered, share = np.take_along_axis(flat, order, axis=0), weights[order]
    size = effective_size(weights)
    position = ((np.cumsum(share, axis=0) - share / 2.0) * size + 0.5) / (size + 1.0)
    above = np.sum(position <= probability, axis=0)
    low, high = np.clip(above - 1, 0, len(flat) - 1)[None], np.clip(above, 0, len(flat) - 1)[None]
    start, stop = np.take_along_axis(position, low, axis=0)[0], np.take_along_axis(position, high, axis=0)[0]
    step = np.where(stop > start, (probability - start) / np.where(stop > start, stop - start, 1.0), 0.0)
    bottom, top = np.take_along_axis(ordered, low, axis=0)[0], np.take_along_axis(ordered, high, axis=0)[0]
    return (bottom + np.clip(step, 0.0, 1.0) * (top - bottom)).reshape(values.shape[1:])


def rank_cell(
    draws: Draws,
    truth: Grid,
    log_weights: PerDraw | None = None,
    resolution: float = 0.0,
) -> tuple[Grid, Grid]:
    """Interval of [0, 1] that the rank of the truth among the draws stands for, at each point.

    With m draws, r of them below the truth, it is [r / (m + 1), (r + 1) / (m + 1)], and longer by 1 / (m + 1) for
    every draw that equals the truth. A uniform point of this interval is exactly uniform on [0, 1] when truth and
    draws are exchangeable: this is the finite-ensemble correction of coverage and rank histogram. With weights, r is
    the weight below times the effective sample size, and m the effective sample size (exact only for equal weights).
    With a `resolution` (units of the field) truth and draws are first rounded to its multiples, so that values that are
    not told apart count as equal; a field of a few values, such as two phases, needs it (Czado et al. 2009). Points
    where all are equal say nothing: they count as nominal, so a coarse resolution hides errors.
    """
    draws, truth, weights = _prepare(draws, truth, log_weights)
    if resolution > 0.0:
        draws, truth = np.rint(draws / resolution), np.rint(truth / resolution)
    size = effective_size(weights)
    below, equal = np.tensordot(weights, draws < truth, axes=1), np.tensordot(weights, draws == truth, axes=1)
    return below * size / (size + 1.0), ((below + equal) * size + 1.0) / (size + 1.0)


def _share(cell: tuple[np.ndarray, np.ndarray], start: float, stop: float) -> float:
    """Mean over points of the share of each rank cell that lies in [start, stop]."""
    lower, upper = cell
    overlap = np.clip(np.minimum(upper, stop) - np.maximum(lower, start), 0.0, None)
    return float(np.mean(overlap / (upper - lower)))


def coverage(
    draws: Draws,
    truth: Grid,
    levels: tuple[float, ...] = (0.5, 0.9),
    log_weights: PerDraw | None = None,
    resolution: float = 0.0,
) -> Vector:
    """Share of points whose truth lies in the central interval of each level (no units); nominal is the level itself.

    Counts the share of the truth's rank cell inside [(1 - q) / 2, (1 + q) / 2] instead of comparing with quantiles
    between draws, so exact draws cover exactly q on average for any number of draws. (The interval between plain
    sample quantiles of m draws covers only about q (m - 1) / (m + 1).)
    """
    if any(not 0.0 < q < 1.0 for q in levels):
        raise ValueError(f"levels must lie between 0 and 1; got {levels}")
    cell = rank_cell(draws, truth, log_weights, resolution)
    return np.array([_share(cell, (1.0 - q) / 2.0, (1.0 + q) / 2.0) for q in levels])


def rank_histogram(
    draws: Draws,
    truth: Grid,
    bins: int = 10,
    log_weights: PerDraw | None = None,
    resolution: float = 0.0,
) -> Vector:
    """Share of points in each of `bins` equal bins of the truth's rank; 1 / bins each on average for exact draws.

    A U shape means too narrow a posterior, a hump too wide, a slope a bias (Hamill 2001).
    """
    cell = rank_cell(draws, truth, log_weights, resolution)
    edges = np.linspace(0.0, 1.0, bins + 1)
    return np.array([_share(cell, a, b) for a, b in itertools.pairwise(edges)])


def spread(draws: Draws, log_weights: PerDraw | None = None) -> float:
    """Root-mean-square error that the draws predict for their own mean, in the units of the field.

    sqrt((1 + sum w^2) / (1 - sum w^2) * mean variance): (m + 1) / (m - 1) for equal weights, since the variance about
    the sample mean is short by (m - 1) / m and that mean itself errs by variance / m (Fortin et al. 2014).
    """
    weights = normalise(log_weights, len(draws))
    variance = float(np.mean(np.square(standard_deviation(draws, weights))))
    return float(np.sqrt((1.0 + np.sum(np.square(weights))) * pair_correction(weights) * variance))


def spread_skill(
    draws: Draws,
    truth: Grid,
    log_weights: PerDraw | None = None,
) -> float:
    """Spread over root-mean-square error of the mean (no units): 1 is right, below 1 is over-confident."""
    draws, truth, weights = _prepare(draws, truth, log_weights)
    error = float(np.sqrt(np.mean(np.square(mean(draws, weights) - truth))))
    predicted = spread(draws, np.log(weights))
    return predicted / error if error > 0.0 else float("inf")


def chi_square(counts: Vector) -> tuple[float, float]:
    """Pearson's statistic and p-value for equal bins, for counts of independent ranks."""
    from scipy.special import chdtrc

    counts = np.asarray(counts, dtype=np.float64)
    expected = counts.sum() / len(counts)
    statistic = float(np.sum(np.square(counts - expected)) / expected)
    return statistic, float(chdtrc(len(counts) - 1, statistic))


def uniformity(histograms: Matrix) -> tuple[float, float]:
    """Test of equal bins for rank histograms of fields: (F statistic, p-value).

    Points of one field are correlated, so their counts are no chi^2. Cases are independent: the squared deviation of
    the mean histogram is compared with its variance between cases, with Satterthwaite degrees of freedom (Rao and
    Scott 1984; Thomas and Rao 1987). Needs two cases; (NaN, NaN) below that or without any variance.
    """
    from scipy.special import fdtrc

    histograms = np.asarray(histograms, dtype=np.float64)
    cases, bins = histograms.shape
    if cases < 2:
        return float("nan"), float("nan")
    deviation = histograms.mean(axis=0) - 1.0 / bins
    covariance = np.cov(histograms, rowvar=False) / cases
    total = float(np.trace(covariance))
    if total <= 0.0:
        return float("nan"), float("nan")
    statistic = float(np.sum(np.square(deviation))) / total
    freedom = total**2 / float(np.sum(np.square(covariance)))
    return statistic, float(fdtrc(freedom, freedom * (cases - 1), statistic))
