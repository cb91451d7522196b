"""Round trip, identity, alignment, lock, and equal content whatever the order and the number of processes."""

from __future__ import annotations

import json
import logging
import multiprocessing
import subprocess
import sys
from concurrent.futures import ProcessPoolExecutor
from dataclasses import replace
from functools import partial
from pathlib import Path

import numpy as np
import pytest
import store_recipe as recipe
import xarray as xr
import zarr

from pdediff import store
from pdediff.errors import ConfigError, DataError, IntegrityError, LockedError, MatchError


def test_round_trip(finished: Path) -> None:
    tree = store.open_store(finished)
    assert isinstance(tree, xr.DataTree)
    for spec in recipe.SCHEMA.all_arrays():
        stored = tree[spec.path]
        assert stored.dims == spec.dims
        assert stored.dtype == spec.dtype
        expected = np.stack([recipe.reference(spec.path, i) for i in range(recipe.SIZE)])
        np.testing.assert_array_equal(stored.values, expected)
    np.testing.assert_array_equal(tree["posterior"]["x"].values, np.linspace(0, 1, 5))  # inherited from the root
    assert tree["x"].attrs == {"units": "m"}
    assert tree["permeability"].attrs["long_name"] == "permeability"
    assert tree.attrs["pde"] == "darcy"
    assert tree.attrs["title"] == "test"


def test_dataset_without_groups_is_lazy(tmp_path: Path) -> None:
    schema = replace(recipe.SCHEMA, arrays=recipe.SCHEMA.arrays[:1], coords={})
    store.create(tmp_path / "s", schema, {})
    with store.Writer(tmp_path / "s") as writer:
        for shard in writer.missing():
            n = len(schema.rows(shard))
            data = {"permeability": np.full((n, 3, 5), shard, "float32")}
            writer.accept(store.write_shard(tmp_path / "s", shard, data, range(n), {}, "v1", 0.0))
        writer.finish({})
    data = store.open_store(tmp_path / "s")
    assert isinstance(data, xr.Dataset)
    assert not data["permeability"].variable._in_memory
    assert float(data["permeability"][21].mean()) == 5.0


def test_statistics_are_those_of_the_training_split(finished: Path) -> None:
    train = [i for i in range(recipe.SIZE) if i % 3 == 0 and i not in recipe.REJECTED]
    values = np.stack([recipe.reference("pressure", i) for i in train]).astype("float64")
    found = store.open_store(finished).attrs["statistics"]["pressure"]
    expected = {"mean": values.mean(), "std": values.std(), "min": values.min(), "max": values.max()}
    assert found.pop("count") == values.size
    assert found == pytest.approx(expected, rel=1e-12)  # another order of summation in float64


def test_rejected_units_have_reasons_and_count_as_done(finished: Path) -> None:
    with store.Writer(finished) as writer:
        assert writer.missing() == []
        assert writer.rejected == recipe.REJECTED
    assert store.read_manifest(finished)["rejected"] == len(recipe.REJECTED)


def test_shards_are_one_object_each(finished: Path) -> None:
    for spec in recipe.SCHEMA.all_arrays():
        assert len(recipe.objects(finished, spec.path)) == recipe.SCHEMA.shards
        array = zarr.open_array(finished / "data.zarr" / spec.path, mode="r")
        assert array.shards == (recipe.SHARD, *spec.shape)
        assert array.chunks == (recipe.CHUNK, *spec.shape)


def test_a_shard_of_nothing_but_fill_value_is_still_an_object(empty: Path) -> None:
    """Otherwise a lost object could not be told from rejected samples."""
    data = {name: values[:2] for name, values in recipe.rows(5).items()}
    store.write_shard(empty, 5, data, [0, 0], {20: "all", 21: "rejected"}, "v1", 0.0)
    for spec in recipe.SCHEMA.all_arrays():
        assert len(recipe.objects(empty, spec.path)) == 1, spec.path


