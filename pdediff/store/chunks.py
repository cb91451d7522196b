"""Rows straight from the shard files of an array with the codecs that `create` writes: one read and one decode a chunk.

Zarr decodes the same bytes through an event loop, threads and a buffer more a chunk; it stays the way to all else.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from itertools import pairwise
from pathlib import Path
from typing import Any, cast

import google_crc32c
import numpy as np
import zarr
from numcodecs.blosc import decompress

from pdediff.store.layout import object_file

_ABSENT = 2**64 - 1
_CRC, _ENTRY = 4, 16  # bytes of a checksum, and of an offset and a length in the index of a shard


def is_plain(array: zarr.Array) -> bool:
    """Whether `read_chunks` can read the array: shards of whole units, the index last, Blosc and crc32c."""
    codecs = cast(Any, array.metadata.to_dict()["codecs"])
    if sys.byteorder != "little" or len(codecs) != 1 or codecs[0]["name"] != "sharding_indexed":
        return False
    said = codecs[0]["configuration"]
    names = [[codec["name"] for codec in said[part]] for part in ("codecs", "index_codecs")]
    ends = [said[part][0].get("configuration", {}).get("endian", "little") for part in ("codecs", "index_codecs")]
    return (
        names == [["bytes", "blosc", "crc32c"], ["bytes", "crc32c"]]
        and ends == ["little", "little"]
        and said.get("index_location", "end") == "end"
        and array.chunks[1:] == array.shape[1:]
        and array.shards is not None
        and array.shards[1:] == array.shape[1:]
    )


def read_chunks(path: Path, array: zarr.Array, rows: np.ndarray) -> np.ndarray:
    """Rows, given in increasing order, of an array of store `path`; the fill value where nothing is written.

    Raises ValueError or RuntimeError where bytes are not what was written.
    """
    length, shard = array.chunks[0], (array.shards or array.chunks)[0]
    out = np.empty((len(rows), *array.shape[1:]), array.dtype)
    chunk = np.empty((length, *array.shape[1:]), array.dtype)
    for first, last in _runs(rows // shard):
        with _opened(object_file(path, array, int(rows[first]))) as handle:
            index = _index(handle, shard // length)
            for i, j in _runs(rows[first:last] // length):
                start, stop = first + i, first + j
                number = int(rows[start]) // length
                whole = stop - start == length
                kept = out[start:stop] if whole else chunk
                _decode(handle, index[number % (shard // length)], kept, array.fill_value)
                if not whole:
                    out[start:stop] = chunk[rows[start:stop] - number * length]
    return out


def _runs(values: np.ndarray) -> Iterator[tuple[int, int]]:
    """Where each run of equal values starts and ends."""
    if len(values):
        yield from pairwise([0, *(np.flatnonzero(np.diff(values)) + 1).tolist(), len(values)])


@contextmanager
def _opened(file: Path) -> Iterator[int | None]:
    """A handle; None where there is no object (an empty file is none, as for Zarr)."""
    try:
        handle = os.open(file, os.O_RDONLY)
    except FileNotFoundError:
        yield None
        return
    try:
        yield handle if os.fstat(handle).st_size else None
    finally:
        os.close(handle)


def _index(handle: int | None, chunks: int) -> list[tuple[int, int]]:
    """Offset and length of each chunk of a shard."""
    if handle is None:
        return [(_ABSENT, _ABSENT)] * chunks
    size = chunks * _ENTRY + _CRC
    body = _checked(os.pread(handle, size, max(0, os.fstat(handle).st_size - size)), size)
    return [(int(offset), int(length)) for offset, length in np.frombuffer(body, "<u8").reshape(chunks, 2).tolist()]


def _decode(handle: int | None, place: tuple[int, int], out: np.ndarray, fill: object) -> None:
    """Fills `out`, which is contiguous, with a chunk."""
    offset, length = place
    if handle is None or offset == _ABSENT:
        out[...] = fill
        return
    if offset + length > os.fstat(handle).st_size:
        raise ValueError("a chunk lies outside its shard")
    body = _checked(os.pread(handle, length, offset), length)
    decoded, encoded = (int.from_bytes(body[at : at + 4], "little") for at in (4, 12))  # from Blosc's header
    if (decoded, encoded) != (out.nbytes, len(body)):
        raise ValueError(f"a chunk has another length than {out.nbytes} bytes")
    decompress(body, out)


def _checked(data: bytes, size: int) -> bytes:
    """The data without the checksum at their end. Raises ValueError where it is not theirs."""
    body, mark = data[:-_CRC], data[-_CRC:]
    if len(data) != size or google_crc32c.value(body) != int.from_bytes(mark, "little"):
        raise ValueError("a checksum is not that of its bytes")
    return body
