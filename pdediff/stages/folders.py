"""Where the output of a stage lies: a folder named by what made it; and whether plain files in it are whole."""

from __future__ import annotations

import hashlib
import secrets
from collections.abc import Iterator
from contextlib import contextmanager
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from pdediff.errors import IntegrityError
from pdediff.store import Lock, digest, read_manifest
from pdediff.store.layout import RECEIPTS
from pdediff.store.receipts import read_receipts

try:
    VERSION = version("pdediff")
except PackageNotFoundError:  # running from a source tree that is not installed
    VERSION = "0+unknown"


def output_folder(root: Path, kind: str, name: str, identity: dict[str, Any]) -> Path:
    """<root>/<kind>/<name>-<hash of the identity>; same identity, same folder: that is caching, resume and retries."""
    return root / kind / f"{name}-{digest(identity)}"


def rejected_of(path: Path) -> dict[int, str]:
    """Units of a finished store that were rejected, with the reasons: a repeated run says the same as the first."""
    return {i: r.reason for i, r in sorted(read_receipts(path / RECEIPTS).items()) if r.status != "ok"}


@contextmanager
def writing(path: Path) -> Iterator[None]:
    """Make the folder, hold its lock, and remove the temporary files of a run that was killed while it wrote there.

    Raises LockedError at once when another run has the lock.
    """
    path.mkdir(parents=True, exist_ok=True)
    with Lock(path, f"{path.name}-{secrets.token_hex(3)}"):
        for left in path.glob("*.partial"):
            left.unlink(missing_ok=True)
        yield


def file_hash(file: Path) -> str:
    """SHA-256 of a file's bytes, hex; empty where there is no file."""
    return hashlib.sha256(file.read_bytes()).hexdigest() if file.is_file() else ""


def damaged_files(path: Path, manifest: dict[str, Any]) -> list[str]:
    """Names of the plain files of a finished folder that are not what its manifest says was written."""
    kept = manifest.get("files") or {"manifest.json": "lists no files"}
    return [name for name, sha256 in kept.items() if file_hash(path / name) != sha256]


def has_whole_files(path: Path) -> bool:
    """Whether the folder is finished and all its files are what was written; else they are to be made again."""
    try:
        manifest = read_manifest(path)
    except IntegrityError:
        return False
    return manifest is not None and not damaged_files(path, manifest)
