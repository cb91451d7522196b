"""Columns filled from receipts, labels of rejected units, statistics of differences: stored, found damaged, mended."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import store_recipe as recipe

from pdediff import store
from pdediff.errors import ConfigError, IntegrityError
from pdediff.store.receipts import Making, append_receipts, read_receipts

SCHEMA = store.Schema(
    unit="sample",
    size=10,
    arrays=(
        store.ArraySpec("u", ("sample", "time", "x"), "float32", (4, 3), {"units": "m"}),
        store.ArraySpec("level", ("sample",), "int8", kept=True),
        store.ArraySpec("split", ("sample",), "int8"),
    ),
    coords={"x": (np.arange(3.0), {})},
    shard=4,
    told=("cost", "attempts"),
)
REJECTED = {3: "too hot", 8: "too cold"}


def values(index: int) -> np.ndarray:
    return np.random.default_rng(index).normal(size=(4, 3)).astype("float32")


def write(path: Path, shard: int, factor: float = 1.0) -> list[store.Receipt]:
    rows = list(SCHEMA.rows(shard))
    data = {
        "u": np.stack([values(i) for i in rows]),
        "level": np.array([i % 2 for i in rows], "int8"),
        "split": np.array([i % 3 for i in rows], "int8"),
    }
    seconds = [factor * (0.5 + 0.125 * i) for i in rows]
    rejected = {i: why for i, why in REJECTED.items() if i in rows}
    return store.write_shard(path, shard, data, rows, rejected, "v1", seconds, [1 + i % 3 for i in rows])


def fill(path: Path, factor: float = 1.0) -> str:
    with store.Writer(path) as writer:
        for shard in writer.missing():
            writer.accept(write(path, shard, factor))
        return writer.finish({"title": "columns"})


@pytest.fixture
def done(tmp_path: Path) -> Path:
    path = tmp_path / "set-0123456789ab"
    store.create(path, SCHEMA, {"seed": 1})
    fill(path)
    return path


COST = (0.5 + 0.125 * np.arange(10)).astype("float32")
ATTEMPTS = 1 + np.arange(10) % 3


def test_columns_say_what_the_receipts_say(done: Path) -> None:
    data, reader = store.open_store(done), store.SetReader(done)
    for name, expected, kind in (("cost", COST, "float32"), ("attempts", ATTEMPTS, "int16")):
        assert data[name].dims == ("sample",)
        assert data[name].dtype == kind
        np.testing.assert_array_equal(data[name].values, expected)
        np.testing.assert_array_equal(reader.array(name), expected)
        np.testing.assert_array_equal(reader.array(name, np.array([7, 2])), expected[[7, 2]])
        assert name not in reader.names
    assert data["cost"].attrs["units"] == "s"
    receipts = read_receipts(done / "receipts.jsonl")
    assert [receipts[i].attempts for i in range(10)] == ATTEMPTS.tolist()
    assert [receipts[i].seconds for i in range(10)] == COST.tolist()


def test_the_time_of_a_unit_is_no_part_of_the_content(done: Path, tmp_path: Path) -> None:
    other = tmp_path / "other"
    store.create(other, SCHEMA, {"seed": 1})
    assert fill(other, factor=3.0) == store.content_hash(done)
    np.testing.assert_array_equal(store.open_store(other)["cost"].values, 3 * COST)


def test_rejected_units_keep_what_is_to_be_kept(done: Path) -> None:
    data = store.open_store(done)
    assert data["level"].values.tolist() == [i % 2 for i in range(10)]
    assert data["split"].values.tolist() == [-1 if i in REJECTED else i % 3 for i in range(10)]
    assert np.isnan(data["u"].values[list(REJECTED)]).all()


def test_statistics_of_differences_stand_with_each_variable(done: Path) -> None:
    data = store.open_store(done)
    train = np.stack([values(i) for i in range(10) if i % 3 == 0 and i not in REJECTED]).astype("float64")
    step = np.diff(train, axis=1)
    expected = {
        "mean": train.mean(),
        "std": train.std(),
        "difference_mean": step.mean(),
        "difference_std": step.std(),
    }
    attrs = dict(data["u"].attrs)
    assert attrs.pop("units") == "m"
    assert attrs == pytest.approx(expected, rel=1e-12)
    kept = data.attrs["statistics"]["u"]
    assert {name: kept[name] for name in expected} == attrs
    assert set(kept) == {*expected, "min", "max", "count"}


def test_one_frame_has_no_difference(tmp_path: Path) -> None:
    arrays = (store.ArraySpec("u", ("sample", "time", "x"), "float32", (1, 3)),)
    schema = store.Schema("sample", 2, arrays, shard=2)
    store.create(tmp_path / "s", schema, {})
    with store.Writer(tmp_path / "s") as writer:
        writer.accept(store.write_shard(tmp_path / "s", 0, {"u": np.ones((2, 1, 3))}, [0, 1], {}, "v1", 0.0))
        writer.finish({})
    assert set(store.open_store(tmp_path / "s")["u"].attrs) == {"mean", "std"}


@pytest.mark.fault
@pytest.mark.parametrize("name", ["cost", "attempts"])
@pytest.mark.parametrize("harm", ["flip", "lose", "rewrite", "metadata"])
def test_a_damaged_column_is_found_and_mended(harm: str, name: str, done: Path) -> None:
    before = (done / "data.zarr" / name / "c" / "0").read_bytes()
    content, file = store.content_hash(done), done / "data.zarr" / name / "c" / "0"
    if harm == "flip":
        recipe.flip(file, 20, 2)
    elif harm == "lose":
        file.unlink()
    elif harm == "rewrite":
        shutil.copyfile(done / "data.zarr" / "x" / "c" / "0", file)
        import zarr

        zarr.open_array(file.parents[1], mode="r+")[...] = 3
    else:
        (file.parents[1] / "zarr.json").write_text("{")
    found = store.verify(done)
    assert len(found) == 1
    assert name in found[0].message
    assert found[0].kind == ("metadata" if harm == "metadata" else "content")
    if harm == "lose":
        with pytest.raises(IntegrityError, match=rf"column {name} is damaged \(missing\)"):
            store.open_store(done)
    assert store.repair(done, lambda shard: write(done, shard)) == []
    assert store.verify(done) == []
    assert file.read_bytes() == before
    assert store.content_hash(done) == content
    np.testing.assert_array_equal(store.open_store(done)["cost"].values, COST)


@pytest.mark.fault
def test_a_mended_unit_keeps_the_time_it_took_at_first(done: Path) -> None:
    (done / "data.zarr" / "u" / "c" / "1" / "0" / "0").unlink()
    assert store.repair(done, lambda shard: write(done, shard, factor=9.0)) == [1]
    np.testing.assert_array_equal(store.open_store(done)["cost"].values, COST)
    assert store.verify(done) == []


@pytest.mark.fault
def test_lost_receipts_take_their_times_with_them(done: Path) -> None:
    content = store.content_hash(done)
    lines = (done / "receipts.jsonl").read_bytes().splitlines(keepends=True)
    (done / "receipts.jsonl").write_bytes(b"".join(lines[:-2]))
    assert store.repair(done, lambda shard: write(done, shard, factor=2.0)) == [2]
    cost = store.open_store(done)["cost"].values
    np.testing.assert_array_equal(cost, np.where(np.arange(10) < 8, COST, 2 * COST))
    assert store.verify(done) == []
    assert store.content_hash(done) == content


@pytest.mark.fault
def test_attributes_of_variables_are_mended(done: Path) -> None:
    before = dict(store.open_store(done)["u"].attrs)
    (done / "data.zarr" / "u" / "zarr.json").unlink()
    assert [d.kind for d in store.verify(done)] == ["metadata"]
    assert store.repair(done, lambda shard: write(done, shard)) == []
    assert dict(store.open_store(done)["u"].attrs) == before
    assert store.verify(done) == []


def test_columns_are_empty_until_the_end(tmp_path: Path) -> None:
    path = tmp_path / "s"
    store.create(path, SCHEMA, {})
    with store.Writer(path) as writer:
        writer.accept(write(path, 1))
    data = store.open_store(path, allow_partial=True)
    assert np.isnan(data["cost"].values).all()
    assert (data["attempts"].values == -1).all()
    reader = store.SetReader(path, allow_partial=True)
    assert reader.array("attempts").tolist() == [-1] * 4 + ATTEMPTS[4:8].tolist() + [-1] * 2
    assert [d.kind for d in store.verify(path)] == ["incomplete"]


def test_receipts_without_attempts_are_read(tmp_path: Path) -> None:
    """Those of stores that were written before attempts were counted."""
    from pdediff.store.files import seal

    old = {"index": 0, "key": 1, "sha256": {}, "version": "v0", "seconds": 1.0, "status": "ok", "reason": ""}
    (tmp_path / "receipts.jsonl").write_text(seal(old) + "\n")
    append_receipts(tmp_path / "receipts.jsonl", [store.Receipt(1, 2, {}, "v1", Making(1.0, attempts=3))])
    found = read_receipts(tmp_path / "receipts.jsonl")
    assert (found[0].attempts, found[1].attempts) == (1, 3)


def test_a_schema_without_columns_is_described_as_before() -> None:
    plain = replace(SCHEMA, told=(), arrays=SCHEMA.arrays[:1])
    assert "told" not in plain.to_json()
    assert "kept" not in json.dumps(plain.to_json())
    again = store.Schema.from_json(json.loads(json.dumps(SCHEMA.to_json())))
    assert again.told == SCHEMA.told
    assert again.arrays == SCHEMA.arrays
    assert store.Schema.from_json(json.loads(json.dumps(plain.to_json()))).told == ()
    with pytest.raises(ConfigError, match="column 'price' is not one of cost, attempts"):
        replace(SCHEMA, told=("price",))
    with pytest.raises(ConfigError, match="array name 'cost' is already taken"):
        replace(SCHEMA, arrays=(store.ArraySpec("cost", ("sample",)),))


def test_the_first_description_stays(done: Path) -> None:
    assert not store.create_first(done, replace(SCHEMA, size=12), {"seed": 2})
    assert store.read_identity(done) == {"seed": 1}
    assert store.is_described(done)
    assert not store.is_described(done.parent)
