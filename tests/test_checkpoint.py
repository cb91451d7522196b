"""Checkpoints: whole or absent, checked, matched against the data; damage of four kinds; a full disk."""

import errno
import json
import logging
import os
from dataclasses import replace

import pytest
import torch

from pdediff import checkpoint
from pdediff.checkpoint import Contract
from pdediff.errors import IntegrityError, MatchError, NumericalError, ResourceError

CONTRACT = Contract(
    pde="darcy",
    channels=("a", "u"),
    grid=(64, 64),
    dims=("y", "x"),
    units=("1", "m"),
    normalisation="5c1f",
    time_step=0.5,
)


def tensors(seed=0):
    draw = torch.Generator().manual_seed(seed)
    return {
        "weight": torch.randn(3, 4, 2, 2, generator=draw).to(memory_format=torch.channels_last),
        "spectral": torch.randn(3, 2, generator=draw, dtype=torch.complex64),
        "double": torch.randn(3, generator=draw, dtype=torch.complex128),
        "count": torch.tensor(7),
        "limit": torch.tensor([float("inf"), 1.0], dtype=torch.float64),
    }


def same(a, b):
    return a.keys() == b.keys() and all(a[k].dtype == b[k].dtype and torch.equal(a[k], b[k]) for k in a)


def names(run):
    return sorted(p.name for p in (run / "checkpoints").iterdir())


def test_round_trip(tmp_path):
    meta = checkpoint.with_contract({"name": "t", "mean": [0.1, 1e-300], "nested": {"x": None}}, CONTRACT)
    folder = checkpoint.save(tmp_path, 12, tensors(), meta)
    back, read = checkpoint.load(tmp_path)
    assert same(back, tensors())
    assert read["mean"] == [0.1, 1e-300]
    assert checkpoint.contract_of(read) == CONTRACT
    checkpoint.require_match(read, CONTRACT)
    checkpoint.require_match(read, Contract(channels=("a", "u")))  # what is not asked for is not checked
    again = checkpoint.save(tmp_path / "other", 12, tensors(), meta)
    assert checkpoint.digest(folder) == checkpoint.digest(again)
    assert checkpoint.digest(folder) != checkpoint.digest(checkpoint.save(tmp_path, 13, tensors(1), meta))


def test_last_two_and_the_final_one_are_kept(tmp_path):
    assert checkpoint.latest(tmp_path) is None
    assert checkpoint.load_step(tmp_path) is None
    for step in (1, 2, 3, 10):
        checkpoint.save(tmp_path, step, tensors(step), {})
    assert names(tmp_path) == ["step-00000003", "step-00000010"]
    assert checkpoint.latest(tmp_path) == 10
    assert not checkpoint.is_complete(tmp_path)
    checkpoint.save(tmp_path, 10, tensors(99), {}, final=True)
    assert names(tmp_path) == ["final-00000010", "step-00000003", "step-00000010"]
    assert checkpoint.is_complete(tmp_path)
    assert same(checkpoint.load(tmp_path)[0], tensors(99))
    assert same(checkpoint.load(tmp_path, 3)[0], tensors(3))
    assert same(checkpoint.load_step(tmp_path)[2], tensors(10))
    checkpoint.save(tmp_path, 10, tensors(11), {})  # written again: replaced
    assert same(checkpoint.load_step(tmp_path)[2], tensors(11))


def flip(folder):
    path = folder / "tensors.safetensors"
    raw = bytearray(path.read_bytes())
    raw[-9] ^= 4
    path.write_bytes(raw)


def cut(folder):
    path = folder / "tensors.safetensors"
    path.write_bytes(path.read_bytes()[:-20])


def zero_tail(folder):
    path = folder / "tensors.safetensors"
    raw = path.read_bytes()
    path.write_bytes(raw[:-64] + bytes(64))


def no_meta(folder):
    (folder / "meta.json").unlink()