def test_create_keeps_the_same_and_refuses_another(finished: Path) -> None:
    before = store.content_hash(finished)
    recipe.make(finished)
    assert store.is_complete(finished)
    assert store.content_hash(finished) == before
    other = {**recipe.IDENTITY, "pde": {"kind": "Darcy", "alpha": 2.5}}
    with pytest.raises(ConfigError, match=r"was made with pde\.alpha=2\.0, config says 2\.5$") as caught:
        store.create(finished, recipe.SCHEMA, other)
    assert caught.value.context == {"field": "pde.alpha", "stored": "2.0", "asked": "2.5"}
    with pytest.raises(ConfigError, match="was made with seed=3, config says nothing"):
        store.create(finished, recipe.SCHEMA, {"pde": recipe.IDENTITY["pde"]})
    with pytest.raises(ConfigError, match=r"was made with schema\.shard=4, config says 2"):
        store.create(finished, replace(recipe.SCHEMA, shard=2), recipe.IDENTITY)
    assert store.read_identity(finished) == recipe.IDENTITY


def test_create_starts_over_an_interrupted_creation(empty: Path) -> None:
    (empty / "config.json").unlink()
    (empty / "data.zarr" / "zarr.json").write_text("{")
    recipe.make(empty)
    recipe.fill(empty)
    assert store.verify(empty) == []


def test_create_never_deletes_data_that_lost_their_config(finished: Path) -> None:
    (finished / "config.json").unlink()
    with pytest.raises(IntegrityError, match="holds data but its"):
        recipe.make(finished)
    assert len(recipe.objects(finished, "pressure")) == recipe.SCHEMA.shards


def test_unknown_schema_version_is_refused(empty: Path) -> None:
    from pdediff.store.files import seal

    (empty / "config.json").write_text(seal({"schema_version": 9, "identity": {}, "schema": {}}))
    with pytest.raises(MatchError, match="store schema 9, this pdediff reads 1"):
        store.Writer(empty)


@pytest.mark.parametrize(("start", "length"), [(1, 3), (2, 4), (0, 3), (0, 2), (20, 1), (16, 4 + 3), (-4, 4)])
def test_misaligned_regions_are_refused(empty: Path, start: int, length: int) -> None:
    with pytest.raises(ValueError, match="does not fit the shards of"):
        store.write_region(empty, start, {"split": np.zeros(length, "int8")})
    assert not (empty / "data.zarr" / "split" / "c").exists()


@pytest.mark.parametrize(("start", "length"), [(0, 4), (8, 8), (20, 2), (16, 6)])
def test_aligned_regions_are_written(empty: Path, start: int, length: int) -> None:
    store.write_region(empty, start, {"split": np.ones(length, "int8")})
    split = zarr.open_array(empty / "data.zarr" / "split", mode="r")[...]
    np.testing.assert_array_equal(np.flatnonzero(split == 1), np.arange(start, start + length))


def test_region_must_fit_every_array_even_a_scalar_that_is_not_written(empty: Path) -> None:
    """A per-sample scalar with longer shards would be shared by two tasks."""
    node = zarr.open_group(empty / "data.zarr", mode="r+")
    node.create_array("viscosity", shape=(22,), dtype="float32", chunks=(8,), shards=(8,), overwrite=True)
    with pytest.raises(ValueError, match="does not fit the shards of viscosity"):
        store.write_region(empty, 4, {"pressure": np.zeros((4, 3, 5))})
    with pytest.raises(ValueError, match="does not fit the shards of viscosity"):
        recipe.write(empty, 1)
    assert not (empty / "data.zarr" / "pressure" / "c").exists()


