"""The manifest: the last file of a finished store."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from datetime import UTC, datetime
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from pdediff.errors import IntegrityError
from pdediff.store.files import SCHEMA_VERSION, read_sealed, seal, write_durably
from pdediff.store.layout import (
    MANIFEST,
    RECEIPTS,
    metadata_files,
    open_data,
    read_config,
    read_schema,
)
from pdediff.store.receipts import Receipt, hash_receipts, read_receipts


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
