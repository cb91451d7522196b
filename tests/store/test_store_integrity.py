"""Every kind of damage is found by verify, refused by readers, and repaired to the same content hash."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import store_recipe as recipe
import zarr

from pdediff import store
from pdediff.errors import DataError, IntegrityError
from pdediff.store.receipts import append_receipts, read_receipts

pytestmark = pytest.mark.fault


def _flip(path: Path) -> None:
    recipe.flip(recipe.objects(path, "pressure")[2], 40, 3)


def _truncate(path: Path) -> None:
    file = recipe.objects(path, "pressure")[2]
    file.write_bytes(file.read_bytes()[:-9])


def _empty(path: Path) -> None:
    recipe.objects(path, "pressure")[2].write_bytes(b"")


def _zero_tail(path: Path) -> None:
    file = recipe.objects(path, "pressure")[2]
    data = file.read_bytes()
    file.write_bytes(data[: len(data) // 2] + bytes(len(data) - len(data) // 2))


def _missing(path: Path) -> None:
    recipe.objects(path, "pressure")[2].unlink()


def _swapped(path: Path) -> None:
    """A whole, valid object in the wrong place: no codec can see it."""
    files = recipe.objects(path, "pressure")
    shutil.copyfile(files[3], files[2])


def _rewritten(path: Path) -> None:
    """Valid bytes of other numbers."""
    array = zarr.open_array(path / "data.zarr" / "pressure", mode="r+")
    array[8:12] = np.asarray(array[8:12]) + 1


def _group_array(path: Path) -> None:
    recipe.flip(recipe.objects(path, "posterior/pressure")[2], 40, 3)


def _scalar(path: Path) -> None:
    recipe.flip(recipe.objects(path, "viscosity")[2], 20, 6)


def _status(path: Path) -> None:
    shutil.copyfile(recipe.objects(path, "status")[1], recipe.objects(path, "status")[2])


DAMAGE: dict[str, tuple[Callable[[Path], None], str, set[str], set[int]]] = {
    "flip": (_flip, "pressure", {"checksum"}, {8, 9}),  # one chunk holds two samples
    "truncated": (_truncate, "pressure", {"checksum"}, {8, 9, 10, 11}),
    "empty": (_empty, "pressure", {"missing"}, {8, 9, 10, 11}),
    "zero tail": (_zero_tail, "pressure", {"checksum"}, {8, 9, 10, 11}),
    "missing": (_missing, "pressure", {"missing"}, {8, 9, 10, 11}),
    "swapped": (_swapped, "pressure", {"content"}, {8, 9, 10, 11}),
    "rewritten": (_rewritten, "pressure", {"content"}, {8, 9, 10, 11}),
    "group": (_group_array, "posterior/pressure", {"checksum"}, {8, 9}),
    "scalar": (_scalar, "viscosity", {"checksum"}, {8, 9}),
    "status": (_status, "status", {"content"}, {9}),
}


@pytest.mark.parametrize("name", DAMAGE)
def test_damaged_data_are_found_refused_and_repaired(finished: Path, name: str) -> None:
    harm, array, kinds, samples = DAMAGE[name]
    before, asked = store.content_hash(finished), []
    harm(finished)

    found = store.verify(finished)
    assert {d.array for d in found} == {array}
    assert {d.sample for d in found} == samples
    assert {d.kind for d in found} == kinds
    assert f"sample {min(samples)} of {array} is damaged" in found[0].message

    with pytest.raises(IntegrityError, match=rf"sample {min(samples)} of {array} is damaged"):
        store.SetReader(finished, memory=0).array(array, np.arange(recipe.SIZE))
    with pytest.raises(IntegrityError, match=rf"sample {min(samples)} of {array} is damaged"):
        store.SetReader(finished).array(array, np.array([min(samples)]))

    def compute(shard: int) -> list[store.Receipt]:
        asked.append(shard)
        return recipe.write(finished, shard)

    assert store.repair(finished, compute) == asked == [2]
    assert store.verify(finished) == []
    assert store.content_hash(finished) == before == store.read_manifest(finished)["content"]


@pytest.mark.parametrize("name", DAMAGE)
def test_resume_computes_damaged_shards_again(finished: Path, name: str) -> None:
    """What a writer finds on its way back counts as missing, receipts or not."""
    before = store.content_hash(finished)
    (finished / "manifest.json").unlink()
    DAMAGE[name][0](finished)
    with store.Writer(finished) as writer:
        assert writer.missing() == [2]
    assert recipe.fill(finished) == before
    assert store.verify(finished) == []


def test_every_bit_of_a_shard_is_covered(finished: Path) -> None:
    """100 single-bit flips spread over one object, its index included: none may read back as if nothing happened."""
    file = recipe.objects(finished, "pressure")[0]
    whole = file.read_bytes()
    array = zarr.open_array(finished / "data.zarr" / "pressure", mode="r")
    silent = []
    for k, place in enumerate(np.linspace(0, len(whole) - 1, 100, dtype=int)):
        recipe.flip(file, int(place), k % 8)
        try:
            array[0:4]
            silent.append(int(place))
        except Exception:
            pass
        file.write_bytes(whole)
    assert silent == []


def test_torn_and_damaged_receipts_are_ignored_then_repaired(finished: Path) -> None:
    before = store.content_hash(finished)
    log = finished / "receipts.jsonl"
    lines = log.read_bytes().split(b"\n")
    lines[9] = lines[9].replace(b'"version":"v1"', b'"version":"v2"')  # valid JSON, wrong seal
    log.write_bytes(b"\n".join(lines)[:-20])
    found = store.verify(finished)
    assert [(d.kind, d.sample, d.shard) for d in found] == [("receipt", 9, 2), ("receipt", 21, 5)]
    with pytest.raises(IntegrityError, match="2 of 22 units are missing"):
        store.content_hash(finished)
    assert store.repair(finished, lambda shard: recipe.write(finished, shard)) == [2, 5]
    assert store.content_hash(finished) == before
    assert store.verify(finished) == []


def test_lines_after_a_torn_one_stay_readable(empty: Path) -> None:
    log = empty / "receipts.jsonl"
    receipts = recipe.write(empty, 0)
    append_receipts(log, receipts[:2])
    os.truncate(log, log.stat().st_size - 7)
    append_receipts(log, receipts[2:])
    assert sorted(read_receipts(log)) == [0, 2, 3]


@pytest.mark.parametrize("state", ["missing", "flipped", "torn"])
def test_manifest(finished: Path, state: str) -> None:
    before, file = store.content_hash(finished), finished / "manifest.json"
    if state == "missing":
        file.unlink()
        refused = pytest.raises(IntegrityError, match="is not complete")
    elif state == "flipped":  # still JSON
        file.write_text(file.read_text().replace('"units":22', '"units":21'))
        refused = pytest.raises(IntegrityError, match=r"manifest\.json is damaged")
    else:
        file.write_bytes(file.read_bytes()[:100])
        refused = pytest.raises(IntegrityError, match=r"manifest\.json is damaged")
    with refused:
        store.open_store(finished)
    assert [d.kind for d in store.verify(finished)] == ["manifest"]
    assert store.repair(finished, lambda shard: recipe.write(finished, shard)) == []
    assert store.verify(finished) == []
    assert store.read_manifest(finished)["content"] == before
    assert store.open_store(finished).attrs["title"] == "test"


@pytest.mark.parametrize("name", ["pressure/zarr.json", "zarr.json", "posterior/zarr.json", "x/c/0", "x/zarr.json"])
@pytest.mark.parametrize("harm", ["flip", "missing"])
def test_metadata_and_coordinates(finished: Path, name: str, harm: str) -> None:
    file = finished / "data.zarr" / name
    whole = json.loads(file.read_bytes()) if file.suffix else file.read_bytes()
    recipe.flip(file, len(file.read_bytes()) // 2, 1) if harm == "flip" else file.unlink()
    found = store.verify(finished)
    assert [d.kind for d in found] == ["metadata"]
    assert name in found[0].message
    assert store.repair(finished, lambda shard: recipe.write(finished, shard)) == []
    assert (json.loads(file.read_bytes()) if file.suffix else file.read_bytes()) == whole
    assert store.verify(finished) == []


def test_config(finished: Path) -> None:
    file = finished / "config.json"
    file.write_text(file.read_text().replace('"alpha":2.0', '"alpha":3.0'))
    with pytest.raises(IntegrityError, match=r"config\.json is damaged"):
        recipe.make(finished)
    assert [d.kind for d in store.verify(finished)] == ["config"]
    store.repair(finished, lambda shard: recipe.write(finished, shard))
    assert store.read_identity(finished) == recipe.IDENTITY
    assert store.verify(finished) == []


def test_repair_refuses_other_numbers(finished: Path) -> None:
    """A solver that changed must not slip into an old data set."""
    _flip(finished)

    def other(shard: int) -> list[store.Receipt]:
        data = recipe.rows(shard)
        data["pressure"] = data["pressure"] + 1
        return store.write_shard(finished, shard, data, [recipe.key(i) for i in recipe.SCHEMA.rows(shard)], {}, "v2", 0)

    with pytest.raises(IntegrityError, match=r"sample 8 .* came out different when computed again") as caught:
        store.repair(finished, other)
    assert "v1, now v2" in str(caught.value.hint)
    assert {d.kind for d in store.verify(finished)} == {"content"}
    with pytest.raises(IntegrityError, match="gave receipts of other samples"):
        store.repair(finished, lambda shard: recipe.write(finished, 1))
    assert store.repair(finished, lambda shard: recipe.write(finished, shard)) == [2]
    assert store.verify(finished) == []


def test_repair_without_receipts_compares_with_the_manifest(finished: Path) -> None:
    (finished / "receipts.jsonl").unlink()

    def other(shard: int) -> list[store.Receipt]:
        data = recipe.rows(shard)
        data["pressure"] = np.sign(data["pressure"])
        return store.write_shard(finished, shard, data, [recipe.key(i) for i in recipe.SCHEMA.rows(shard)], {}, "v2", 0)

    with pytest.raises(IntegrityError, match="content is no longer that of its manifest"):
        store.repair(finished, other)
    assert store.repair(finished, lambda shard: recipe.write(finished, shard)) == [0, 1, 2, 3, 4, 5]


def test_half_done_store_is_incomplete_and_repaired_only_where_it_was_written(empty: Path) -> None:
    with store.Writer(empty) as writer:
        for shard in (0, 1, 2):
            writer.accept(recipe.write(empty, shard))
    assert [(d.kind, d.message) for d in store.verify(empty)] == [("incomplete", "10 of 22 samples are not written")]
    _flip(empty)
    assert {d.kind for d in store.verify(empty)} == {"checksum", "incomplete"}
    assert store.repair(empty, lambda shard: recipe.write(empty, shard)) == [2]
    assert not store.is_complete(empty)
    assert [d.kind for d in store.verify(empty)] == ["incomplete"]


def test_reading_while_writing_shows_only_receipted_samples(empty: Path) -> None:
    with store.Writer(empty) as writer:
        writer.accept(recipe.write(empty, 0))
        recipe.write(empty, 1)  # on disk, its receipts not yet taken
        with pytest.raises(IntegrityError, match="is not complete: 4 of 22 samples are done"):
            store.open_store(empty)
        with pytest.raises(IntegrityError, match="is not complete"):
            store.SetReader(empty)
        tree = store.open_store(empty, allow_partial=True)
        np.testing.assert_array_equal(np.flatnonzero(tree["status"].values == 0), [0, 1, 2, 3, 4, 6, 7])
        reader = store.SetReader(empty, allow_partial=True)
        np.testing.assert_array_equal(reader.split("train"), [0, 3])
        fields = reader.fields(["pressure"], range(6)).numpy()[:, 0]
        np.testing.assert_array_equal(fields[3], recipe.reference("pressure", 3))
        assert np.isnan(fields[4:]).all()


def test_not_a_store(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"is not a store: it has no data\.zarr"):
        store.open_store(tmp_path / "nothing")
