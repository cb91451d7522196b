"""Names, digests, sealed JSON and durable small files; disk errors in plain words."""

from __future__ import annotations

import errno
import hashlib
import json
import os
import re
import uuid
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np

from pdediff.errors import ConfigError, ResourceError

SCHEMA_VERSION = 1
NAME = re.compile(r"[a-z0-9][a-z0-9_.-]{0,63}")

_FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
_DENIED = (errno.EACCES, errno.EPERM, errno.EROFS)


def check_name(name: object, what: str) -> str:
    """The name itself when it is safe as a file name (`[a-z0-9][a-z0-9_.-]*`, at most 64), else ConfigError."""
    if not isinstance(name, str) or NAME.fullmatch(name) is None:
        raise ConfigError(
            f"{what} {str(name)[:40]!r} is not a valid name",
            hint="use a-z, 0-9, '_', '.', '-', starting with a letter or digit, at most 64 characters",
        )
    return name


def _plain(value: object) -> object:
    """Numpy scalars, arrays, tuples and paths as what JSON knows."""
    if isinstance(value, np.generic):
        return value.item()
    if isinstance(value, np.ndarray):
        return value.tolist()
    if isinstance(value, os.PathLike):
        return os.fspath(value)
    raise ConfigError(f"{type(value).__name__} cannot be part of a stored description: {str(value)[:60]!r}")


def canonical(value: object) -> str:
    """The one JSON text of a value: keys sorted, no spaces, floats by their shortest exact form."""
    return json.dumps(value, sort_keys=True, separators=(",", ":"), default=_plain)


def plain_json(attrs: Mapping[str, object]) -> dict[str, Any]:
    """Attributes as JSON keeps them: no numpy scalars, no tuples."""
    return json.loads(canonical(dict(attrs)))


def digest(obj: object) -> str:
    """Identity of a stage output: first 12 hex digits of SHA-256 over its canonical JSON and the schema version."""
    return hashlib.sha256(canonical([SCHEMA_VERSION, obj]).encode()).hexdigest()[:12]


def seal(record: Mapping[str, object]) -> str:
    """One line of JSON that carries a checksum of itself, so a damaged record is never taken for a good one."""
    mark = hashlib.sha256(canonical(record).encode()).hexdigest()[:16]
    return canonical({**record, "seal": mark})


def unseal(text: str | bytes) -> dict[str, Any] | None:
    """The record of a sealed line, or None if a byte of it changed."""
    try:
        record = json.loads(text)
        mark = record.pop("seal")
        # As `seal` wrote it, the text without its seal is the body: nothing has to be put into canonical form again.
        body = (text if isinstance(text, bytes) else text.encode()).replace(f'"seal":"{mark}",'.encode(), b"", 1)
    except (ValueError, KeyError, AttributeError, TypeError, RecursionError):
        return None
    if hashlib.sha256(body).hexdigest()[:16] == mark:
        return record
    return record if hashlib.sha256(canonical(record).encode()).hexdigest()[:16] == mark else None


def read_sealed(path: Path) -> dict[str, Any] | None:
    """The record of a sealed file; None when it is missing or damaged."""
    try:
        return unseal(path.read_bytes())
    except (FileNotFoundError, NotADirectoryError, IsADirectoryError):
        return None


@contextmanager
def disk(path: Path, nbytes: int = 0) -> Iterator[None]:
    """Turns disk-full, permission and wrong-path errors of the operating system into one ResourceError line."""
    try:
        yield
    except OSError as error:
        if error.errno in _FULL:
            hint = f"needs about {max(1, nbytes >> 20)} MB" if nbytes else "free some space"
            raise ResourceError(f"disk full while writing {path}", hint=f"{hint}, then run it again") from error
        if error.errno in _DENIED:
            raise ResourceError(f"no permission to write {path}") from error
        if error.errno in (errno.ENOTDIR, errno.EEXIST, errno.EISDIR):
            raise ResourceError(f"cannot write {path}: a file is where a folder is needed") from error
        if error.errno == errno.ENAMETOOLONG:
            raise ResourceError(f"cannot write {path}: the name is too long for this disk") from error
        raise ResourceError(f"cannot write {path}: {error.strerror or error}") from error


def require_place(path: Path) -> None:
    """ResourceError where the folder `path` could not be made; makes nothing. For before a long computation."""
    with disk(path):
        there = next(place for place in (path, *path.parents) if place.exists())
        if not there.is_dir():
            raise NotADirectoryError(errno.ENOTDIR, "not a folder", str(there))
        if not os.access(there, os.W_OK | os.X_OK):
            raise PermissionError(errno.EACCES, "not writable", str(there))


def sync(path: Path) -> None:
    """Forces a file or folder to the disk itself."""
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def write_durably(path: Path, text: str) -> None:
    """Replaces a file by `text` as a whole or not at all, also through a power cut: temp, fsync, rename, fsync."""
    temporary = path.with_name(f"{path.name}.{uuid.uuid4().hex}.partial")
    with disk(path, len(text)):
        try:
            with temporary.open("w", encoding="utf-8") as handle:
                handle.write(text)
                handle.flush()
                os.fsync(handle.fileno())
            temporary.replace(path)
        except BaseException:
            temporary.unlink(missing_ok=True)
            raise
        sync(path.parent)
