"""Checks at write: what fails is drawn again and counted, what drifts or repeats is rejected with the reason."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import made_up
import numpy as np
import pytest
import stage_recipe as recipe
import torch

from pdediff import stages
from pdediff.config import build
from pdediff.errors import RejectedError, ResourceError
from pdediff.runtime import Runtime
from pdediff.spread import Failure
from pdediff.stages import generation, generation_plan, generation_tile
from pdediff.stages.generation_tile import duplicates
from pdediff.store import Receipt, SetReader, open_store, read_manifest, verify
from pdediff.store.receipts import Making, read_receipts
from pdediff.types import Purpose, derive, uniform

WORDS = ("grid=8", "tile=2", "shard=8", "samples=48", "max_rejected=1")
SPLIT = "split={train: 0.5, valid: 0.25, test: 0.25}"


def made(root: Path, pde: str, *words: str, runtime: Runtime = recipe.INLINE) -> Path:
    return stages.generate(recipe.config("generate", f"pde={{kind: MadeUp, {pde}}}", *WORDS, *words), root, runtime)


def opened(path: Path) -> Any:
    return open_store(path)


def fate(index: int, attempt: int = 0) -> float:
    """The number that decides what becomes of a sample."""
    seed = derive(0, Purpose.PROBLEM, index, attempt) if attempt else derive(0, Purpose.PROBLEM, index)
    return float(uniform((seed,), (1,))[0, 0])


def tries(index: int, bad: Any) -> int:
    """Attempts until a sample is good, or all three."""
    return next((k + 1 for k in range(3) if not bad(fate(index, k))), 3)


@pytest.mark.parametrize(
    ("pde", "bad", "reason"),
    [
        ("broken: 0.4", lambda number: number < 0.4, "u is not finite"),
        ("drifting: 0.4", lambda number: number > 0.6, "momentum drifts by 1, more than 0.1"),
        ("refused: 0.4", lambda number: number < 0.4, "the matrix is singular"),
    ],
)
def test_what_fails_is_drawn_again_and_counted(
    pde: str, bad: Any, reason: str, made_up_pde: None, tmp_path: Path
) -> None:
    path = made(tmp_path, pde)
    data, receipts = opened(path), read_receipts(path / "receipts.jsonl")
    attempts = [tries(i, bad) for i in range(48)]
    lost = [i for i in range(48) if all(bad(fate(i, k)) for k in range(3))]
    assert {1, 2, 3} == set(attempts)
    assert 0 < len(lost) < 8
    assert data["attempts"].values.tolist() == attempts == [receipts[i].attempts for i in range(48)]
    assert np.flatnonzero(data["status"]).tolist() == lost
    assert {receipts[i].reason for i in lost} == {reason}
    for i in range(48):
        expected = derive(0, Purpose.PROBLEM, i, attempts[i] - 1) if attempts[i] > 1 else derive(0, Purpose.PROBLEM, i)
        assert int(data["seed"][i]) == expected
    assert data.attrs["redrawn"] == sum(number > 1 for number in attempts)
    assert np.isnan(data["u"].values[lost]).all()
    assert np.isfinite(np.delete(data["u"].values, lost, 0)).all()
    pde_built = build("pde", recipe.config("generate", "pde={kind: MadeUp}").pde)
    for i in (attempts.index(1), attempts.index(2)):
        (alone,) = pde_built.solve(pde_built.draw([int(data["seed"][i])], 8))["u"].float().numpy()
        np.testing.assert_array_equal(data["u"].values[i], alone)


def test_a_sample_that_repeats_another_is_rejected(
    made_up_pde: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = made(tmp_path, "twins: 0.15", SPLIT)
    twins = [i for i in range(48) if fate(i) < 0.15]
    assert len(twins) > 2
    data, receipts = opened(path), read_receipts(path / "receipts.jsonl")
    assert np.flatnonzero(data["status"]).tolist() == twins[1:]  # the first one stays
    assert {receipts[i].reason for i in twins[1:]} == {f"the same outputs as sample {twins[0]}"}
    assert data.attrs["duplicates"] == {str(i): f"the same outputs as sample {twins[0]}" for i in twins[1:]}
    assert twins[0] in SetReader(path).split("train")
    assert not set(twins[1:]) & set(SetReader(path).split("train"))
    assert np.isnan(data["u"].values[twins[1:]]).all()
    assert verify(path) == []
    with pytest.raises(RejectedError, match=rf"sample {twins[1]}: the same outputs as sample {twins[0]}"):
        made(tmp_path, "twins: 0.15", SPLIT, "max_rejected=0.01")
    # the same from any order, and after a stop just before the end
    other = tmp_path / "other"
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(generation.Writer, "finish", stop)
        with pytest.raises(KeyboardInterrupt):
            made(other, "twins: 0.15", SPLIT, runtime=Backwards(cluster="inline"))
    again = made(other, "twins: 0.15", SPLIT)
    assert recipe.content(again) == recipe.content(path)
    assert opened(again).attrs["duplicates"] == data.attrs["duplicates"]
    # and repair knows them, with their receipts and without
    manifest = read_manifest(path)
    for lose in (False, True):
        hurt = Path(shutil.copytree(path, tmp_path / f"hurt-{lose}"))
        shard = twins[1] // 8
        (hurt / "data.zarr" / "u" / "c" / str(shard) / "0" / "0").unlink()
        if lose:
            (hurt / "receipts.jsonl").unlink()
        assert shard in stages.repair(hurt, tmp_path, recipe.INLINE)
        assert verify(hurt) == []
        assert manifest is not None
        assert recipe.content(hurt) == manifest["content"]


def stop(*arguments: Any) -> None:
    raise KeyboardInterrupt


class Backwards(Runtime):
    """Gives the items in reverse order."""

    def map(self, function: Any, items: Any, **options: Any) -> list[Failure[Any]]:
        return super().map(function, list(items)[::-1], **options)


def test_duplicates_are_accepted_samples_with_equal_outputs() -> None:
    def receipt(index: int, u: str, v: str, status: str = "ok") -> Receipt:
        return Receipt(index, 0, {"u": u, "v": v, "initial": f"{index}"}, "1", Making(0.0), status)

    made = [("a", "b"), ("a", "c"), ("a", "b"), ("x", "b"), ("a", "b"), ("a", "c")]
    receipts = {i: receipt(i, *pair, "rejected" if i == 4 else "ok") for i, pair in enumerate(made)}
    assert duplicates(receipts, ["u", "v"]) == {2: 0, 5: 1}
    assert duplicates(receipts, ["u"]) == {1: 0, 2: 0, 5: 0}
    assert duplicates(dict(reversed(receipts.items())), ["v", "u"]) == {2: 0, 5: 1}


def test_statistics_of_fields_and_of_their_differences(made_up_pde: None, tmp_path: Path) -> None:
    path = made(tmp_path, "broken: 0.4", SPLIT)
    data = opened(path)
    good = (data["split"].values == 0) & (data["status"].values == 0)
    for name in ("u", "initial"):
        values = data[name].values[good].astype(np.float64)
        attrs, stored = data[name].attrs, data.attrs["statistics"][name]
        np.testing.assert_allclose([attrs["mean"], attrs["std"]], [values.mean(), values.std()], rtol=1e-10)
        assert (attrs["mean"], attrs["std"]) == (stored["mean"], stored["std"])
        if name == "u":
            step = np.diff(values, axis=1)
            found = [attrs["difference_mean"], attrs["difference_std"]]
            np.testing.assert_allclose(found, [step.mean(), step.std()], rtol=1e-10)
            assert stored["difference_std"] == attrs["difference_std"]
        else:
            assert "difference_mean" not in attrs
    assert SetReader(path).statistics()["u"]["difference_std"] > 0


def test_a_worker_that_dies_leaves_rejected_samples_with_their_level(made_up_pde: None, tmp_path: Path) -> None:
    class Deadly(Runtime):
        """The second shard kills its worker."""

        def map(self, function: Any, items: Any, **options: Any) -> list[Failure[Any]]:
            lost = [item for item in items if getattr(item, "shard", None) == 1]
            super().map(function, [item for item in items if item not in lost], **options)
            return [Failure(item, "killed its worker twice") for item in lost]

    words = ("difficulty=[low:0.5,high:0.5]", "samples=24")
    path = made(tmp_path, "broken: 0", *words, runtime=Deadly(cluster="inline"))
    data = opened(path)
    assert np.flatnonzero(data["status"]).tolist() == list(range(8, 16))
    assert np.bincount(data["difficulty"].values).tolist() == [12, 0, 12]
    assert (data["split"].values[8:16] == -1).all()


def test_problems_are_drawn_where_they_are_solved(
    made_up_pde: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    made(tmp_path / "cpu", "broken: 0")
    assert set(made_up.DEVICES) == {"cpu"}
    made_up.DEVICES.clear()
    asked = []

    def resolve(choice: str) -> str:
        asked.append(choice)
        return "cpu:0"  # another name for the same device

    for module in (generation, generation_plan):
        monkeypatch.setattr(module, "resolve_device", resolve)
    made(tmp_path / "other", "broken: 0", runtime=Runtime(cluster="inline", device="auto"))
    assert set(made_up.DEVICES) == {"cpu:0"}
    assert set(asked) == {"auto"}


def test_a_tile_that_does_not_fit_the_device_says_so(made_up_pde: None, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*arguments: Any) -> Any:
        raise torch.OutOfMemoryError("CUDA out of memory")

    monkeypatch.setattr(made_up.MadeUp, "solve", full)
    with pytest.raises(ResourceError, match="a tile of 6 samples on grid=8 does not fit") as caught:
        generation_tile.solve(made_up.MadeUp(), range(6), 8, "cpu")
    assert caught.value.hint == "tile=3"


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no GPU")
def test_a_gpu_makes_the_same_set_but_for_rounding(tmp_path: Path) -> None:
    words = ("pde=burgers1d", "pde.clock.frames=4", "samples=8", "grid=64", "difficulty=[low:0.5,high:0.5]")
    config = recipe.config("generate", *words)
    both = [
        opened(stages.generate(config, tmp_path / device, Runtime(cluster="inline", device=device)))  # type: ignore[arg-type]
        for device in ("cpu", "cuda")
    ]
    for name in ("initial", "u"):
        np.testing.assert_allclose(both[1][name].values, both[0][name].values, rtol=1e-5, atol=1e-6)
    assert both[0]["difficulty"].values.tolist() == both[1]["difficulty"].values.tolist()
