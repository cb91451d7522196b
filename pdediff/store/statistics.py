"""Statistics of the training units, stored with a finished store: what normalises fields and steps of fields."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import numpy as np
import zarr

from pdediff.store.files import disk
from pdediff.store.layout import DATA, get_array, open_data, read_schema, stated
from pdediff.store.receipts import Receipt
from pdediff.store.schema import ArraySpec, Schema

TRAIN = 0  # value of `split`: 0 train, 1 valid, 2 test

Summary = dict[str, float | int]


def statistics(path: Path, receipts: Mapping[int, Receipt]) -> dict[str, Summary]:
    """Mean, standard deviation, minimum, maximum and count of each float array over its training units.

    Arrays with a dim `time` also have `difference_mean` and `difference_std`, those of the next frame less the frame.
    Units are those with status ok and, where the store has an array `split`, split 0. Summed in float64 in index
    order from per-unit moments (Chan et al. 1983, eq. 2.1), so the numbers do not depend on shards. NaNs are left out.
    """
    schema, root = read_schema(path), open_data(path)
    good = np.array([receipts[i].status == "ok" for i in range(schema.size)])
    if any(spec.path == "split" for spec in schema.arrays):
        good &= np.asarray(get_array(root, "split")[...]) == TRAIN
    found = {}
    for spec in schema.arrays:
        if np.dtype(spec.dtype).kind == "f":
            summary = _summarise(spec, get_array(root, spec.path), schema, good)
            if summary:
                found[spec.path] = summary
    return found


def state(path: Path, found: Mapping[str, Summary]) -> None:
    """Writes mean and std of fields and differences into the attributes of each variable."""
    root = open_data(path, "r+")
    for name, summary in found.items():
        with disk(path / DATA / name):
            get_array(root, name).attrs.update(stated(summary))


def _summarise(spec: ArraySpec, array: zarr.Array, schema: Schema, good: np.ndarray) -> Summary:
    axis = spec.dims.index("time") - 1 if "time" in spec.dims else None
    total, change = _Moments(), _Moments()
    for shard in range(schema.shards):
        rows = schema.rows(shard)
        if not good[rows.start : rows.stop].any():
            continue
        for index, unit in zip(rows, np.asarray(array[rows.start : rows.stop]), strict=True):
            if good[index]:
                total.add(unit.astype("float64"))
                if axis is not None:
                    change.add(np.diff(unit.astype("float64"), axis=axis))
    if not total.count:
        return {}
    moving = change.summary() if change.count else {}
    return total.summary() | {f"difference_{name}": moving[name] for name in ("mean", "std") if name in moving}


class _Moments:
    """Running count, mean, sum of squared deviations and range."""

    def __init__(self) -> None:
        self.count, self.mean, self.squares = 0, 0.0, 0.0
        self.low, self.high = np.inf, -np.inf

    def add(self, unit: np.ndarray) -> None:
        values = unit[np.isfinite(unit)]
        if not values.size:
            return
        mean = float(values.mean())
        squares = float(((values - mean) ** 2).sum())
        count, step = self.count + values.size, mean - self.mean
        self.squares += squares + step**2 * self.count * values.size / count
        self.mean += step * values.size / count
        self.count = count
        self.low, self.high = min(self.low, float(values.min())), max(self.high, float(values.max()))

    def summary(self) -> Summary:
        std = float(np.sqrt(self.squares / self.count))
        return {"mean": self.mean, "std": std, "min": self.low, "max": self.high, "count": self.count}