def changed_meta(folder):
    path = folder / "meta.json"
    path.write_text(path.read_text().replace('"mean": 1.5', '"mean": 2.5'))


def torn_meta(folder):
    path = folder / "meta.json"
    path.write_text(path.read_text()[:-30])


def list_meta(folder):
    (folder / "meta.json").write_text("[1, 2]")


@pytest.mark.fault
@pytest.mark.parametrize("damage", [flip, cut, zero_tail, no_meta, changed_meta, torn_meta, list_meta])
def test_damage_is_set_aside_and_the_one_before_is_used(tmp_path, caplog, damage):
    checkpoint.save(tmp_path, 4, tensors(4), {"mean": 1.5})
    damage(checkpoint.save(tmp_path, 8, tensors(8), {"mean": 1.5}))
    with caplog.at_level(logging.WARNING):
        assert same(checkpoint.load(tmp_path)[0], tensors(4))
    assert names(tmp_path) == ["bad-step-00000008", "step-00000004"]
    first = caplog.messages[0]
    assert first.startswith("checkpoint step-00000008 is damaged (")
    assert first.endswith("moved to bad-step-00000008")
    assert "\n" not in first
    # training continues from 4, writes 8 again, which is damaged again: both are kept apart
    damage(checkpoint.save(tmp_path, 8, tensors(8), {"mean": 1.5}))
    assert checkpoint.load_step(tmp_path)[1] == 4
    assert names(tmp_path) == ["bad-step-00000008", "bad-step-00000008-2", "step-00000004"]
    damage(checkpoint.save(tmp_path, 9, tensors(9), {"mean": 1.5}, final=True))
    assert not checkpoint.is_complete(tmp_path)
    damage(tmp_path / "checkpoints" / "step-00000004")
    with pytest.raises(IntegrityError, match=f"no whole checkpoint in {tmp_path}"):
        checkpoint.load(tmp_path)


@pytest.mark.fault
def test_every_byte_is_covered(tmp_path):
    """One flipped bit anywhere in either file is noticed (or leaves text that means the same)."""
    folder = checkpoint.save(tmp_path, 1, tensors(), {"mean": 1.5, "name": "x"})
    draw = torch.Generator().manual_seed(0)
    for name in ("tensors.safetensors", "meta.json"):
        whole = (folder / name).read_bytes()
        for place in torch.randint(len(whole), (40,), generator=draw).tolist():
            raw = bytearray(whole)
            raw[place] ^= 1 << int(torch.randint(8, (), generator=draw))
            (folder / name).write_bytes(raw)
            try:
                back, meta = checkpoint.load(tmp_path)
            except IntegrityError:
                (tmp_path / "checkpoints" / "bad-step-00000001").rename(folder)
            else:
                assert name == "meta.json"
                assert whole[place : place + 1].isspace()
                assert same(back, tensors())
                assert meta == {"mean": 1.5, "name": "x"}
        (folder / name).write_bytes(whole)


