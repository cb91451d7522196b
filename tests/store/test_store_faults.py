"""Killed writers, full disks, missing permissions: nothing acknowledged is lost, nothing wrong is readable."""

from __future__ import annotations

import errno
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import store_recipe as recipe
import zarr

from pdediff import store
from pdediff.errors import ResourceError
from pdediff.store.files import disk, write_durably
from pdediff.store.receipts import read_receipts

SCRIPT = Path(__file__).parent / "store_recipe.py"


def _kill_at(path: Path, receipts: int) -> None:
    """Starts a writer process and kills it once the log holds that many receipts: on progress, never on time."""
    log = path / "receipts.jsonl"
    with (path.parent / "output.txt").open("w") as output:  # a pipe could block when a child outlives its parent
        process = subprocess.Popen([sys.executable, str(SCRIPT), str(path)], stdout=output, stderr=output)
        try:
            deadline = time.monotonic() + 120
            while process.poll() is None and time.monotonic() < deadline:
                if log.exists() and log.read_bytes().count(b"\n") >= receipts:
                    break
                time.sleep(0.0005)
        finally:
            process.send_signal(signal.SIGKILL)
            process.wait()


@pytest.mark.fault
@pytest.mark.slow
def test_kill_9_then_resume_gives_the_same_content(finished: Path, tmp_path: Path) -> None:
    path = tmp_path / "killed"
    rng = np.random.default_rng(7)
    for _ in range(2):
        done: set[int] = set()
        while len(done) < 16:
            _kill_at(path, len(done) + int(rng.integers(1, 8)))
            now = set(read_receipts(path / "receipts.jsonl"))
            assert now > done  # acknowledged is never lost, each life gets on
            done = now
        for index in sorted(done):
            for spec in recipe.SCHEMA.all_arrays():
                array = zarr.open_array(path / "data.zarr" / spec.path, mode="r")
                np.testing.assert_array_equal(array[index], recipe.reference(spec.path, index))
        subprocess.run([sys.executable, str(SCRIPT), str(path)], check=True, capture_output=True)
        assert store.content_hash(path) == store.content_hash(finished)
        assert store.verify(path) == []
        assert list(path.rglob("*.partial")) == []
        path = tmp_path / "killed-again"


@pytest.mark.fault
def test_temporary_files_of_killed_writers_are_removed(empty: Path) -> None:
    left = empty / "data.zarr" / "pressure" / "c" / "0" / "0" / "0.0123.partial"
    left.parent.mkdir(parents=True)
    left.write_bytes(b"half")
    (empty / "repair-x.partial").mkdir()
    with store.Writer(empty):
        assert list(empty.rglob("*.partial")) == []


