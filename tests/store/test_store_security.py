"""Crafted stores are refused from their metadata alone: no code, no way out of the folder, no memory bomb."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import zarr

from pdediff import store
from pdediff.errors import ConfigError, DataError, IntegrityError, PdediffError, ResourceError


def _edit(path: Path, name: str, change: Callable[[dict[str, Any]], object]) -> None:
    file = path / "data.zarr" / name / "zarr.json"
    meta = json.loads(file.read_bytes())
    change(meta)
    file.write_text(json.dumps(meta))


def _inner(meta: dict[str, Any]) -> dict[str, Any]:
    return meta["codecs"][0]["configuration"]


METADATA = {
    "object": (lambda m: m.update(data_type="object"), "data type object is not a plain number"),
    "string": (lambda m: m.update(data_type="string"), "data type string"),
    "pickle type": (lambda m: m.update(data_type={"name": "numpy.pickle"}), "is not a plain number"),
    "raw bytes": (lambda m: m.update(data_type="r64"), "data type r64"),
    "pickle codec": (lambda m: m["codecs"].append({"name": "numcodecs.pickle"}), r"codec 'numcodecs\.pickle'"),
    "codec in shard": (lambda m: _inner(m)["codecs"].append({"name": "numcodecs.json2"}), r"codec 'numcodecs\.json2'"),
    "codec of index": (lambda m: _inner(m)["index_codecs"].append({"name": "vlen-bytes"}), "codec 'vlen-bytes'"),
    "codec by name": (lambda m: m["codecs"].append("numcodecs.pickle"), r"codec 'numcodecs\.pickle'"),
    "version 2": (lambda m: m.update(zarr_format=2), "only groups and arrays of Zarr version 3"),
    "transformer": (lambda m: m.update(storage_transformers=[{"name": "x"}]), "storage transformers"),
    "node": (lambda m: m.update(node_type="link"), "only groups and arrays"),
    "huge array": (lambda m: m.update(shape=[1 << 40, 3, 5]), "declares more than 256 GiB"),
    "huge chunk": (lambda m: _bomb(m), "one chunk declares"),
    "many chunks": (lambda m: _shards(m), "too many chunks in a shard"),
    "negative": (lambda m: m.update(shape=[-1, 3, 5]), "do not fit"),
    "ranks": (lambda m: m.update(shape=[22, 3]), "do not fit"),
    "misfit": (lambda m: _inner(m).update(chunk_shape=[3, 3, 5]), "does not divide"),
}


def _bomb(meta: dict[str, Any]) -> None:
    meta["chunk_grid"]["configuration"]["chunk_shape"] = [1 << 20, 1 << 10, 1]
    _inner(meta)["chunk_shape"] = [1 << 20, 1 << 10, 1]


def _shards(meta: dict[str, Any]) -> None:
    meta["chunk_grid"]["configuration"]["chunk_shape"] = [1 << 30, 1, 1]
    _inner(meta)["chunk_shape"] = [1, 1, 1]


@pytest.mark.parametrize("name", METADATA)
def test_unsafe_metadata_are_refused_before_zarr_sees_them(
    finished: Path, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    change, words = METADATA[name]
    _edit(finished, "pressure", change)

    def opened(*args: object, **options: object) -> None:
        raise AssertionError("zarr was asked to open it")

    monkeypatch.setattr(zarr, "open_group", opened)
    for read in (store.open_store, store.SetReader, lambda path: store.check_tree(path / "data.zarr")):
        with pytest.raises(DataError, match=words):
            read(finished)


@pytest.mark.parametrize("text", [b"", b"{", b"[]", b"null", b'{"zarr_format": 3}', b"\xff\xfe", b'{"a":' * 5000])
def test_metadata_that_do_not_parse(finished: Path, text: bytes) -> None:
    (finished / "data.zarr" / "pressure" / "zarr.json").write_bytes(text)
    with pytest.raises(IntegrityError, match="is damaged: not the metadata"):
        store.open_store(finished)


@pytest.mark.parametrize("name", [".zarray", ".zgroup", ".zattrs"])
def test_version_2_files_are_refused(finished: Path, name: str) -> None:
    (finished / "data.zarr" / "pressure" / name).write_text("{}")
    with pytest.raises(DataError, match="Zarr version 2"):
        store.open_store(finished)


@pytest.mark.parametrize(
    "place", ["data.zarr/pressure/c/0/0/0", "data.zarr/pressure/zarr.json", "data.zarr/pressure", "manifest.json"]
)
def test_links_that_leave_the_store_are_refused(finished: Path, tmp_path: Path, place: str) -> None:
    outside = tmp_path / "outside"
    (finished / place).rename(outside)
    (finished / place).symlink_to(outside)
    with pytest.raises(DataError, match="is a link that leaves"):
        store.open_store(finished)
    with pytest.raises(DataError, match="is a link that leaves"):
        store.Writer(finished).__enter__()


def test_link_to_nowhere_and_link_inside(finished: Path) -> None:
    chunk = finished / "data.zarr" / "pressure" / "c" / "0" / "0" / "0"
    chunk.rename(chunk.with_name("kept"))
    chunk.symlink_to("kept")
    store.open_store(finished)["pressure"].load()
    (finished / "data.zarr" / "nowhere").symlink_to("/no/such/file")
    with pytest.raises(DataError, match="is a link that leaves"):
        store.open_store(finished)


def test_data_root_may_be_a_link(finished: Path, tmp_path: Path) -> None:
    """Users keep data on another disk."""
    (tmp_path / "elsewhere").symlink_to(finished.parent)
    store.open_store(tmp_path / "elsewhere" / finished.name)


def test_lock_file_is_never_followed(empty: Path, tmp_path: Path) -> None:
    (tmp_path / "victim").write_text("precious")
    (empty / ".lock").unlink()
    os.symlink(tmp_path / "victim", empty / ".lock")
    with pytest.raises(ResourceError, match="cannot write"):
        store.Writer(empty).__enter__()
    assert (tmp_path / "victim").read_text() == "precious"


@pytest.mark.parametrize(
    "name",
    [
        "../../x",
        "/etc/x",
        "",
        ".",
        "..",
        "a\0b",
        "x" * 65,
        "аbc",
        "a b",
        "x;rm",
        "a/b",
        "A",
        "a\n",
        "-a",
        "_a",
        None,
        3,
    ],
)
def test_unsafe_names(name: object, finished: Path) -> None:
    with pytest.raises(ConfigError, match="is not a valid name"):
        store.check_name(name, "run name")
    if isinstance(name, str) and name != "a/b":
        with pytest.raises(ConfigError, match="is not a valid name"):
            store.ArraySpec(name, ("sample",))
        with pytest.raises(ConfigError, match="is not a valid name"):
            store.ArraySpec(f"group/{name}", ("sample",))


def test_folder_names_inside_a_store_are_checked(finished: Path) -> None:
    (finished / "data.zarr" / "posterior").rename(finished / "data.zarr" / "x;rm -rf")
    with pytest.raises(DataError, match="is not a valid name"):
        store.open_store(finished)


@pytest.mark.parametrize("dtype", ["object", "str", "S8", "U4", "M8[s]", "complex64", "O"])
def test_schema_takes_numbers_only(dtype: str) -> None:
    with pytest.raises(ConfigError, match="is not one of"):
        store.ArraySpec("u", ("sample",), dtype)


def test_limit_is_the_users(finished: Path) -> None:
    with pytest.raises(DataError, match="declares more than"):
        store.open_store(finished, limit=1000)
    store.open_store(finished, limit=10_000)


def test_errors_survive_a_process_border() -> None:
    import pickle

    error = pickle.loads(pickle.dumps(DataError("one line", hint="do this")))
    assert isinstance(error, PdediffError)
    assert error.lines() == ["error[data]: one line", "  hint: do this"]
