"""A budget of solver time: measured once, spent by shares, kept through kills."""

from __future__ import annotations

import os
import random
import shutil
import signal
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import made_up
import numpy as np
import pytest
import stage_recipe as recipe

from pdediff import cli, stages
from pdediff.errors import LockedError
from pdediff.runtime import Runtime
from pdediff.stages import generation, generation_plan, generation_tile
from pdediff.stages.generation_plan import Plan
from pdediff.store import Lock, Receipt, open_store, read_identity, read_schema, verify
from pdediff.store.receipts import read_receipts

NOTHING = cast(Runtime, None)
PACE = "pde={kind: MadeUp, pace: {row: 0.002}}"
WORDS = (PACE, "name=paced", "grid=8", "tile=2", "shard=8", "difficulty=[low:0.5,medium:0.3,high:0.2]", "budget=0.41s")


def opened(path: Path) -> Any:
    return open_store(path)


def plan_of(path: Path) -> Plan:
    return Plan.of(read_identity(path))


@pytest.fixture
def stopwatch(monkeypatch: pytest.MonkeyPatch) -> None:
    """A clock that only the solver moves: costs are exact on any machine."""
    now = [0.0]
    monkeypatch.setattr(made_up, "PAUSE", [lambda seconds: now.append(now[-1] + seconds)])
    monkeypatch.setattr(generation_tile, "time", SimpleNamespace(perf_counter=lambda: now[-1]))


def test_a_budget_is_spent_by_shares_of_solver_time(made_up_pde: None, stopwatch: None, tmp_path: Path) -> None:
    path = stages.generate(recipe.config("generate", *WORDS), tmp_path, recipe.INLINE)
    data, plan = opened(path), plan_of(path)
    codes, cost = data["difficulty"].values, data["cost"].values
    assert cost.dtype == np.float32
    assert data["cost"].attrs["units"] == "s"
    # 0.41 s by shares, over the seconds of two rows; whole tiles
    assert [level.tiles for level in plan.levels] == [51, 15, 2]
    assert (plan.samples, plan.workers) == (136, 1)
    assert np.bincount(codes).tolist() == [102, 30, 4]
    np.testing.assert_allclose(cost, np.array([0.002, 0.004, 0.016])[codes], rtol=1e-5)
    told = data.attrs
    assert (told["budget_seconds"], told["budget_workers"]) == (0.41, 1)
    assert told["pilot_seconds_per_sample"] == pytest.approx({"low": 0.002, "medium": 0.004, "high": 0.016})
    receipts = read_receipts(path / "receipts.jsonl")
    np.testing.assert_array_equal(cost, np.array([receipts[i].seconds for i in range(len(cost))], "float32"))
    split = data["split"].values
    assert all(set(codes[split == part]) == {0, 1, 2} for part in range(3))  # of two "high" tiles too


