"""Workloads that read a stored array: whole and in random batches, by readers and by bare decoding."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np

Place = tuple[int, int, int]
"""Where a chunk lies: open file, offset, bytes with the checksum at their end."""


def prepare(settings: Mapping[str, Any]) -> Callable[[], Any]:
    """The workload `what`: a way to read `array` of `store`.

    Whole: "numpy" (`np.load` of `file`), "decode", "xarray"; "open" opens the store and reads nothing. All samples in
    random batches of `batch`: "decode batches", "batches" (a reader that keeps nothing in memory and has compared each
    sample with its receipt before), "first batches" (a new reader each time).
    """
    import torch

    torch.set_num_threads(1)
    return {
        "numpy": _numpy,
        "decode": _decode,
        "xarray": _xarray,
        "open": _open,
        "decode batches": _decode_batches,
        "batches": _batches,
        "first batches": _first_batches,
    }[settings["what"]](settings)


def _numpy(settings: Mapping[str, Any]) -> Callable[[], np.ndarray]:
    return lambda: np.load(settings["file"])


def _xarray(settings: Mapping[str, Any]) -> Callable[[], np.ndarray]:
    from pdediff.store import open_store

    data: Any = open_store(settings["store"])[settings["array"]]
    return lambda: np.asarray(data[:].values)  # of a slice: the variable itself would keep what it has read


def _open(settings: Mapping[str, Any]) -> Callable[[], Any]:
    from pdediff.store import open_store

    return lambda: open_store(settings["store"])


def _batches(settings: Mapping[str, Any]) -> Callable[[], int]:
    from pdediff.store import SetReader

    reader = SetReader(settings["store"], memory=0)
    return lambda: sum(len(reader.fields([settings["array"]], rows)) for rows in _shuffled(len(reader), settings))


def _first_batches(settings: Mapping[str, Any]) -> Callable[[], int]:
    return lambda: _batches(settings)()


def _decode(settings: Mapping[str, Any]) -> Callable[[], np.ndarray]:
    """Every chunk read, its checksum compared, decoded into its place: what no reader of this store can do without."""
    places, like, chunk = _chunks(settings)

    def run() -> np.ndarray:
        out = np.empty(like.shape, like.dtype)
        for k, place in enumerate(places):
            _read(place, out[k * chunk : (k + 1) * chunk])
        return out

    return run


def _decode_batches(settings: Mapping[str, Any]) -> Callable[[], int]:
    """The chunks that hold a sample of the batch, each decoded once, and the samples copied out of them."""
    places, like, chunk = _chunks(settings)

    def batch(rows: np.ndarray) -> np.ndarray:
        out = np.empty((len(rows), *like.shape[1:]), like.dtype)
        held = np.empty((chunk, *like.shape[1:]), like.dtype)
        for number in np.unique(rows // chunk).tolist():
            _read(places[number], held)
            here = np.flatnonzero(rows // chunk == number)
            out[here] = held[rows[here] - number * chunk]
        return out

    return lambda: sum(len(batch(rows)) for rows in _shuffled(len(like), settings))


def _shuffled(samples: int, settings: Mapping[str, Any]) -> list[np.ndarray]:
    order, size = np.random.default_rng(0).permutation(samples), settings["batch"]
    return [order[start : start + size] for start in range(0, samples, size)]


def _chunks(settings: Mapping[str, Any]) -> tuple[list[Place], np.ndarray, int]:
    """Where the chunks of whole shards lie, the array as numpy has it (not read), and the samples of a chunk."""
    import zarr

    folder = Path(settings["store"]) / "data.zarr"
    array = zarr.open_group(folder, mode="r")[settings["array"]]
    assert isinstance(array, zarr.Array)
    assert array.shards is not None
    assert array.shape[0] % array.shards[0] == 0
    count, places = array.shards[0] // array.chunks[0], []
    for shard in range(array.shape[0] // array.shards[0]):
        key = array.metadata.encode_chunk_key((shard,) + (0,) * (array.ndim - 1))
        handle = os.open(folder / settings["array"] / key, os.O_RDONLY)
        index = os.pread(handle, 16 * count, os.fstat(handle).st_size - 16 * count - 4)
        places += [(handle, offset, size) for offset, size in np.frombuffer(index, "<u8").reshape(-1, 2).tolist()]
    return places, np.load(settings["file"], mmap_mode="r"), array.chunks[0]


def _read(place: Place, out: np.ndarray) -> None:
    from google_crc32c import value
    from numcodecs.blosc import decompress

    handle, offset, size = place
    data = os.pread(handle, size, offset)
    body = data[:-4]
    assert value(body) == int.from_bytes(data[-4:], "little")
    decompress(body, out)
