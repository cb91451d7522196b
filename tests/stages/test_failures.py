"""What fails: samples and cases that are rejected, and inputs that do not belong together."""

from __future__ import annotations

from pathlib import Path
from typing import Any, cast

import numpy as np
import pytest
import stage_recipe as recipe

from pdediff import stages
from pdediff.errors import DataError, MatchError, NumericalError, RejectedError
from pdediff.runtime import Runtime
from pdediff.stages import generation_tile, reconstruction
from pdediff.store import SetReader, open_store
from pdediff.types import Purpose, derive

NOTHING = cast(Runtime, None)  # a stage that only returns a finished result asks nothing of it
GROUPS = {"posterior", "sample_stats", "observed_data", "posterior_predictive", "constant_data"}


def opened(path: Path) -> Any:
    return open_store(path)


def test_a_sample_that_fails_is_drawn_again_then_rejected(
    world: recipe.World, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    solve, bad = generation_tile.solve, {derive(0, Purpose.PROBLEM, 5)}
    bad |= {derive(0, Purpose.PROBLEM, 9), *(derive(0, Purpose.PROBLEM, 9, k) for k in (1, 2))}

    def failing(pde: Any, seeds: Any, grid: int, device: str) -> Any:
        fields, reasons = solve(pde, seeds, grid, device)
        return fields, ["looks wrong" if seed in bad else reason for seed, reason in zip(seeds, reasons, strict=True)]

    monkeypatch.setattr(generation_tile, "solve", failing)
    words = (*recipe.GENERATE, "max_rejected=0.02")
    with pytest.raises(RejectedError, match=r"1 of 32 samples were rejected.*sample 9: looks wrong"):
        stages.generate(recipe.config("generate", *words), tmp_path, recipe.INLINE)
    path = recipe.only(tmp_path / "sets")
    assert path is not None
    found, known = opened(path), opened(world.data)
    assert np.flatnonzero(found["status"]).tolist() == [9]
    assert int(found["seed"][5]) == derive(0, Purpose.PROBLEM, 5, 1)
    assert found["attempts"].values.tolist() == [2 if i == 5 else 3 if i == 9 else 1 for i in range(32)]
    assert found.attrs["redrawn"] == 2
    assert found["difficulty"].values.tolist() == [0] * 32  # a rejected sample keeps its level
    assert 9 not in SetReader(path).split("train")
    others = [i for i in range(32) if i not in (5, 9)]
    for name in ("permeability", "pressure"):
        np.testing.assert_array_equal(found[name].values[others], known[name].values[others])
        assert np.isnan(found[name].values[9]).all()
        assert not np.array_equal(found[name].values[5], known[name].values[5])


def test_a_case_that_diverges_is_marked_and_the_others_are_scored(
    world: recipe.World, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    draw = reconstruction.draw

    def failing(posterior: Any, source: Any, observation: Any, config: Any, case: int) -> Any:
        if case in broken:
            raise NumericalError("state is not finite at step 3")
        return draw(posterior, source, observation, config, case)

    monkeypatch.setattr(reconstruction, "draw", failing)
    config, broken = recipe.config("reconstruct", *recipe.reconstruct_words("dps")), {1}
    with pytest.raises(RejectedError, match="1 of 2 cases failed; case 1: state is not finite"):
        stages.reconstruct(config, world.prior, world.data, tmp_path, recipe.INLINE)
    path = recipe.only(tmp_path / "recon")
    assert path is not None
    np.testing.assert_array_equal(
        opened(path)["posterior/pressure"].values[0], opened(world.recon["dps"])["posterior/pressure"].values[0]
    )
    report = stages.evaluate(recipe.config("evaluate"), [path, world.recon["kriging"]], tmp_path, recipe.INLINE)
    assert '"dps"' in (report / "scores.json").read_text()
    broken |= {0}
    lost = config.model_copy(update={"name": "lost"})
    with pytest.raises(NumericalError, match="all 2 cases failed"):
        stages.reconstruct(lost, world.prior, world.data, tmp_path / "lost", recipe.INLINE)
    path = recipe.only(tmp_path / "lost" / "recon")
    assert path is not None
    with pytest.raises(DataError, match=r"every case of lost-.* failed"):
        stages.evaluate(recipe.config("evaluate"), [path], tmp_path, recipe.INLINE)


def test_what_does_not_belong_together_is_refused(world: recipe.World, tmp_path: Path) -> None:
    words = [w for w in recipe.GENERATE if "grid" not in w and "samples" not in w]
    other = stages.generate(recipe.config("generate", *words, "grid=8", "samples=12"), tmp_path, recipe.INLINE)
    config = recipe.config("reconstruct", *recipe.reconstruct_words("dps"))
    with pytest.raises(MatchError, match=r"expects channels \(permeability, pressure\) at 16x16; .* at 8x8"):
        stages.reconstruct(config, world.prior, other, tmp_path, recipe.INLINE)
    with pytest.raises(MatchError, match="fields names 'velocity'"):
        stages.train(recipe.config("train", *recipe.TRAIN, "fields=[velocity]"), other, tmp_path, recipe.INLINE)
    wanted = recipe.config("reconstruct", *recipe.reconstruct_words("dps"), "cases=9")
    with pytest.raises(DataError, match=r"cases=9, but split 'test' .* has 8 samples"):
        stages.reconstruct(wanted, world.prior, world.data, tmp_path, recipe.INLINE)
    seeded = recipe.config("reconstruct", *recipe.reconstruct_words("dps"), "seed=1")
    moved = stages.reconstruct(seeded, world.prior, world.data, tmp_path, recipe.INLINE)
    with pytest.raises(MatchError, match="different observations"):
        stages.evaluate(recipe.config("evaluate"), [world.recon["kriging"], moved], tmp_path, recipe.INLINE)
    with pytest.raises(MatchError, match="two reconstructions have the name 'kriging'"):
        stages.evaluate(recipe.config("evaluate"), [world.recon["kriging"]] * 2, tmp_path, recipe.INLINE)
    assert not (tmp_path / "runs").exists()
    assert not (tmp_path / "reports").exists()


def test_too_few_samples_to_train_on(tmp_path: Path) -> None:
    words = (*recipe.GENERATE, "samples=4", "split={train: 0.75, valid: 0.25, test: 0}")
    data = stages.generate(recipe.config("generate", *words), tmp_path, recipe.INLINE)
    with pytest.raises(DataError, match="3 training and 1 validation samples"):
        stages.train(recipe.config("train", *recipe.TRAIN), data, tmp_path, recipe.INLINE)
    assert not (tmp_path / "runs").exists()