def test_workers_share_the_time(made_up_pde: None, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(generation_plan, "_seconds", lambda pde, trial, device: 0.01 * pde.rate)

    class Four(Runtime):
        @property
        def lanes(self) -> int:
            return 4

    config = generation.resolved(recipe.config("generate", *WORDS[:-1], "budget=10min"))
    plan = generation.make_plan(config, Four(cluster="inline"))
    assert [level.tiles for level in plan.levels] == [
        int(2400 * s / (2 * 0.01 * r)) for s, r in ((0.5, 0.5), (0.3, 1), (0.2, 4))
    ]
    assert (plan.workers, plan.shard) == (4, 8)
    alone = generation.make_plan(generation.resolved(recipe.config("generate", PACE, "budget=1min")), recipe.INLINE)
    assert alone.samples == 256 * int(60 / (256 * 0.01))
    tiny = generation.make_plan(
        generation.resolved(recipe.config("generate", *WORDS[:-1], "budget=0.001")), recipe.INLINE
    )
    assert [level.tiles for level in tiny.levels] == [1, 1, 1]


def test_a_first_tile_warms_up_and_the_second_counts(monkeypatch: pytest.MonkeyPatch) -> None:
    told = iter([9.0, 0.5])
    monkeypatch.setattr(generation_plan, "solve_tile", lambda *arguments: SimpleNamespace(seconds=next(told)))
    trial = generation_plan.Trial(generation_plan.Level("low", 0, {}), 8, 0, None, 4, "cpu")
    assert generation_plan._seconds(made_up.MadeUp(), trial, "cpu") == 0.5


def stopped(monkeypatch: pytest.MonkeyPatch, after: int) -> None:
    """The driver dies when so many shards are done."""
    compute, done = generation.compute_shard, []

    def dying(task: Any) -> list[Receipt]:
        if len(done) == after:
            raise KeyboardInterrupt
        done.append(task.shard)
        return compute(task)

    monkeypatch.setattr(generation, "compute_shard", dying)


def test_a_run_that_was_stopped_keeps_its_plan(
    made_up_pde: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = recipe.config("generate", *WORDS)
    with pytest.MonkeyPatch.context() as patch:
        stopped(patch, 3)
        with pytest.raises(KeyboardInterrupt):
            stages.generate(config, tmp_path, recipe.INLINE)
    path = recipe.only(tmp_path / "sets")
    assert path is not None
    plan, before = plan_of(path), read_receipts(path / "receipts.jsonl")
    assert len(before) == 24
    monkeypatch.setattr(generation, "make_plan", None)  # measured once, never again
    monkeypatch.setattr(generation_plan, "_seconds", lambda pde, trial, device: 99.0)
    assert stages.generate(config, tmp_path, recipe.INLINE) == path
    assert plan_of(path) == plan
    assert read_schema(path).size == plan.samples
    after = read_receipts(path / "receipts.jsonl")
    assert {i: after[i] for i in before} == before
    assert verify(path) == []
    files = recipe.snapshot(path)
    assert stages.generate(config, tmp_path, NOTHING) == path
    assert recipe.snapshot(path) == files


def test_of_two_that_measure_at_once_the_first_counts(made_up_pde: None, tmp_path: Path) -> None:
    config, plans = recipe.config("generate", *WORDS), []
    make = generation.make_plan

    def late(config: Any, runtime: Any) -> Plan:
        """While this run measures, another one makes the set."""
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(generation, "make_plan", make)
            plans.append(plan_of(stages.generate(config, tmp_path, recipe.INLINE)))
        found = make(config, runtime)
        return Plan(found.samples + 2, found.tile, found.shard, found.workers, found.levels)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(generation, "make_plan", late)
        path = stages.generate(config, tmp_path, recipe.INLINE)
    assert plan_of(path) == plans[0]
    assert verify(path) == []
    (path / "manifest.json").unlink()
    with Lock(path, "another"), pytest.raises(LockedError):
        stages.generate(config, tmp_path, recipe.INLINE)


def test_a_dry_run_of_a_budget_tells_what_it_pays_for(
    made_up_pde: None, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = [*WORDS[:-1], "budget=1h", "--dry-run", "--workers", "2", "--data-root", str(tmp_path / "x")]
    assert cli.run(["generate", *words]) == 0
    shown = capsys.readouterr().out
    assert "estimated seconds: 3600" in shown
    assert "levels: low, medium, high" in shown
    assert not (tmp_path / "x").exists()


@pytest.mark.fault
@pytest.mark.slow
def test_kill_9_at_random_points_of_a_budgeted_run(made_up_pde: None, tmp_path: Path) -> None:
    """Killed while it measures, while it writes and near the end: the set is the one its first plan describes."""
    draw = random.Random(int(os.environ.get("PDEDIFF_KILLS", "0")))
    words = ("generate", "compute=inline", *WORDS)
    root = tmp_path / "data"
    config = recipe.config("generate", *WORDS)
    plan: Plan | None = None
    share, kills = 0.0, 0
    while share < 0.9:
        least = 0 if plan is None else int(share * plan.samples)

        def reached(least: int = least) -> bool:
            return recipe.progress(root / "sets")["receipts"] >= max(1, least)

        code = recipe.signal_when(words, root, reached, signal.SIGKILL, made_up.PROGRAM)
        if code == 0 and kills >= 2:  # its last units were done before the signal came
            break
        assert code == -signal.SIGKILL, recipe.said(root)
        kills += 1
        path = recipe.only(root / "sets")
        assert path is not None
        plan = plan or plan_of(path)
        assert plan_of(path) == plan
        share += draw.uniform(0.25, 0.45)
    assert kills >= 2
    whole = tmp_path / "whole" / "sets"
    shutil.copytree(root / "sets", whole)  # the plan, and nothing of what was made by it
    copy = recipe.only(whole)
    assert copy is not None
    (copy / "receipts.jsonl").unlink()
    assert recipe.finish(words, root, made_up.PROGRAM) == 0, recipe.said(root)
    path = recipe.only(root / "sets")
    assert path is not None
    assert stages.generate(config, whole.parent, recipe.INLINE) == copy
    assert recipe.content(path) == recipe.content(copy)
    assert plan_of(path) == plan
    assert verify(path) == []
    assert not recipe.leftovers(path)
    before = recipe.snapshot(path)
    assert recipe.finish(words, root, made_up.PROGRAM) == 0
    assert recipe.snapshot(path) == before
