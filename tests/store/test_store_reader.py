"""Batches for torch, the catalogue, and markers of finished folders."""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import pytest
import store_recipe as recipe
import torch

from pdediff import store
from pdediff.errors import DataError, IntegrityError, MatchError


@pytest.mark.parametrize("memory", [0, 1500, None])
def test_fields_are_the_stored_rows_in_the_order_asked(finished: Path, memory: int | None) -> None:
    reader = store.SetReader(finished, memory=memory)
    indices = [21, 3, 3, 0, 17]
    fields = reader.fields(["pressure", "permeability"], indices)
    assert fields.dtype == torch.float32
    assert fields.shape == (5, 2, 3, 5)
    for row, index in zip(fields, indices, strict=True):
        assert torch.equal(row[0], torch.from_numpy(recipe.reference("pressure", index)))
        assert torch.equal(row[1], torch.from_numpy(recipe.reference("permeability", index)))
    assert reader.fields(["viscosity"], [4]).shape == (1, 1)
    assert reader.fields(["posterior/pressure"], []).shape == (0, 1, 2, 5)
    assert reader.array("seed", np.array([7])).tolist() == [recipe.key(7)]


def test_a_batch_may_be_changed_without_changing_the_next(finished: Path) -> None:
    reader = store.SetReader(finished)
    reader.fields(["pressure"], [1]).zero_()
    assert torch.equal(reader.fields(["pressure"], [1])[0, 0], torch.from_numpy(recipe.reference("pressure", 1)))


def test_splits_leave_out_rejected_samples(finished: Path) -> None:
    reader = store.SetReader(finished)
    for code, name in enumerate(("train", "valid", "test")):
        expected = [i for i in range(recipe.SIZE) if i % 3 == code and i not in recipe.REJECTED]
        assert reader.split(name).tolist() == expected
    with pytest.raises(DataError, match="split 'val' is not one of train, valid, test"):
        reader.split("val")


def test_what_the_reader_knows(finished: Path) -> None:
    reader = store.SetReader(finished)
    assert len(reader) == recipe.SIZE
    assert reader.names == tuple(spec.path for spec in recipe.SCHEMA.arrays)
    assert reader.spec("pressure").shape == (3, 5)
    np.testing.assert_array_equal(reader.coordinates("y"), [0.1, 0.5, 0.9])
    assert reader.attrs["pde"] == "darcy"
    assert reader.statistics()["pressure"]["count"] > 0


def test_wrong_questions(finished: Path) -> None:
    reader = store.SetReader(finished)
    with pytest.raises(MatchError, match="has no array 'velocity'; it has permeability, pressure"):
        reader.fields(["velocity"], [0])
    with pytest.raises(MatchError, match="cannot be channels of one field"):
        reader.fields(["pressure", "viscosity"], [0])
    with pytest.raises(DataError, match=r"sample 22 is not in 0\.\.21"):
        reader.fields(["pressure"], [0, 22])
    with pytest.raises(DataError, match=r"sample -1 is not in 0\.\.21"):
        reader.fields(["pressure"], [-1])
    with pytest.raises(MatchError, match="no coordinate 'z'"):
        reader.coordinates("z")


def test_catalogue(finished: Path, tmp_path: Path) -> None:
    root = tmp_path / "data"
    for kind, name in (("sets", "darcy-0123456789ab"), ("sets", "half-0123456789ab"), ("sets", "hurt-0123456789ab")):
        recipe.make(root / kind / name)
    finished.rename(root / "sets" / "ks1d-00ff00ff00ff")
    (root / "sets" / "hurt-0123456789ab" / "manifest.json").write_text("{}")
    (root / "sets" / "not a store").mkdir()
    (root / "runs" / "prior-aaaaaaaaaaaa").mkdir(parents=True)
    store.finish_folder(root / "runs" / "prior-aaaaaaaaaaaa", {"loss": 0.5})
    with store.Writer(root / "sets" / "darcy-0123456789ab"):
        found = store.catalogue(root)
    assert [(e.kind, e.name, e.hash, e.status) for e in found] == [
        ("sets", "darcy", "0123456789ab", "writing"),
        ("sets", "half", "0123456789ab", "partial"),
        ("sets", "hurt", "0123456789ab", "damaged"),
        ("sets", "ks1d", "00ff00ff00ff", "complete"),
        ("runs", "prior", "aaaaaaaaaaaa", "complete"),
    ]
    assert found[3].size == sum(f.stat().st_size for f in found[3].path.rglob("*") if f.is_file())
    assert store.catalogue(tmp_path / "nothing") == []


def test_finished_folder(tmp_path: Path) -> None:
    assert not store.is_complete(tmp_path)
    store.finish_folder(tmp_path, {"loss": 0.5})
    assert store.is_complete(tmp_path)
    assert store.read_manifest(tmp_path)["loss"] == 0.5
    (tmp_path / "manifest.json").write_text((tmp_path / "manifest.json").read_text().replace("0.5", "0.4"))
    with pytest.raises(IntegrityError, match=r"manifest\.json is damaged"):
        store.is_complete(tmp_path)


def test_heavy_libraries_wait_until_they_are_needed() -> None:
    import subprocess

    code = "import sys; from pdediff.store import digest, Receipt, Schema, Lock\n"
    code += "print([m for m in ('zarr', 'xarray', 'torch') if m in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
    assert set(store.__all__) == set(store._HOME)
    with pytest.raises(AttributeError, match="no attribute 'nothing'"):
        _ = store.nothing
