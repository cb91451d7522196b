"""Rows straight from shard files: those of Zarr, for any choice of rows; damage is an error, never a number."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import google_crc32c
import numpy as np
import pytest
import store_recipe as recipe
import zarr
from numcodecs.blosc import Blosc
from zarr.codecs import BloscCodec, BytesCodec, Crc32cCodec, ShardingCodec, ZstdCodec

from pdediff import store
from pdediff.store import dataset
from pdediff.store.chunks import is_plain, read_chunks
from pdediff.store.layout import get_array, open_data

ROWS = [
    [],
    [0],
    [21],
    [0, 1],
    [1, 2],
    [3, 4, 5],
    [0, 1, 2, 3, 7, 16, 17, 18, 21],
    list(range(recipe.SIZE)),
    list(range(1, recipe.SIZE, 3)),
]


def bits(values: np.ndarray) -> bytes:
    return np.ascontiguousarray(values).tobytes()


@pytest.mark.parametrize("rows", ROWS)
def test_rows_are_those_of_zarr(rows: list[int], original: Path) -> None:
    """Every array, the short last shard and rejected rows included; bit for bit, NaN too."""
    root = open_data(original)
    for spec in recipe.SCHEMA.all_arrays():
        array = get_array(root, spec.path)
        assert is_plain(array)
        found = read_chunks(original, array, np.array(rows, "int64"))
        expected = np.asarray(array[...])[rows]
        assert (found.dtype, found.shape) == (expected.dtype, expected.shape)
        assert bits(found) == bits(expected)


def test_what_is_not_written_is_the_fill_value(empty: Path) -> None:
    array = get_array(open_data(empty), "pressure")
    recipe.write(empty, 1)
    found = read_chunks(empty, array, np.array([0, 4, 6, 12]))
    assert np.isnan(found[[0, 3]]).all()
    np.testing.assert_array_equal(found[1], recipe.reference("pressure", 4))
    recipe.objects(empty, "pressure")[0].write_bytes(b"")  # what a power cut can leave
    assert np.isnan(read_chunks(empty, array, np.array([4]))).all()


def test_every_flipped_byte_is_an_error(finished: Path) -> None:
    """Of the chunks and of their index: no byte of a shard is without a checksum."""
    array, rows = get_array(open_data(finished), "pressure"), np.arange(4)
    file = recipe.objects(finished, "pressure")[0]
    for place in range(file.stat().st_size):
        recipe.flip(file, place)
        with pytest.raises((ValueError, RuntimeError)):
            read_chunks(finished, array, rows)
        recipe.flip(file, place)
    for cut in (1, 8, file.stat().st_size // 2, file.stat().st_size - 3):
        whole = file.read_bytes()
        file.write_bytes(whole[:-cut])
        with pytest.raises((ValueError, RuntimeError)):
            read_chunks(finished, array, rows)
        file.write_bytes(whole)
    assert bits(read_chunks(finished, array, rows)) == bits(np.asarray(array[:4]))


def forged(shard: bytes, chunks: int, number: int, entry: tuple[int, int], body: bytes = b"") -> bytes:
    """A shard whose index, with a right checksum, says that chunk `number` lies somewhere else."""
    at = len(shard) - 16 * chunks - 4
    index = bytearray(shard[at:-4])
    index[16 * number : 16 * number + 16] = np.array(entry, "<u8").tobytes()
    return shard[:at] + body + bytes(index) + google_crc32c.value(bytes(index)).to_bytes(4, "little")


def test_an_index_that_leads_astray_is_an_error(finished: Path) -> None:
    array, file = get_array(open_data(finished), "pressure"), recipe.objects(finished, "pressure")[0]
    shard = file.read_bytes()
    packed = bytes(Blosc(cname="lz4").encode(np.random.default_rng(0).normal(size=(2, 3, 5)).astype("float32")))
    small = bytes(Blosc(cname="lz4").encode(np.zeros(3, "float32")))
    bodies = [body + google_crc32c.value(body).to_bytes(4, "little") for body in (small, packed[:-9], packed)]
    end = len(shard) - 16 * 2 - 4
    for entry in ((2**63, 40), (0, 2**40), (len(shard), 8), (0, 2)):
        file.write_bytes(forged(shard, 2, 0, entry))
        with pytest.raises(ValueError, match=r"chunk|checksum"):
            read_chunks(finished, array, np.array([0]))
    for body in bodies[:-1]:  # of another size than its chunk, and shorter than its header says
        file.write_bytes(forged(shard, 2, 0, (end, len(body)), body))
        with pytest.raises(ValueError, match="another length"):
            read_chunks(finished, array, np.array([0]))
    file.write_bytes(forged(shard, 2, 0, (end, len(bodies[-1])), bodies[-1]))  # what a forger gets right is read
    assert bits(read_chunks(finished, array, np.array([0, 1]))) == bits(np.frombuffer(Blosc().decode(packed), "u1"))
    file.write_bytes(forged(shard, 2, 0, (2**64 - 1, 2**64 - 1)))
    assert np.isnan(read_chunks(finished, array, np.array([0]))).all()


BYTES, PACK, CHECK = BytesCodec(endian="little"), BloscCodec(), Crc32cCodec()
INDEX = [BYTES, CHECK]


@pytest.mark.parametrize(
    "layout",
    [
        {"chunks": (2, 3), "compressors": [PACK, CHECK]},
        {"chunks": (2, 3), "shards": (4, 3), "compressors": [ZstdCodec(), CHECK]},
        {"chunks": (2, 3), "shards": (4, 3), "compressors": [PACK]},
        {"chunks": (2, 1), "shards": (4, 3), "compressors": [PACK, CHECK]},
        {
            "chunks": (4, 3),
            "serializer": ShardingCodec(
                chunk_shape=(2, 3), codecs=[BYTES, PACK, CHECK], index_codecs=INDEX, index_location="start"
            ),
            "compressors": None,
        },
        {
            "chunks": (4, 3),
            "serializer": ShardingCodec(
                chunk_shape=(2, 3), codecs=[BytesCodec(endian="big"), PACK, CHECK], index_codecs=INDEX
            ),
            "compressors": None,
        },
    ],
)
def test_other_layouts_are_left_to_zarr(layout: dict[str, Any], tmp_path: Path) -> None:
    array = zarr.create_array(tmp_path / "a", shape=(8, 3), dtype="float32", **layout)
    assert not is_plain(array)


def test_both_ways_of_reading_give_the_same(original: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    indices = [21, 3, 3, 0, 17]
    direct = store.SetReader(original, memory=0).fields(["pressure", "permeability"], indices)
    asked = []
    monkeypatch.setattr(dataset, "is_plain", lambda array: asked.append(array.path))
    monkeypatch.setattr(dataset, "read_chunks", None)
    by_zarr = store.SetReader(original, memory=0).fields(["pressure", "permeability"], indices)
    assert asked == ["pressure", "permeability"]
    assert direct.equal(by_zarr)
