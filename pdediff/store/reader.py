"""Opening a store with xarray, and what exists under a data root."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import xarray as xr

from pdediff.errors import DataError, IntegrityError, PdediffError
from pdediff.store.layout import CONFIG, DATA, RECEIPTS, get_array, is_present, object_file, open_data, read_schema
from pdediff.store.lock import is_writing
from pdediff.store.manifest import read_manifest
from pdediff.store.receipts import Receipt, read_receipts
from pdediff.store.security import GIB, check_folder

KINDS = ("sets", "runs", "plans", "samples", "forecasts", "recon", "reports")
_FOLDER = re.compile(r"(?P<name>[a-z0-9][a-z0-9_.-]*)-(?P<hash>[0-9a-f]{12})")


def check_store(path: Path, allow_partial: bool = False, limit: int = 256 * GIB) -> dict[int, Receipt]:
    """Its receipts, when folder `path` is a store that may be read.

    Raises DataError (not a store, or unsafe content), IntegrityError (not complete, damaged manifest, lost objects).
    """
    if not (path / DATA).is_dir():
        raise DataError(f"{path} is not a store: it has no {DATA}")
    check_folder(path, limit)
    receipts = read_receipts(path / RECEIPTS)
    schema = read_schema(path)
    if not allow_partial and read_manifest(path) is None:
        raise IntegrityError(
            f"{path} is not complete: {len(receipts)} of {schema.size} samples are done",
            hint="run the command that makes it again, or allow a partial store",
        )
    root = open_data(path)
    for spec in schema.all_arrays():
        array = get_array(root, spec.path)
        for shard in range(schema.shards):  # an object that is not there would read as NaN without any error
            first = schema.rows(shard)[0]
            if first in receipts and not is_present(object_file(path, array, first)):
                message = f"sample {first} of {spec.path} is damaged (missing)"
                raise IntegrityError(message, hint=f"pdediff repair {path}")
    for spec in schema.columns():
        if not is_present(object_file(path, get_array(root, spec.path), 0)):
            raise IntegrityError(f"column {spec.path} is damaged (missing)", hint=f"pdediff repair {path}")
    return receipts


def open_store(path: str | Path, allow_partial: bool = False, limit: int = 256 * GIB) -> xr.Dataset | xr.DataTree:
    """The store as a lazy xarray Dataset, or a DataTree when it has groups; nothing is decoded yet.

    `limit` is the largest number of bytes that the arrays may declare. Raises as `check_store`. With `allow_partial`
    only rows of `status` 0 are finished; the others are NaN or not to be used.
    """
    path = Path(path)
    check_store(path, allow_partial, limit)
    plain = {"engine": "zarr", "chunks": None, "consolidated": False, "decode_times": False, "mask_and_scale": False}
    if any("/" in spec.path for spec in read_schema(path).arrays):
        return xr.open_datatree(path / DATA, **plain)
    return xr.open_dataset(path / DATA, **plain)


@dataclass(frozen=True)
class Entry:
    """One stage output under a data root; `status` is complete, writing, partial or damaged, `size` bytes."""

    kind: str
    name: str
    hash: str
    status: str
    size: int
    path: Path


def catalogue(root: str | Path) -> list[Entry]:
    """Every `<kind>/<name>-<hash>` folder under a data root, in order of kind and name."""
    return [entry for kind in KINDS for entry in _entries(Path(root) / kind, kind)]


def _entries(folder: Path, kind: str) -> Iterator[Entry]:
    if not folder.is_dir():
        return
    for path in sorted(folder.iterdir()):
        match = _FOLDER.fullmatch(path.name)
        if match and path.is_dir():
            yield Entry(kind, match["name"], match["hash"], _status(path), _size(path), path)


def _status(path: Path) -> str:
    if is_writing(path):
        return "writing"
    try:
        if (path / CONFIG).exists():
            read_schema(path) if (path / DATA).exists() else None
        return "complete" if read_manifest(path) is not None else "partial"
    except PdediffError:
        return "damaged"


def _size(path: Path) -> int:
    return sum(os.lstat(os.path.join(folder, name)).st_size for folder, _, files in os.walk(path) for name in files)
