"""Columns that say of each unit what its receipt says: time and attempts. The receipts vouch for them."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import numpy as np

from pdediff.store.files import disk, sync
from pdediff.store.layout import DATA, get_array, object_file, open_data, read_schema
from pdediff.store.receipts import Receipt
from pdediff.store.schema import TOLD, ArraySpec


def column_of(spec: ArraySpec, receipts: Mapping[int, Receipt], size: int) -> np.ndarray:
    """Values of one column, `(size,)`; the fill value where there is no receipt."""
    said = TOLD[spec.path][1]
    values = [getattr(receipts[i], said) if i in receipts else spec.fill for i in range(size)]
    return np.array(values, dtype=spec.dtype)


def write_columns(path: Path, receipts: Mapping[int, Receipt]) -> None:
    """Fills every column of the store and forces it to disk."""
    schema = read_schema(path)
    if not schema.told:
        return
    root = open_data(path, "r+")
    for spec in schema.columns():
        array = get_array(root, spec.path)
        with disk(path / DATA / spec.path):
            array[...] = column_of(spec, receipts, schema.size)
            file = object_file(path, array, 0)
            sync(file)
            sync(file.parent)