@pytest.mark.fault
@pytest.mark.parametrize("which", [1, 3, 7, 10])
def test_disk_full_at_any_write_loses_nothing(
    empty: Path, finished: Path, monkeypatch: pytest.MonkeyPatch, which: int
) -> None:
    calls = 0
    real = zarr.storage.LocalStore.set

    async def full(self: zarr.storage.LocalStore, key: str, value: object) -> None:
        nonlocal calls
        calls += 1
        if calls == which:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        await real(self, key, value)

    with monkeypatch.context() as patch:
        patch.setattr(zarr.storage.LocalStore, "set", full)
        with pytest.raises(ResourceError, match=rf"^disk full while writing {empty}/data\.zarr/"):
            recipe.fill(empty)
    assert len(read_receipts(empty / "receipts.jsonl")) == 4 * ((which - 1) // 7)  # seven objects a shard
    assert recipe.fill(empty) == store.content_hash(finished)


@pytest.mark.fault
@pytest.mark.slow
def test_a_disk_that_is_really_full(tmp_path: Path) -> None:
    """A 1 MB file system in a private mount; skipped where the kernel does not allow one."""
    code = f"""
import sys; sys.path.insert(0, {str(SCRIPT.parent)!r})
import numpy as np
from pathlib import Path
from pdediff import store
from pdediff.errors import ResourceError
schema = store.Schema("sample", 64, (store.ArraySpec("u", ("sample", "x"), "float32", (8192,)),), shard=4, chunk=1)
path = Path({str(tmp_path)!r}) / "small" / "s"
store.create(path, schema, {{}})
done = 0
try:
    with store.Writer(path) as writer:
        for shard in writer.missing():
            data = {{"u": np.random.default_rng(shard).normal(size=(4, 8192))}}
            writer.accept(store.write_shard(path, shard, data, range(4), {{}}, "v", 0.0))
            done += 4
except ResourceError as error:
    print(error.message)
from pdediff.store.receipts import read_receipts
assert len(read_receipts(path / "receipts.jsonl")) == done > 0
assert [d.kind for d in store.verify(path)] == ["incomplete"]
assert not list(path.rglob("*.partial"))
"""
    (tmp_path / "small").mkdir()
    (tmp_path / "code.py").write_text(code)
    mount = ["unshare", "-rm", "sh", "-c"]
    if subprocess.run([*mount, f"mount -t tmpfs -o size=1m none {tmp_path}/small"], capture_output=True).returncode:
        pytest.skip("no private mounts here")
    command = f"mount -t tmpfs -o size=1m none {tmp_path}/small && {sys.executable} {tmp_path}/code.py"
    done = subprocess.run([*mount, command], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert "disk full while writing" in done.stdout


@pytest.mark.fault
def test_receipts_on_a_full_disk(empty: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(handle: int) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    with store.Writer(empty) as writer:
        receipts = recipe.write(empty, 0)
        with monkeypatch.context() as patch:
            patch.setattr(os, "fsync", full)
            with pytest.raises(ResourceError, match=r"disk full while writing .*receipts\.jsonl"):
                writer.accept(receipts)
        assert writer.missing()[0] == 0


@pytest.mark.parametrize(
    ("code", "words"),
    [
        (errno.ENOSPC, "disk full while writing /x"),
        (errno.EDQUOT, "disk full while writing /x"),
        (errno.EACCES, "no permission to write /x"),
        (errno.EROFS, "no permission to write /x"),
        (errno.ENOTDIR, "cannot write /x: a file is where a folder is needed"),
        (errno.ENAMETOOLONG, "cannot write /x: the name is too long"),
        (errno.EIO, "cannot write /x: Input/output error"),
    ],
)
def test_operating_system_errors_are_one_line(code: int, words: str) -> None:
    with pytest.raises(ResourceError) as caught, disk(Path("/x"), 5 << 20):
        raise OSError(code, os.strerror(code))
    assert caught.value.message.startswith(words)
    assert ("5 MB" in str(caught.value.hint)) == words.startswith("disk full")


def test_create_below_a_file_is_refused(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    for path in (tmp_path / "file", tmp_path / "file" / "below", tmp_path / ("x" * 300)):
        with pytest.raises(ResourceError, match="cannot write"):
            recipe.make(path)


def test_durable_write_keeps_the_old_file_when_it_fails(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file = tmp_path / "a.json"
    write_durably(file, "old")

    def full(handle: int) -> None:
        raise OSError(errno.ENOSPC, "full")

    with monkeypatch.context() as patch:
        patch.setattr(os, "fsync", full)
        with pytest.raises(ResourceError, match="disk full"):
            write_durably(file, "new")
    assert file.read_text() == "old"
    assert [entry.name for entry in tmp_path.iterdir()] == ["a.json"]


def test_a_place_is_tried_before_anything_is_computed(tmp_path: Path) -> None:
    store.require_place(tmp_path / "a" / "b")
    assert not (tmp_path / "a").exists()
    (tmp_path / "file").write_text("")
    with pytest.raises(ResourceError, match="a file is where a folder is needed"):
        store.require_place(tmp_path / "file" / "b")
    closed = tmp_path / "closed"
    closed.mkdir(mode=0o500)
    if os.access(closed, os.W_OK):
        pytest.skip("this user may write anywhere")
    with pytest.raises(ResourceError, match="no permission to write"):
        store.require_place(closed / "b")
