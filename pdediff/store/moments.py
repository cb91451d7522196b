"""Moments of one unit, computed where its data are made, and how those of many units are merged into statistics."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import astuple, dataclass

import numpy as np

from pdediff.store.schema import ArraySpec

VALUES, DIFFERENCES = "values", "differences"

Kept = dict[str, list[float]]
"""Moments of one array of one unit as a receipt keeps them: count, mean, squares, low, high, under each kind."""


@dataclass(frozen=True)
class Moments:
    """Count, mean, sum of squared deviations from the mean, and range of some values; all 0 where there are none."""

    count: int = 0
    mean: float = 0.0
    squares: float = 0.0
    low: float = 0.0
    high: float = 0.0

    @staticmethod
    def of(values: np.ndarray) -> Moments:
        """Those of the finite values, in float64: the mean first, then the deviations from it."""
        flat = values.astype("float64").ravel()  # a copy: it is overwritten below
        finite = np.isfinite(flat)
        if not finite.all():
            flat = flat[finite]
        if not flat.size:
            return Moments()
        mean, low, high = float(flat.mean()), float(flat.min()), float(flat.max())
        flat -= mean
        # Squared and summed, not a dot product: that one's order depends on the number of threads.
        return Moments(flat.size, mean, float(np.square(flat, out=flat).sum()), low, high)

    def merged(self, other: Moments) -> Moments:
        """Those of both together (Chan, Golub, LeVeque 1983, eq. 2.1); rounding depends on the order of merging."""
        if not self.count or not other.count:
            return self if self.count else other
        count, step = self.count + other.count, other.mean - self.mean
        return Moments(
            count,
            self.mean + step * other.count / count,
            self.squares + other.squares + step**2 * self.count * other.count / count,
            min(self.low, other.low),
            max(self.high, other.high),
        )

    def summary(self) -> dict[str, float | int]:
        """Mean, standard deviation, range and count; of at least one value."""
        std = float(np.sqrt(self.squares / self.count))
        return {"mean": self.mean, "std": std, "min": self.low, "max": self.high, "count": self.count}


def kept_moments(spec: ArraySpec, unit: np.ndarray) -> Kept:
    """Moments of one unit of an array and, where it has a dim `time`, of the next frame less the frame."""
    kept = {VALUES: list(astuple(Moments.of(unit)))}
    if "time" in spec.dims:
        axis = spec.dims.index("time") - 1
        with np.errstate(invalid="ignore"):  # a score may be infinite from some frame on: no number, not counted
            change = np.diff(unit.astype("float64"), axis=axis)
        kept[DIFFERENCES] = list(astuple(Moments.of(change)))
    return kept


def merged_moments(total: Mapping[str, Moments], kept: Kept) -> dict[str, Moments]:
    """The moments of each kind with those of one more unit."""
    return {kind: total.get(kind, Moments()).merged(_read(numbers)) for kind, numbers in kept.items()}


def _read(numbers: list[float]) -> Moments:
    count, *others = numbers
    return Moments(int(count), *others)
