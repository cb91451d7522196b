"""The manifest: the last file of a finished store; and the statistics stored with it."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from datetime import UTC, datetime
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import numpy as np

from pdediff.errors import IntegrityError
from pdediff.store.files import SCHEMA_VERSION, read_sealed, seal, write_durably
from pdediff.store.layout import (
    MANIFEST,
    RECEIPTS,
    get_array,
    metadata_files,
    open_data,
    read_config,
    read_schema,
)
from pdediff.store.receipts import Receipt, hash_receipts, read_receipts

TRAIN = 0  # value of `split`: 0 train, 1 valid, 2 test


def content_hash(path: str | Path) -> str:
    """SHA-256 over (index, status, hashes) of all units; IntegrityError while units are missing.

    The same bits for any number of workers, order or resume. `verify` proves that the bytes are those of the receipts.
    """
    path = Path(path)
    receipts, size = read_receipts(path / RECEIPTS), read_schema(path).size
    if left := size - len(receipts):
        raise IntegrityError(f"{path} is not complete: {left} of {size} units are missing", hint="run it again")
    return hash_receipts(receipts)


def finish_folder(path: str | Path, content: Mapping[str, object]) -> None:
    """Marks the output folder of a stage as complete by a sealed manifest that holds `content`."""
    record = {"schema_version": SCHEMA_VERSION, "created": datetime.now(UTC).isoformat(timespec="seconds"), **content}
    write_durably(Path(path) / MANIFEST, seal({**record, "complete": True}))


def read_manifest(path: str | Path) -> dict[str, Any] | None:
    """The manifest of a finished folder; None when there is none yet; IntegrityError when it is damaged."""
    path = Path(path)
    manifest = read_sealed(path / MANIFEST)
    if manifest is None and (path / MANIFEST).exists():
        raise IntegrityError(f"{path / MANIFEST} is damaged", hint=f"pdediff repair {path}")
    return manifest


def is_complete(path: str | Path) -> bool:
    """Whether the folder is a finished stage output; IntegrityError when its manifest is damaged."""
    return read_manifest(path) is not None


def write_manifest(path: Path, receipts: Mapping[int, Receipt]) -> str:
    """Seals the store: content hash, hashes of all files that no receipt covers, versions, a copy of the config."""
    content = hash_receipts(receipts)
    record = {
        "content": content,
        "units": len(receipts),
        "rejected": sum(r.status != "ok" for r in receipts.values()),
        "config": read_config(path),
        "attrs": dict(open_data(path).attrs),
        "files": {str(f.relative_to(path)): hash_file(f) for f in metadata_files(path)},
        "versions": {name: _version(name) for name in ("pdediff", "numpy", "zarr", "torch")},
    }
    finish_folder(path, record)
    return content


def hash_file(file: Path) -> str | None:
    """SHA-256 of a small file; None when it is missing."""
    try:
        return hashlib.sha256(file.read_bytes()).hexdigest()
    except FileNotFoundError:
        return None


def _version(package: str) -> str:
    try:
        return version(package)
    except PackageNotFoundError:
        return "not installed"


def statistics(path: Path, receipts: Mapping[int, Receipt]) -> dict[str, dict[str, float | int]]:
    """Mean, standard deviation, minimum, maximum and count of each float array over its training units.

    Units are those with status ok and, where the store has an array `split`, split 0. Summed in float64 in index
    order from per-unit moments (Chan et al. 1983, eq. 2.1), so the numbers do not depend on shards. NaNs are left out.
    """
    schema, root = read_schema(path), open_data(path)
    good = np.array([receipts[i].status == "ok" for i in range(schema.size)])
    if any(spec.path == "split" for spec in schema.arrays):
        good &= np.asarray(get_array(root, "split")[...]) == TRAIN
    found = {}
    for spec in schema.arrays:
        if np.dtype(spec.dtype).kind != "f":
            continue
        array, total = get_array(root, spec.path), _Moments()
        for shard in range(schema.shards):
            rows = schema.rows(shard)
            if not good[rows.start : rows.stop].any():
                continue
            for index, unit in zip(rows, np.asarray(array[rows.start : rows.stop], dtype="float64"), strict=True):
                if good[index]:
                    total.add(unit)
        if total.count:
            found[spec.path] = total.summary()
    return found


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

    def summary(self) -> dict[str, float | int]:
        std = float(np.sqrt(self.squares / self.count))
        return {"mean": self.mean, "std": std, "min": self.low, "max": self.high, "count": self.count}
