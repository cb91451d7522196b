"""Writing whole shards: the checked region write, and the writer that keeps receipts and the manifest."""

from __future__ import annotations

import hashlib
import logging
import secrets
import shutil
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import numpy as np
import zarr

from pdediff.errors import DataError, IntegrityError, PdediffError
from pdediff.store.columns import write_columns
from pdediff.store.files import disk, plain_json, sync
from pdediff.store.integrity import Damage, scan
from pdediff.store.layout import DATA, RECEIPTS, get_array, object_file, open_data, read_schema
from pdediff.store.lock import Lock
from pdediff.store.manifest import write_manifest
from pdediff.store.moments import kept_moments
from pdediff.store.receipts import Making, Receipt, append_receipts, read_receipts
from pdediff.store.schema import OK, REJECTED, Schema
from pdediff.store.security import check_folder
from pdediff.store.statistics import state, statistics

log = logging.getLogger(__name__)


def write_region(path: str | Path, start: int, data: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
    """Writes rows start, start+1, ... of the given arrays and forces them to disk; returns the rows as stored.

    Raises ValueError unless the region starts and ends on shard borders of EVERY array of the store: two tasks that
    share an object would overwrite each other's rows without any error. DataError when a value cannot be stored.
    """
    return _write(Path(path), start, data, None)


def _write(path: Path, start: int, data: Mapping[str, np.ndarray], out: np.ndarray | None) -> dict[str, np.ndarray]:
    """`write_region` where the rows marked by `out` become the fill value of their array, but in arrays that keep."""
    schema, root = read_schema(path), open_data(path, "r+")
    specs = {spec.path: spec for spec in schema.all_arrays()}
    names = list(specs)
    arrays = {name: get_array(root, name) for name in names}
    lengths = {name: len(rows) for name, rows in data.items()}
    if unknown := sorted(set(data) - set(names)):
        raise ValueError(f"{path} has no array {', '.join(unknown)}; it has {', '.join(names)}")
    if len(set(lengths.values())) != 1:
        raise ValueError(f"arrays of one region differ in length: {lengths}")
    stop = start + next(iter(lengths.values()))
    for name, array in arrays.items():
        _check_aligned(name, array, start, stop)
    masks = {name: None if spec.kept else out for name, spec in specs.items()}
    stored = {name: _cast(name, arrays[name], np.asarray(data[name]), masks[name]) for name in names if name in data}
    for name, rows in stored.items():  # in schema order: `status` comes last
        _put(path, arrays[name], start, rows)
    return stored


def _check_aligned(name: str, array: zarr.Array, start: int, stop: int) -> None:
    length, size = (array.shards or array.chunks)[0], array.shape[0]
    whole = all(a == b for a, b in zip((array.shards or array.chunks)[1:], array.shape[1:], strict=True))
    if not (0 <= start < stop <= size and start % length == 0 and (stop % length == 0 or stop == size) and whole):
        raise ValueError(f"region {start}:{stop} does not fit the shards of {name} (length {length}, size {size})")


def _cast(name: str, array: zarr.Array, rows: np.ndarray, out: np.ndarray | None) -> np.ndarray:
    """Rows in the stored dtype, C order, little endian; refuses what would change a value without saying so."""
    if out is not None and out.any():
        rows = rows.copy()
        rows[out] = 0  # what was rejected need not be storable
    kept = _exact(name, array, rows)
    if out is not None and out.any():
        kept = kept.copy()
        kept[out] = array.fill_value
    return kept


def _exact(name: str, array: zarr.Array, rows: np.ndarray) -> np.ndarray:
    if rows.shape[1:] != array.shape[1:]:
        raise ValueError(f"array {name}: units have shape {rows.shape[1:]}, the store expects {array.shape[1:]}")
    kind = array.dtype.newbyteorder("<")
    if kind.kind == "f":
        if rows.dtype.kind not in "fiub":
            raise DataError(f"array {name}: {rows.dtype} values cannot be stored as {array.dtype}")
        with np.errstate(over="ignore"):
            kept = np.ascontiguousarray(rows, dtype=kind)
        if np.isinf(kept).sum() > np.isinf(rows).sum():
            raise DataError(f"array {name}: values beyond the range of {array.dtype}")
        return kept
    kept = np.ascontiguousarray(rows, dtype=kind) if rows.dtype.kind in "iub" else None
    if kept is None or not np.array_equal(kept, rows):
        raise DataError(f"array {name}: {rows.dtype} values cannot be stored as {array.dtype} without a change")
    return kept


def _put(path: Path, array: zarr.Array, start: int, rows: np.ndarray) -> None:
    length = (array.shards or array.chunks)[0]
    files = [object_file(path, array, first) for first in range(start, start + len(rows), length)]
    with disk(path / DATA / array.path, rows.nbytes):
        try:
            array[start : start + len(rows)] = rows
        except (OSError, PdediffError):
            raise
        except Exception:  # Zarr reads the index of an object that it replaces: a damaged one has to go first
            if not any(file.exists() for file in files):
                raise
            for file in files:
                file.unlink(missing_ok=True)
            array[start : start + len(rows)] = rows
        for file in files:
            sync(file)
            sync(file.parent)


def write_shard(
    path: str | Path,
    shard: int,
    data: Mapping[str, np.ndarray],
    keys: Sequence[int],
    rejected: Mapping[int, str],
    version: str,
    seconds: float | Sequence[float],
    attempts: Sequence[int] | None = None,
) -> list[Receipt]:
    """Writes one shard of every array, in any process, and returns its receipts for `Writer.accept`.

    `data` maps every array of the schema to all rows of the shard; `keys` are their seed keys; `rejected` maps unit
    indices (of the whole store) to the reason, their rows become the fill value, but in arrays that are `kept`;
    `seconds` is the time of the shard, or of each unit; `attempts` how often each unit was drawn (default: once).
    Raises ValueError for a shard that does not fit, DataError for values that cannot be stored, ResourceError.
    """
    schema = read_schema(path)
    rows = schema.rows(shard)
    expected = {spec.path for spec in schema.arrays}
    each = [seconds / len(rows)] * len(rows) if isinstance(seconds, int | float) else list(seconds)
    drawn = [1] * len(rows) if attempts is None else list(attempts)
    if set(data) != expected or {len(keys), len(each), len(drawn)} != {len(rows)} or not set(rejected) <= set(rows):
        raise ValueError(
            f"shard {shard} needs {len(rows)} rows and keys of {sorted(expected)} and rejected units in "
            f"{rows.start}..{rows.stop - 1}; got {sorted(data)}, {len(keys)} keys, rejected {sorted(rejected)}"
        )
    for name in sorted(expected):
        if len(data[name]) != len(rows):
            raise ValueError(f"array {name}: {len(data[name])} rows for a shard of {len(rows)}")
    out = np.array([index in rejected for index in rows])
    marks = {"seed": np.array(keys, dtype="uint64"), "status": np.where(out, REJECTED, OK)}
    stored = _write(Path(path), rows.start, {**data, **marks}, out)
    measured = [spec for spec in schema.arrays if spec.is_float]
    return [
        Receipt(
            index=index,
            key=int(keys[i]),
            sha256={name: hashlib.sha256(values[i].tobytes()).hexdigest() for name, values in stored.items()},
            version=version,
            making=Making(
                seconds=round(float(each[i]), 6),
                attempts=int(drawn[i]),
                moments={} if index in rejected else {s.path: kept_moments(s, stored[s.path][i]) for s in measured},
            ),
            status="rejected" if index in rejected else "ok",
            reason=rejected.get(index, ""),
        )
        for i, index in enumerate(rows)
    ]


class Writer:
    """The driver's side of a store, as a context manager: holds the lock, keeps the receipts, ends with the manifest.

    On entry it removes the temporary files of killed writers and re-reads what the receipts say is done; units whose
    bytes are no longer what was receipted count as missing again. Raises LockedError when another run is writing.
    """

    def __init__(self, path: str | Path, run: str = "", check: bool = True) -> None:
        self.path = Path(path)
        self.schema: Schema = read_schema(self.path)
        self.receipts: dict[int, Receipt] = {}
        self._lock = Lock(self.path, run or f"{self.path.name}-{secrets.token_hex(3)}")
        self._check = check

    def __enter__(self) -> Self:
        self._lock.__enter__()
        try:
            for left in self.path.rglob("*.partial"):
                shutil.rmtree(left) if left.is_dir() else left.unlink(missing_ok=True)
            check_folder(self.path)
            self.receipts = read_receipts(self.path / RECEIPTS)
            for damage in scan(self.path, self.receipts) if self._check else ():
                self._forget(damage)
        except BaseException:
            self._lock.__exit__(None, None, None)
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._lock.__exit__(kind, error, trace)

    def _forget(self, damage: Damage) -> None:
        log.warning("%s: %s; it is computed again", self.path, damage.message)
        if damage.sample is not None:
            self.receipts.pop(damage.sample, None)

    @property
    def rejected(self) -> dict[int, str]:
        """Rejected units and why."""
        return {i: self.receipts[i].reason for i in sorted(self.receipts) if self.receipts[i].status != "ok"}

    def missing(self) -> list[int]:
        """Shards of which at least one unit has no receipt; rejected units count as done."""
        return [s for s in range(self.schema.shards) if any(i not in self.receipts for i in self.schema.rows(s))]

    def accept(self, receipts: Iterable[Receipt]) -> None:
        """Appends receipts to the log and forces it to disk; from then on their units are done."""
        new = list(receipts)
        if self._lock.free:
            raise ValueError("a Writer accepts receipts only inside its `with` block")
        if any(not 0 <= r.index < self.schema.size for r in new):
            raise ValueError(f"receipts of units outside 0..{self.schema.size - 1}")
        append_receipts(self.path / RECEIPTS, new)
        self.receipts.update({r.index: r for r in new})

    def finish(self, attrs: Mapping[str, Any]) -> str:
        """Writes statistics, columns, attributes and the manifest; the store is complete from then on.

        Returns the content hash.
        Raises IntegrityError while units are missing.
        """
        if left := self.missing():
            raise IntegrityError(f"{self.path} lacks {len(left)} of {self.schema.shards} shards", hint="run it again")
        root = open_data(self.path, "r+")
        found = statistics(self.path, self.receipts)
        with disk(self.path / DATA):
            root.attrs.update({**plain_json(attrs), "statistics": found})
        state(self.path, found)
        write_columns(self.path, self.receipts)
        return write_manifest(self.path, self.receipts)
