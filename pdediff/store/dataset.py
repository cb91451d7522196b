"""Reading batches for torch, straight from Zarr; every unit is checked against its receipt once."""

from __future__ import annotations

import math
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
import zarr
from torch import Tensor

from pdediff.errors import DataError, IntegrityError, MatchError
from pdediff.store.chunks import is_plain, read_chunks
from pdediff.store.columns import column_of
from pdediff.store.integrity import damage_line, read_rows, sha256_of
from pdediff.store.layout import get_array, open_data, read_schema
from pdediff.store.reader import check_store
from pdediff.store.schema import ArraySpec

SPLITS = {"train": 0, "valid": 1, "test": 2}


class SetReader:
    """Fields of a data set as tensors. Keeps what it read in memory while it fits in `memory` bytes.

    `memory` defaults to half of what the machine has free. Raises as `open_store`; reading raises IntegrityError
    naming sample and array when bytes are not what their receipt says.
    """

    def __init__(self, path: str | Path, allow_partial: bool = False, memory: int | None = None) -> None:
        self.path = Path(path)
        self._receipts = check_store(self.path, allow_partial)
        self.schema = read_schema(self.path)
        self._root = open_data(self.path)
        self._columns = {spec.path: spec for spec in self.schema.columns()}
        self._specs = {spec.path: spec for spec in self.schema.all_arrays()} | self._columns
        free = os.sysconf("SC_AVPHYS_PAGES") * os.sysconf("SC_PAGE_SIZE") // 2
        self._memory = free if memory is None else memory
        self._arrays: dict[str, zarr.Array] = {}
        self._loaded: dict[str, np.ndarray] = {}
        self._checked: dict[str, np.ndarray] = {}

    def __len__(self) -> int:
        return self.schema.size

    @property
    def names(self) -> tuple[str, ...]:
        """Paths of the arrays."""
        return tuple(spec.path for spec in self.schema.arrays)

    @property
    def attrs(self) -> dict[str, Any]:
        """Attributes of the whole store."""
        return dict(self._root.attrs)

    def spec(self, name: str) -> ArraySpec:
        """Dims, shape and attributes of one array; MatchError when the store has no such array."""
        if name not in self._specs:
            raise MatchError(f"{self.path} has no array {name!r}; it has {', '.join(self.names)}")
        return self._specs[name]

    def coordinates(self, dim: str) -> np.ndarray:
        """Values of a coordinate in physical units."""
        if dim not in (*self.schema.coords, self.schema.unit):
            raise MatchError(f"{self.path} has no coordinate {dim!r}")
        return np.asarray(get_array(self._root, dim)[...])

    def statistics(self) -> dict[str, dict[str, float]]:
        """Mean, std, min, max and count of each array over the training split, as stored when the store finished.

        Arrays over time also have `difference_mean` and `difference_std`, of the next frame less the frame.
        """
        found = self.attrs.get("statistics")
        if found is None:
            raise IntegrityError(f"{self.path} has no statistics: it is not complete", hint="run it again")
        return found

    def split(self, name: str) -> np.ndarray:
        """Indices of "train", "valid" or "test" in increasing order, rejected and absent samples left out."""
        if name not in SPLITS:
            raise DataError(f"split {name!r} is not one of {', '.join(SPLITS)}")
        return np.flatnonzero((self.array("split") == SPLITS[name]) & (self.array("status") == 0))

    def fields(self, names: Sequence[str], indices: Sequence[int] | np.ndarray) -> Tensor:
        """Float32 tensor `(len(indices), len(names), *space)`, in the stored units; the arrays must have one shape."""
        shapes = {name: self.spec(name).shape for name in names}
        if len(set(shapes.values())) != 1:
            raise MatchError(f"arrays of {self.path} cannot be channels of one field: shapes {shapes}")
        rows = np.asarray(indices, dtype="int64")
        stacked = np.stack([self.array(name, rows).astype("float32", copy=False) for name in names], axis=1)
        return torch.from_numpy(stacked)

    def array(self, name: str, indices: np.ndarray | None = None) -> np.ndarray:
        """Rows of one array in its stored dtype; all of them without `indices`. A copy: free to change."""
        self.spec(name)
        rows = np.arange(len(self)) if indices is None else np.asarray(indices, dtype="int64")
        if rows.size and not 0 <= rows.min() <= rows.max() < len(self):
            raise DataError(f"sample {rows.min() if rows.min() < 0 else rows.max()} is not in 0..{len(self) - 1}")
        if name in self._columns:  # the receipts know them first
            return column_of(self._columns[name], self._receipts, len(self))[rows]
        if name not in self._loaded and self._fits(name):
            self._loaded[name] = self._read(name, np.arange(len(self)))
        if name in self._loaded:
            return self._loaded[name][rows]
        unique, inverse = np.unique(rows, return_inverse=True)
        return self._read(name, unique)[inverse]

    def _fits(self, name: str) -> bool:
        spec = self._specs[name]
        size = self.schema.size * math.prod(spec.shape) * np.dtype(spec.dtype).itemsize
        return size + sum(a.nbytes for a in self._loaded.values()) <= self._memory

    def _read(self, name: str, rows: np.ndarray) -> np.ndarray:
        """Decodes sorted rows; a row without a receipt (being written, never written) is the fill value."""
        if name not in self._arrays:
            self._arrays[name] = get_array(self._root, name)
        array = self._arrays[name]
        try:
            values = read_chunks(self.path, array, rows) if is_plain(array) else _decoded(array, rows)
        except Exception as error:  # each codec and reader raises its own kind of error
            bad = next((i for i in rows.tolist() if read_rows(array, i, i + 1) is None), None)
            if bad is None:
                raise
            raise self._damaged(bad, name, "checksum") from error
        checked = self._checked.setdefault(name, np.zeros(len(self), dtype=bool))
        for unit, index in enumerate(rows.tolist()):
            receipt = self._receipts.get(index)
            if receipt is None:
                values[unit] = self._specs[name].fill
            elif not checked[index]:
                if sha256_of(values[unit]) != receipt.sha256.get(name):
                    raise self._damaged(index, name, "content")
                checked[index] = True
        return values

    def _damaged(self, index: int, name: str, kind: str) -> IntegrityError:
        return IntegrityError(damage_line(index, name, kind), hint=f"pdediff repair {self.path}")


def _decoded(array: zarr.Array, rows: np.ndarray) -> np.ndarray:
    """Sorted rows of an array; a slice where they are one, which is many times faster than picking rows."""
    if not len(rows):
        return np.empty((0, *array.shape[1:]), array.dtype)
    if rows[-1] - rows[0] == len(rows) - 1:
        return np.array(array[int(rows[0]) : int(rows[-1]) + 1])
    return np.asarray(array.oindex[rows])
