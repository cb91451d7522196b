"""Moments of a unit: those of numpy, merged in one order whatever made them, computed again where they are lost."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from pdediff import store
from pdediff.store import statistics as stored_statistics
from pdediff.store.files import seal, unseal
from pdediff.store.moments import DIFFERENCES, VALUES, Moments, kept_moments, merged_moments
from pdediff.store.receipts import Making, hash_receipts, read_receipts
from pdediff.store.statistics import statistics

SIZE, SHARD = 23, 4
REJECTED = {6: "too hot", 22: "too cold"}
FIELD = store.ArraySpec("u", ("sample", "time", "x"), "float32", (5, 7))
SCHEMA = store.Schema(
    unit="sample",
    size=SIZE,
    arrays=(
        FIELD,
        store.ArraySpec("rate", ("sample",), "float64"),
        store.ArraySpec("code", ("sample",), "int32"),
        store.ArraySpec("split", ("sample",), "int8"),
    ),
    shard=SHARD,
    chunk=2,
)


def field(index: int) -> np.ndarray:
    """Far from zero in the mean, so that a plain sum of squares would lose six digits; a NaN in every fourth."""
    made = (1e3 + np.random.default_rng(index).normal(size=(5, 7))).astype("float32")
    made[0, 0] = np.nan if index % 4 == 0 else made[0, 0]
    return made


def write(path: Path, shard: int) -> list[store.Receipt]:
    rows = list(SCHEMA.rows(shard))
    data = {
        "u": np.stack([field(i) for i in rows]),
        "rate": 0.1 * np.array(rows),
        "code": np.array(rows, "int32"),
        "split": np.array([int(i % 5 == 0) for i in rows], "int8"),
    }
    return store.write_shard(path, shard, data, rows, {i: REJECTED[i] for i in rows if i in REJECTED}, "v1", 0.0)


def finished(path: Path, order: list[int]) -> Path:
    store.create(path, SCHEMA, {})
    with store.Writer(path) as writer:
        for shard in order:
            writer.accept(write(path, shard))
        writer.finish({})
    return path


@pytest.fixture(scope="module")
def done(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return finished(tmp_path_factory.mktemp("moments") / "s", list(range(SCHEMA.shards)))


def stored(path: Path) -> dict[str, dict[str, float]]:
    return json.loads((path / "data.zarr" / "zarr.json").read_text())["attributes"]["statistics"]


@pytest.mark.parametrize("parts", [1, 2, 9, 300])
@pytest.mark.parametrize("offset", [0.0, -3.0, 1e6])
def test_merged_moments_are_those_of_all_values(parts: int, offset: float) -> None:
    values = offset + np.random.default_rng(1).normal(size=300)
    total: dict[str, Moments] = {}
    spec = store.ArraySpec("u", ("sample", "x"), "float64", (1,))
    for part in np.array_split(values, parts):
        total = merged_moments(total, kept_moments(spec, part))
    found = total[VALUES].summary()
    assert (found["min"], found["max"], found["count"]) == (values.min(), values.max(), 300)
    assert found["mean"] == pytest.approx(values.mean(), rel=1e-12, abs=1e-15)
    # sums of squares about the mean: what rounding of values of size `offset` leaves
    assert found["std"] == pytest.approx(values.std(), rel=1e-12 + 1e-15 * abs(offset))


def test_what_is_not_finite_is_left_out() -> None:
    assert Moments.of(np.array([np.nan, 1.0, np.inf, 3.0, -np.inf])) == Moments(2, 2.0, 2.0, 1.0, 3.0)
    assert Moments.of(np.array([np.nan])) == Moments() == Moments().merged(Moments())
    some = Moments.of(np.array([-2.0, -1.0]))
    assert Moments().merged(some) == some == some.merged(Moments())  # no range that begins at 0
    one = Moments.of(np.float32(4.0))  # type: ignore[arg-type]  a row of a column is a number
    assert one == Moments(1, 4.0, 0.0, 4.0, 4.0)


def test_moments_leave_what_they_measure_as_it_is() -> None:
    values = np.arange(6.0).reshape(2, 3)
    kept = kept_moments(store.ArraySpec("u", ("sample", "time", "x"), "float64", (2, 3)), values)
    np.testing.assert_array_equal(values, np.arange(6.0).reshape(2, 3))
    assert kept == {VALUES: [6, 2.5, 17.5, 0.0, 5.0], DIFFERENCES: [3, 3.0, 0.0, 3.0, 3.0]}


def test_statistics_equal_numpy_over_the_training_units_alone(done: Path) -> None:
    train = [i for i in range(SIZE) if i % 5 and i not in REJECTED]
    u = np.stack([field(i) for i in train]).astype("float64")
    step = np.diff(u, axis=1)
    expected = {
        "mean": np.nanmean(u),
        "std": np.nanstd(u),
        "min": np.nanmin(u),
        "max": np.nanmax(u),
        "count": np.isfinite(u).sum(),
        "difference_mean": np.nanmean(step),
        "difference_std": np.nanstd(step),
    }
    found = stored(done)
    assert found["u"] == pytest.approx(expected, rel=1e-12)
    assert found["rate"]["mean"] == pytest.approx(0.1 * np.mean(train), rel=1e-12)
    assert set(found) == {"u", "rate"}


def test_receipts_keep_the_moments_of_what_is_stored(done: Path) -> None:
    receipts = read_receipts(done / "receipts.jsonl")
    for index in range(SIZE):
        expected = {} if index in REJECTED else {"u": kept_moments(FIELD, field(index))}
        assert {k: v for k, v in receipts[index].moments.items() if k == "u"} == expected
    assert set(receipts[0].moments) == {"u", "rate"}


def test_no_data_are_read_where_the_receipts_know(done: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(stored_statistics, "kept_moments", None)
    assert statistics(done, read_receipts(done / "receipts.jsonl")) == stored(done)


@pytest.mark.parametrize("lost", [range(SIZE), [0], [5, 6, 7, 21], range(8, 12)])
def test_lost_moments_are_computed_from_the_data(lost: list[int], done: Path) -> None:
    """Receipts of older versions have none; the numbers are the same to the last bit."""
    receipts = read_receipts(done / "receipts.jsonl")
    for index in lost:
        receipts[index] = replace(receipts[index], making=Making(0.0))
    assert statistics(done, receipts) == stored(done)
    assert hash_receipts(receipts) == store.content_hash(done)


def test_any_order_and_any_number_of_runs_give_the_same_bits(done: Path, tmp_path: Path) -> None:
    path = tmp_path / "s"
    store.create(path, SCHEMA, {})
    for part in ([5, 2], [0], [4, 3, 1]):
        with store.Writer(path) as writer:  # what the runs before left comes from the log
            for shard in part:
                assert shard in writer.missing()
                writer.accept(write(path, shard))
    with store.Writer(path) as writer:
        writer.finish({})
    assert stored(path) == stored(done)
    assert store.content_hash(path) == store.content_hash(done)


def test_a_set_without_moments_in_its_receipts_is_read_and_finished(done: Path, tmp_path: Path) -> None:
    path = finished(tmp_path / "s", list(range(SCHEMA.shards)))
    lines = []
    for line in (path / "receipts.jsonl").read_bytes().splitlines():
        record = unseal(line)
        assert record is not None
        del record["moments"]
        lines.append(seal(record))
    (path / "receipts.jsonl").write_text("\n".join(lines) + "\n")
    assert store.verify(path) == []
    np.testing.assert_array_equal(store.SetReader(path).array("u", np.array([1]))[0], field(1))
    (path / "manifest.json").unlink()
    with store.Writer(path) as writer:
        assert writer.missing() == []
        writer.finish({})
    assert stored(path) == stored(done)


def test_a_seal_is_that_of_the_content_and_of_every_byte() -> None:
    record = {"index": 3, "words": 'a "seal": b', "inner": {"seal": "x"}, "zeta": 0.1}
    line = seal(record)
    assert unseal(line) == unseal(line.encode()) == record
    assert unseal(json.dumps(json.loads(line), indent=2)) == record  # another form of the same content
    for place in range(len(line)):
        other = bytearray(line.encode())
        other[place] ^= 1
        assert unseal(bytes(other)) in (None, record)
        assert unseal(bytes(other)) is None or json.loads(bytes(other)) == json.loads(line)