@pytest.mark.fault
@pytest.mark.parametrize(("place", "code"), [("write", errno.ENOSPC), ("fsync", errno.ENOSPC), ("mkdir", errno.EACCES)])
def test_full_disk_leaves_the_checkpoint_before(tmp_path, monkeypatch, place, code):
    checkpoint.save(tmp_path, 4, tensors(4), {})

    def fail(*args, **kwargs):
        raise OSError(code, os.strerror(code))

    def short_write(path, payload):
        path.write_bytes(payload[: len(payload) // 2])
        fail()

    if place == "write":
        monkeypatch.setattr(checkpoint, "_write", short_write)
    elif place == "fsync":
        monkeypatch.setattr(os, "fsync", fail)
    else:
        monkeypatch.setattr("pathlib.Path.mkdir", fail)
    with pytest.raises(ResourceError) as caught:
        checkpoint.save(tmp_path, 8, tensors(8), {})
    assert caught.value.message.endswith(f"step-00000008: {os.strerror(code)}")
    assert (caught.value.hint is not None) == (code == errno.ENOSPC)
    monkeypatch.undo()
    assert names(tmp_path) == ["step-00000004"]
    assert same(checkpoint.load(tmp_path)[0], tensors(4))


def test_a_writer_that_was_killed_leaves_nothing(tmp_path):
    checkpoint.save(tmp_path, 4, tensors(4), {})
    half = tmp_path / "checkpoints" / ".partial-step-00000008"
    half.mkdir()
    (half / "tensors.safetensors").write_bytes(b"half")
    assert same(checkpoint.load(tmp_path)[0], tensors(4))
    checkpoint.save(tmp_path, 9, tensors(9), {})
    assert names(tmp_path) == ["step-00000004", "step-00000009"]


@pytest.mark.parametrize(
    ("meta", "line"),
    [
        ({"std": [1.0, float("nan")]}, "checkpoint meta.std[1] is nan; nothing was written"),
        ({"a": {"b": float("-inf")}}, "checkpoint meta.a.b is -inf; nothing was written"),
    ],
)
def test_meta_is_finite(tmp_path, meta, line):
    with pytest.raises(NumericalError) as caught:
        checkpoint.save(tmp_path, 1, {}, meta)
    assert caught.value.message == line
    assert not (tmp_path / "checkpoints").exists()


MISMATCHES = [
    (dict(channels=("u",), grid=(128, 128)), "expects channels (a, u) at 64x64; dataset has (u) at 128x128"),
    (dict(channels=("u", "a")), "expects channels (a, u) at 64x64; dataset has (u, a) at 64x64"),
    (dict(grid=(64, 32)), "expects channels (a, u) at 64x64; dataset has (a, u) at 64x32"),
    (dict(grid=(64,)), "expects channels (a, u) at 64x64; dataset has (a, u) at 64"),
    (dict(dims=("x", "y")), "expects dims (y, x); dataset has (x, y)"),
    (dict(units=("1", "km")), "expects units (1, m); dataset has (1, km)"),
    (dict(normalisation="77aa"), "expects normalisation 5c1f; dataset has 77aa"),
    (dict(pde="burgers"), "expects pde darcy; dataset has burgers"),
    (dict(time_step=0.25), "expects time step 0.5; dataset has 0.25"),
]


@pytest.mark.parametrize(("change", "line"), MISMATCHES)
def test_wrong_checkpoint_for_the_data(tmp_path, change, line):
    checkpoint.save(tmp_path, 1, {}, checkpoint.with_contract({}, CONTRACT))
    meta = checkpoint.load(tmp_path)[1]
    with pytest.raises(MatchError) as caught:
        checkpoint.require_match(meta, replace(CONTRACT, **change))
    assert caught.value.lines()[0] == f"error[match]: checkpoint {line}"
    assert caught.value.exit_code == 4


@pytest.mark.parametrize("meta", [{}, {"contract": None}, {"contract": {"colour": "red"}}])
def test_contract_missing_or_unknown(meta):
    with pytest.raises(MatchError, match=r"does not say what it was trained for|unknown entry 'colour'"):
        checkpoint.require_match(meta, CONTRACT)


@pytest.mark.parametrize(("schema", "hint"), [(2, "use a newer pdediff"), (0, "use an older pdediff, or train again")])
def test_schema_of_another_version(tmp_path, schema, hint):
    path = checkpoint.save(tmp_path, 1, {}, {}) / "meta.json"
    sealed = json.loads(path.read_text()) | {"schema": schema}
    del sealed["seal"]
    path.write_text(json.dumps(sealed | {"seal": checkpoint._seal(sealed)}))
    with pytest.raises(MatchError) as caught:
        checkpoint.load(tmp_path)
    assert caught.value.message == f"checkpoint step-00000001 has schema {schema}; this version reads schema 1"
    assert caught.value.hint == hint
    assert names(tmp_path) == ["step-00000001"]  # not damaged: left where it is