def test_write_shard_refuses_what_does_not_fit(empty: Path) -> None:
    good = recipe.rows(0)
    keys = [recipe.key(i) for i in range(4)]
    cases = [
        (good | {"pressure": good["pressure"][:3]}, keys, {}, ValueError, "pressure: 3 rows for a shard of 4"),
        ({k: v for k, v in good.items() if k != "split"}, keys, {}, ValueError, "shard 0 needs"),
        (good | {"extra": good["split"]}, keys, {}, ValueError, "shard 0 needs"),
        (good, keys[:3], {}, ValueError, "3 keys"),
        (good, keys, {4: "belongs to shard 1"}, ValueError, r"rejected \[4\]"),
        (good | {"pressure": good["pressure"].transpose(0, 2, 1)}, keys, {}, ValueError, r"shape \(5, 3\)"),
        (good | {"pressure": good["pressure"] * 1e300}, keys, {}, DataError, "beyond the range of float32"),
        (good | {"split": good["split"].astype(int) + 200}, keys, {}, DataError, "without a change"),
        (good | {"split": good["split"] + 0.5}, keys, {}, DataError, "without a change"),
        (good | {"pressure": good["pressure"] * 1j}, keys, {}, DataError, "complex128"),
    ]
    for data, seeds, rejected, kind, words in cases:
        with pytest.raises(kind, match=words):
            store.write_shard(empty, 0, data, seeds, rejected, "v1", 0.0)
    with pytest.raises(ValueError, match="shard 6 is not in"):
        store.write_shard(empty, 6, good, keys, {}, "v1", 0.0)
    assert list((empty / "data.zarr").glob("*/c/0/*")) == []


def test_receipts_say_what_is_on_disk(empty: Path) -> None:
    import hashlib

    receipts = recipe.write(empty, 1)
    assert [r.index for r in receipts] == [4, 5, 6, 7]
    assert [r.status for r in receipts] == ["ok", "rejected", "ok", "ok"]
    assert receipts[1].reason == recipe.REJECTED[5]
    assert sum(r.seconds for r in receipts) == pytest.approx(0.5)
    pressure = zarr.open_array(empty / "data.zarr" / "pressure", mode="r")[6]
    assert receipts[2].sha256["pressure"] == hashlib.sha256(pressure.astype("<f4").tobytes()).hexdigest()
    assert set(receipts[0].sha256) == {spec.path for spec in recipe.SCHEMA.all_arrays()}


def test_receipts_are_taken_only_by_the_writer_that_holds_the_lock(empty: Path) -> None:
    writer = store.Writer(empty)
    with pytest.raises(ValueError, match="inside its"):
        writer.accept([])
    with writer, pytest.raises(ValueError, match="outside 0"):
        writer.accept([replace(recipe.write(empty, 0)[0], index=22)])


def test_finish_refuses_a_store_that_is_not_done(empty: Path) -> None:
    with store.Writer(empty) as writer:
        writer.accept(recipe.write(empty, 2))
        assert writer.missing() == [0, 1, 3, 4, 5]
        with pytest.raises(IntegrityError, match="lacks 5 of 6 shards"):
            writer.finish({})
    assert not store.is_complete(empty)
    with pytest.raises(IntegrityError, match="18 of 22 units are missing"):
        store.content_hash(empty)


def test_order_resume_and_processes_do_not_change_the_content(finished: Path, tmp_path: Path) -> None:
    expected = store.content_hash(finished)
    backwards, two = tmp_path / "backwards", tmp_path / "two"
    recipe.make(backwards)
    with store.Writer(backwards) as writer:
        writer.accept(recipe.write(backwards, 3))
    assert recipe.fill(backwards, order=[5, 4, 2, 1, 0]) == expected
    recipe.make(two)
    context = multiprocessing.get_context("spawn")
    with store.Writer(two) as writer, ProcessPoolExecutor(2, mp_context=context) as pool:
        for receipts in pool.map(partial(recipe.write, two), writer.missing()):
            writer.accept(receipts)
        assert writer.finish({"title": "test"}) == expected
    for spec in recipe.SCHEMA.all_arrays():
        for one, other in zip(recipe.objects(finished, spec.path), recipe.objects(two, spec.path), strict=True):
            assert one.read_bytes() == other.read_bytes()


