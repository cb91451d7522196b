"""Wrong or damaged priors and data sets as inputs: exit code, one clear line, nothing written, nothing moved."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from pdediff import checkpoint
from pdediff.store import Lock
from pdediff.store.files import seal

KINDS = [
    # command; exit code; part of the first line
    ("HELD-OUT data=coarse", 4, "(permeability, pressure) at 16x16; dataset has (permeability, pressure) at 8x8"),
    ("HELD-OUT data=kolmogorov2d", 4, "checkpoint expects channels (permeability, pressure) at 16x16; dataset has ("),
    ("HELD-OUT data=darcy prior=darcyy", 2, "prior='darcyy' is neither a folder nor a name under "),
    ("HELD-OUT data=darcy prior=twice", 2, "prior='twice' could be twice-"),
    ("HELD-OUT data=darcy prior={set}", 2, "is of another kind: data"),
    ("SAMPLE prior={set}", 2, "is of another kind: data"),
    ("HELD-OUT data={prior}", 2, "is of another kind: prior"),
    ("TRAIN data={prior}", 2, "is of another kind: prior"),
    ("evaluate {set}", 2, "is of another kind: data"),
    ("evaluate {prior}", 2, "is of another kind: prior"),
    ("TRAIN data={root}", 3, "is not a store: it has no data.zarr"),
    ("TRAIN data=kolmogorov2d", 3, "has 2 training and 0 validation samples; training needs"),
]


def the(root: Path, pattern: str) -> Path:
    (found,) = root.glob(pattern)
    return found


@pytest.mark.parametrize(("words", "code", "line"), KINDS)
def test_the_wrong_result(words: str, code: int, line: str, made: Path, refused: Any) -> None:
    places = {"set": the(made, "sets/darcy-*"), "prior": the(made, "runs/darcy-*"), "root": made}
    refused(words.format(**places).split(), code, line, made)


def flip(file: Path) -> None:
    content = bytearray(file.read_bytes())
    content[len(content) // 2] ^= 1
    file.write_bytes(content)


def edit(file: Path, **entries: Any) -> None:
    file.write_text(json.dumps(json.loads(file.read_text()) | entries))


def newer_store(file: Path) -> None:
    record = json.loads(file.read_text()) | {"schema_version": 99}
    record.pop("seal")
    file.write_text(seal(record))


def newer_checkpoint(file: Path) -> None:
    sealed = json.loads(file.read_text()) | {"schema": 99}
    sealed.pop("seal")
    file.write_text(json.dumps(sealed | {"seal": checkpoint._seal(sealed)}))


def without_mean(run: Path) -> None:
    tensors, meta = checkpoint.load(run)
    checkpoint.save(run, 4, {name: t for name, t in tensors.items() if name != "mean"}, meta, final=True)


TENSORS, META = ("runs/darcy-*/checkpoints/final-*/" + name for name in ("tensors.safetensors", "meta.json"))
SHARD = "sets/darcy-*/data.zarr/pressure/c/0/0/0"
PRIOR, SET = "HELD-OUT data=darcy", "TRAIN name=again"
DAMAGES: dict[str, tuple[str, Callable[[Path], object], str, int, str]] = {
    # which file; what happens to it; the command; exit code; part of the first line
    "prior: byte": (TENSORS, flip, PRIOR, 5, "is damaged (SHA-256 of the tensors differs)"),
    "prior: cut": (TENSORS, lambda f: os.truncate(f, 100), PRIOR, 5, "is damaged (SHA-256 of the tensors differs)"),
    "prior: lost": (TENSORS, Path.unlink, PRIOR, 5, "error[integrity]: checkpoint final-00000004 of darcy-"),
    "prior: meta": (META, lambda f: edit(f, step=7), PRIOR, 5, "is damaged (meta.json is not what was written)"),
    "prior: newer": (META, newer_checkpoint, PRIOR, 4, "has schema 99; this version reads schema 1"),
    "prior: older": ("runs/darcy-*", without_mean, PRIOR, 4, "was made by another version of pdediff ('mean')"),
    "prior: no final": ("runs/darcy-*/checkpoints/final-*", shutil.rmtree, PRIOR, 5, "the final checkpoint of darcy-"),
    "prior: manifest": ("runs/darcy-*/manifest.json", lambda f: edit(f, content="0"), PRIOR, 5, "json is damaged"),
    "prior: unfinished": ("runs/darcy-*/manifest.json", Path.unlink, PRIOR, 5, "is not complete"),
    "prior: byte, sample": (TENSORS, flip, "SAMPLE", 5, "is damaged (SHA-256 of the tensors differs)"),
    "set: byte": (SHARD, flip, SET, 5, "of pressure is damaged (checksum)"),
    "set: cut": (SHARD, lambda f: os.truncate(f, 10), SET, 5, "sample 0 of pressure is damaged (checksum)"),
    "set: lost": (SHARD, Path.unlink, SET, 5, "sample 0 of pressure is damaged (missing)"),
    "set: config": ("sets/darcy-*/config.json", flip, SET, 5, "config.json is damaged"),
    "set: newer": ("sets/darcy-*/config.json", newer_store, SET, 4, "has store schema 99, this pdediff reads "),
    "set: metadata": ("sets/darcy-*/data.zarr/zarr.json", lambda f: f.write_text("{"), SET, 5, "zarr.json is damaged"),
    "set: unfinished": ("sets/darcy-*/manifest.json", Path.unlink, SET, 5, "is not complete: 160 of 160 samples"),
    "set: unfinished, read": ("sets/darcy-*/manifest.json", Path.unlink, PRIOR, 5, "is not complete"),
    "set: code": (
        "sets/darcy-*/data.zarr/pressure/zarr.json",
        lambda f: f.write_text(f.read_text().replace('"crc32c"', '"pickle"')),
        *(SET, 3, "array pressure: codec 'pickle' is not one of "),
    ),
}


@pytest.mark.fault
@pytest.mark.parametrize("what", DAMAGES)
def test_damaged_results(what: str, made: Path, tmp_path: Path, refused: Any) -> None:
    pattern, damage, words, code, line = DAMAGES[what]
    root = tmp_path / "data"
    shutil.copytree(made, root)
    damage(the(root, pattern))
    refused(words, code, line, root)


def test_a_set_that_is_being_written(made: Path, tmp_path: Path, refused: Any) -> None:
    root = tmp_path / "data"
    shutil.copytree(made, root)
    the(root, "sets/darcy-*/manifest.json").unlink()
    with Lock(the(root, "sets/darcy-*"), "blue-fox"):
        refused(["GENERATE"], 75, "error[locked]: ", root)


def test_a_file_where_the_data_root_should_be(made: Path, tmp_path: Path, refused: Any) -> None:
    (tmp_path / "data").write_text("")
    refused(["GENERATE"], 7, "a file is where a folder is needed", tmp_path / "data")
    shutil.copytree(made, tmp_path / "other")
    (tmp_path / "other/recon").write_text("")
    refused("HELD-OUT data=darcy", 7, "a file is where a folder is needed", tmp_path / "other")
