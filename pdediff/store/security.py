"""What a Zarr tree may contain before anything of it is decoded: version 3, plain numbers, known codecs, no way out."""

from __future__ import annotations

import json
import math
import os
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np

from pdediff.errors import ConfigError, DataError, IntegrityError
from pdediff.store.files import check_name

GIB = 1 << 30
TYPES = frozenset(
    ["bool", *(f"{sign}int{bits}" for sign in ("", "u") for bits in (8, 16, 32, 64)), "float16", "float32", "float64"]
)
CODECS = frozenset(["bytes", "zstd", "blosc", "gzip", "crc32c", "sharding_indexed", "transpose"])
OLD = frozenset([".zarray", ".zgroup", ".zattrs", ".zmetadata"])
METADATA_LIMIT = 64 << 20  # bytes of one zarr.json


def check_tree(root: Path, limit: int = 256 * GIB, chunk_limit: int = GIB) -> None:
    """Refuses a Zarr tree that could run code, leave its folder or blow up memory, from its metadata alone.

    `limit` bounds the declared bytes of all arrays, `chunk_limit` those of one chunk (what one read must decode).
    Raises DataError naming the array and the reason; IntegrityError for metadata that do not parse.
    """
    total = 0
    for folder, names, files in os.walk(root):
        for name in (*names, *files):
            _check_entry(root, Path(folder) / name)
        if "zarr.json" in files:
            node = Path(folder) / "zarr.json"
            total += _check_node(node, node.parent.relative_to(root).as_posix(), chunk_limit)
            if total > limit:
                raise DataError(f"{root} declares more than {limit / GIB:.3g} GiB", hint="open it with a larger limit")


def check_folder(path: Path, limit: int = 256 * GIB) -> None:
    """`check_tree` of a store folder's Zarr tree, and no link beside it that leaves the folder."""
    for entry in path.iterdir():
        _check_entry(path, entry)
    check_tree(path / "data.zarr", limit)


def _check_entry(root: Path, entry: Path) -> None:
    if entry.name in OLD:
        raise DataError(f"{root} is Zarr version 2 ({entry.name}); only version 3 is read", hint="convert it first")
    if entry.is_symlink() and not entry.resolve().is_relative_to(root.resolve()):
        raise DataError(f"{entry} is a link that leaves {root}; not opened")


def _check_node(file: Path, name: str, chunk_limit: int) -> int:
    """Checks one zarr.json; returns the bytes its array declares."""
    try:
        if file.stat().st_size > METADATA_LIMIT:
            raise DataError(f"{file} is larger than metadata can be; not opened")
        meta = json.loads(file.read_bytes())
        if meta["zarr_format"] != 3 or meta["node_type"] not in ("group", "array"):
            raise DataError(f"{file}: only groups and arrays of Zarr version 3 are read")
        for part in name.split("/") if name != "." else ():
            check_name(part, "array name")
        return _check_array(meta, name, chunk_limit) if meta["node_type"] == "array" else 0
    except ConfigError as error:
        raise DataError(f"{file.parent}: {error.message}") from None
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise IntegrityError(
            f"{file} is damaged: not the metadata of a Zarr array or group", hint="pdediff repair"
        ) from error


def _check_array(meta: dict[str, Any], name: str, chunk_limit: int) -> int:
    kind = meta["data_type"]
    if not isinstance(kind, str) or kind not in TYPES:
        raise DataError(f"array {name}: data type {str(kind)[:60]} is not a plain number; not opened")
    if meta.get("storage_transformers"):
        raise DataError(f"array {name}: storage transformers are not read")
    bytes_each = np.dtype(kind).itemsize
    shape = [int(n) for n in meta["shape"]]
    chunk = [int(n) for n in meta["chunk_grid"]["configuration"]["chunk_shape"]]
    if min([0, *shape]) < 0 or min([1, *chunk]) < 1 or len(shape) != len(chunk):
        raise DataError(f"array {name}: shape {shape} and chunk {chunk} do not fit")
    shards = [codec for codec in _codecs(meta["codecs"], name) if codec["name"] == "sharding_indexed"]
    for codec in shards:
        inner = [int(n) for n in codec["configuration"]["chunk_shape"]]
        if len(inner) != len(chunk) or any(i < 1 or c % i for i, c in zip(inner, chunk, strict=True)):
            raise DataError(f"array {name}: chunk {inner} does not divide shard {chunk}")
        if math.prod(c // i for i, c in zip(inner, chunk, strict=True)) > chunk_limit // 16:
            raise DataError(f"array {name}: too many chunks in a shard")
        chunk = inner
    if math.prod(chunk) * bytes_each > chunk_limit:
        raise DataError(f"array {name}: one chunk declares {math.prod(chunk) * bytes_each / GIB:.3g} GiB; not opened")
    return math.prod(shape) * bytes_each


def _codecs(codecs: Iterable[dict[str, Any]], name: str) -> list[dict[str, Any]]:
    """All codecs of an array, those inside shards included, each from the list of known ones."""
    found = []
    for codec in codecs:
        codec = {"name": codec} if isinstance(codec, str) else codec
        if codec["name"] not in CODECS:
            known = ", ".join(sorted(CODECS))
            raise DataError(f"array {name}: codec {str(codec['name'])[:60]!r} is not one of {known}")
        found.append(codec)
        inner = codec.get("configuration", {})
        found += _codecs([*inner.get("codecs", []), *inner.get("index_codecs", [])], name)
    return found
