"""Statistics of the training units, stored with a finished store: what normalises fields and steps of fields."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path

import numpy as np
import zarr

from pdediff.store.files import disk
from pdediff.store.layout import DATA, get_array, open_data, read_schema, stated
from pdediff.store.moments import DIFFERENCES, VALUES, Kept, Moments, kept_moments, merged_moments
from pdediff.store.receipts import Receipt
from pdediff.store.schema import ArraySpec, Schema

TRAIN = 0  # value of `split`: 0 train, 1 valid, 2 test

Summary = dict[str, float | int]


def statistics(path: Path, receipts: Mapping[int, Receipt]) -> dict[str, Summary]:
    """Mean, standard deviation, minimum, maximum and count of each float array over its training units.

    Arrays with a dim `time` also have `difference_mean` and `difference_std`, those of the next frame less the frame.
    Units are those with status ok and, where the store has an array `split`, split 0. The receipts have the moments of
    each unit; of a unit whose receipt has none (an older version wrote it) they are computed from its data. They are
    merged in index order, so the numbers do not depend on shards, workers or resumes. NaNs are left out.
    """
    schema, root = read_schema(path), open_data(path)
    good = np.array([receipts[i].status == "ok" for i in range(schema.size)])
    if any(spec.path == "split" for spec in schema.arrays):
        good &= np.asarray(get_array(root, "split")[...]) == TRAIN
    found = {}
    for spec in schema.arrays:
        if spec.is_float:
            total: dict[str, Moments] = {}
            for kept in _each(spec, get_array(root, spec.path), schema, receipts, good):
                total = merged_moments(total, kept)
            if summary := _summary(total):
                found[spec.path] = summary
    return found


def state(path: Path, found: Mapping[str, Summary]) -> None:
    """Writes mean and std of fields and differences into the attributes of each variable."""
    root = open_data(path, "r+")
    for name, summary in found.items():
        with disk(path / DATA / name):
            get_array(root, name).attrs.update(stated(summary))


def _each(
    spec: ArraySpec, array: zarr.Array, schema: Schema, receipts: Mapping[int, Receipt], good: np.ndarray
) -> Iterator[Kept]:
    """Moments of each training unit in index order; a shard is read only where a receipt lacks them."""
    for shard in range(schema.shards):
        rows = [index for index in schema.rows(shard) if good[index]]
        if all(spec.path in receipts[index].moments for index in rows):
            yield from (receipts[index].moments[spec.path] for index in rows)
            continue
        first, last = rows[0], rows[-1]
        block = np.asarray(array[first : last + 1])
        for index in rows:
            yield receipts[index].moments.get(spec.path) or kept_moments(spec, block[index - first])


def _summary(total: Mapping[str, Moments]) -> Summary:
    whole, change = total.get(VALUES, Moments()), total.get(DIFFERENCES, Moments())
    if not whole.count:
        return {}
    moving = change.summary() if change.count else {}
    return whole.summary() | {f"difference_{name}": moving[name] for name in ("mean", "std") if name in moving}
