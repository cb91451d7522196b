"""A state machine over crashes, losses, flips, resumes and repairs: wrong numbers are never readable."""

from __future__ import annotations

import shutil
import tempfile
from pathlib import Path
from unittest import mock

import numpy as np
import pytest
import zarr
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from pdediff import store
from pdediff.errors import IntegrityError, LockedError
from pdediff.store.receipts import read_receipts

SCHEMA = store.Schema(
    "sample", 6, (store.ArraySpec("u", ("sample", "x"), "float32", (3,)), store.ArraySpec("nu", ("sample",))), shard=2
)
SHARDS = st.integers(0, SCHEMA.shards - 1)
NAMES = st.sampled_from(["u", "nu"])


class Crash(BaseException):
    """The process is gone."""


def reference(name: str, index: int) -> np.ndarray:
    value = np.random.default_rng([index, len(name)]).normal(size=(3,) if name == "u" else ())
    return np.asarray(value, "float32")


def write(path: Path, shard: int) -> list[store.Receipt]:
    rows = SCHEMA.rows(shard)
    data = {name: np.stack([reference(name, i) for i in rows]) for name in ("u", "nu")}
    return store.write_shard(path, shard, data, list(rows), {}, "v1", 0.0)


def content() -> str:
    with tempfile.TemporaryDirectory() as folder:
        store.create(Path(folder) / "s", SCHEMA, {})
        with store.Writer(Path(folder) / "s") as writer:
            for shard in range(SCHEMA.shards):
                writer.accept(write(Path(folder) / "s", shard))
            return writer.finish({})


class StoreMachine(RuleBasedStateMachine):
    """One store, everything that can happen to it, and what must hold after each event."""

    expected = ""

    @initialize()
    def start(self) -> None:
        self.folder = Path(tempfile.mkdtemp())
        self.path = self.folder / "s"
        self.harmed = False
        store.create(self.path, SCHEMA, {})

    def teardown(self) -> None:
        shutil.rmtree(self.folder, ignore_errors=True)

    def run(self) -> None:
        with store.Writer(self.path) as writer:
            for shard in writer.missing():
                writer.accept(write(self.path, shard))
            assert writer.finish({}) == self.expected
        self.harmed = False

    @rule(after=st.integers(0, 15))
    def run_and_crash(self, after: int) -> None:
        left = after
        real = zarr.storage.LocalStore.set

        async def dying(self: zarr.storage.LocalStore, key: str, value: object) -> None:
            nonlocal left
            if left == 0:
                raise Crash
            left -= 1
            await real(self, key, value)

        acknowledged = set(read_receipts(self.path / "receipts.jsonl"))
        with mock.patch.object(zarr.storage.LocalStore, "set", dying):
            try:
                self.run()
            except Crash:
                assert set(read_receipts(self.path / "receipts.jsonl")) >= acknowledged

    @rule()
    def resume(self) -> None:
        self.run()
        assert store.verify(self.path) == []

    def object(self, name: str, shard: int) -> Path:
        return self.path / "data.zarr" / name / "c" / str(shard) / ("0" if name == "u" else "")

    @rule(name=NAMES, shard=SHARDS)
    def lose(self, name: str, shard: int) -> None:
        self.object(name, shard).unlink(missing_ok=True)
        self.harmed = True

    @rule(name=NAMES, shard=SHARDS, place=st.integers(0, 10_000), bit=st.integers(0, 7))
    def flip(self, name: str, shard: int, place: int, bit: int) -> None:
        if self.object(name, shard).exists():
            data = bytearray(self.object(name, shard).read_bytes())
            data[place % len(data)] ^= 1 << bit
            self.object(name, shard).write_bytes(data)
            self.harmed = True

    @rule(name=NAMES, origin=SHARDS, place=SHARDS)
    def swap(self, name: str, origin: int, place: int) -> None:
        if origin != place and self.object(name, origin).exists() and self.object(name, place).exists():
            shutil.copyfile(self.object(name, origin), self.object(name, place))
            self.harmed = True

    @rule(cut=st.integers(1, 600))
    def tear_receipts(self, cut: int) -> None:
        log = self.path / "receipts.jsonl"
        if log.exists():
            log.write_bytes(log.read_bytes()[:-cut])
            self.harmed = True

    @rule()
    def second_writer(self) -> None:
        with store.Writer(self.path, check=False), pytest.raises(LockedError):
            store.Writer(self.path).__enter__()

    @rule()
    def repair(self) -> None:
        store.repair(self.path, lambda shard: write(self.path, shard))
        assert [d for d in store.verify(self.path) if d.kind != "incomplete"] == []
        self.harmed = False

    @precondition(lambda self: not self.harmed)
    @invariant()
    def unharmed_is_clean(self) -> None:
        assert [d for d in store.verify(self.path) if d.kind not in ("incomplete", "manifest")] == []

    @invariant()
    def never_wrong(self) -> None:
        """Each sample is absent, or exactly its reference, or refused; acknowledged ones are never absent."""
        receipts = read_receipts(self.path / "receipts.jsonl")
        try:
            reader = store.SetReader(self.path, allow_partial=True, memory=0)
        except IntegrityError:
            assert self.harmed
            return
        for name in ("u", "nu"):
            for index in range(SCHEMA.size):
                try:
                    value = reader.array(name, np.array([index]))[0]
                except IntegrityError:
                    assert self.harmed
                    continue
                if index in receipts:
                    np.testing.assert_array_equal(value, reference(name, index))
                else:
                    assert np.isnan(value).all()


@pytest.mark.slow
@pytest.mark.fault
class TestStore(StoreMachine.TestCase):
    settings = settings(
        max_examples=40,
        stateful_step_count=7,
        deadline=None,
        derandomize=True,
        database=None,
        suppress_health_check=list(HealthCheck),
    )

    @classmethod
    def setUpClass(cls) -> None:
        StoreMachine.expected = content()