def test_content_hash_sees_every_value(finished: Path, tmp_path: Path) -> None:
    recipe.make(tmp_path / "other")
    with store.Writer(tmp_path / "other") as writer:
        for shard in writer.missing():
            data = recipe.rows(shard)
            if shard == 3:
                data["pressure"][1, 2, 4] = np.nextafter(np.float32(data["pressure"][1, 2, 4]), np.float32(9))
            indices = recipe.SCHEMA.rows(shard)
            bad = {i: "" for i in indices if i in recipe.REJECTED}
            keys = [recipe.key(i) for i in indices]
            writer.accept(store.write_shard(tmp_path / "other", shard, data, keys, bad, "v1", 1.0))
        assert writer.finish({}) != store.content_hash(finished)


def test_second_writer_is_refused_by_name(empty: Path) -> None:
    with store.Writer(empty, run="blue-fox") as first:
        first.accept(recipe.write(empty, 0))
        code = f"import sys; sys.path.insert(0, {str(Path(__file__).parent)!r}); import store_recipe as r\n"
        code += f"from pathlib import Path\nr.fill(Path({str(empty)!r}))"
        done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
        assert done.returncode != 0
        words = rf"LockedError: {empty} is being written by run blue-fox \(pid \d+ on \S+, since \d\d:\d\d\)"
        import re

        assert re.search(words, done.stderr), done.stderr
        with pytest.raises(LockedError):
            store.Writer(empty).__enter__()
        with pytest.raises(LockedError):
            store.repair(empty, lambda shard: [])
        first.accept(recipe.write(empty, 1))
    with store.Writer(empty) as second:
        assert second.missing() == [2, 3, 4, 5]


def test_lock_of_a_dead_process_is_taken(empty: Path, caplog: pytest.LogCaptureFixture) -> None:
    dead = subprocess.run([sys.executable, "-c", "import os; print(os.getpid())"], capture_output=True, check=True)
    who = {"run": "gone", "pid": int(dead.stdout), "host": "here", "start": "2026-01-01T10:42:00+00:00"}
    (empty / ".lock").write_text(json.dumps(who))
    with caplog.at_level(logging.INFO, logger="pdediff"), store.Writer(empty) as writer:
        assert len(writer.missing()) == 6
    assert "left by run gone" in caplog.text


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"size": 0}, "expected positive"),
        ({"shard": 3}, "shard a multiple of chunk"),
        ({"unit": "case"}, "first dim is 'sample'"),
        ({"coords": {"x": (np.zeros(4), {})}}, "dim x has 5 points, elsewhere 4"),
        ({"coords": {"x": (np.array(["a"] * 5), {})}}, "one-dimensional numeric"),
        ({"arrays": recipe.SCHEMA.arrays[:1] * 2}, "already taken"),
        ({"arrays": (store.ArraySpec("status", ("sample",)),)}, "already taken"),
        ({"arrays": (store.ArraySpec("a", ("sample",)), store.ArraySpec("a/b", ("sample",)))}, "already taken"),
    ],
)
def test_schema_refuses_what_cannot_be_stored(change: dict, words: str) -> None:
    with pytest.raises(ConfigError, match=words):
        replace(recipe.SCHEMA, **change)


def test_schema_survives_json() -> None:
    again = store.Schema.from_json(json.loads(json.dumps(recipe.SCHEMA.to_json())))
    assert again.arrays == recipe.SCHEMA.arrays
    assert again.to_json() == recipe.SCHEMA.to_json()


def test_digest_is_canonical() -> None:
    assert store.digest({"a": 1, "b": (1.5, np.float64(2))}) == store.digest({"b": [1.5, 2.0], "a": np.int64(1)})
    assert store.digest({"a": 1}) != store.digest({"a": 2})
    assert len(store.digest({})) == 12
    # SHA-256 of the canonical text of [schema version, object], so that identities never move between releases
    assert store.digest({"a": 1}) == __import__("hashlib").sha256(b'[1,{"a":1}]').hexdigest()[:12]
    with pytest.raises(ConfigError, match="cannot be part of a stored description"):
        store.digest({"a": object()})
