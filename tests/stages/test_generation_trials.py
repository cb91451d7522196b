"""The accuracy of a set: measured beside its samples where nothing depends on it, before them where something does."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import stage_recipe as recipe

from pdediff import stages
from pdediff.errors import NumericalError, ResourceError
from pdediff.runtime import Runtime
from pdediff.spread import Failure
from pdediff.stages import generation, generation_plan
from pdediff.stages.generation_plan import Plan, Trial
from pdediff.store import SetReader, open_store, read_identity, verify

LEVELS = ("pde={kind: MadeUp}", "grid=8", "tile=2", "shard=4", "samples=16", "difficulty=[low:0.5,high:0.5]")
ACCURACY = ("space_tail_ratio", "time_error_estimate")


def config(*words: str) -> Any:
    return recipe.config("generate", *LEVELS, *words)


def told(path: Path) -> dict[str, Any]:
    attrs: Any = open_store(path).attrs
    return {name: attrs[name] for name in (*ACCURACY, "method", "step", "levels", "statistics")}


def plan_of(path: Path) -> Plan:
    return Plan.of(read_identity(path))


def only(root: Path) -> Path:
    path = recipe.only(root / "sets")
    assert path is not None
    return path


def counted(monkeypatch: pytest.MonkeyPatch, stop: int = 1000) -> list[str]:
    """What is computed, in order; the driver dies when so much is done."""
    compute, done = generation.compute, []

    def counting(work: Any) -> Any:
        if len(done) == stop:
            raise KeyboardInterrupt
        done.append(work.level.name if isinstance(work, Trial) else f"shard {work.shard}")
        return compute(work)

    monkeypatch.setattr(generation, "compute", counting)
    return done


@pytest.fixture
def whole(made_up_pde: None, tmp_path: Path) -> Path:
    """An uninterrupted set."""
    return stages.generate(config(), tmp_path / "whole", recipe.INLINE)


def test_trials_go_with_the_shards(made_up_pde: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(generation_plan, "measured", None)  # the plan measures nothing
    done = counted(monkeypatch)
    path = stages.generate(config(), tmp_path, recipe.INLINE)
    assert done == ["low", "high", *(f"shard {k}" for k in range(4))]
    assert all((level.tail, level.time_error) == (None, None) for level in plan_of(path).levels)
    found = told(path)
    assert all(set(found[name]) == {"low", "high"} for name in ACCURACY)
    assert 0 < found["time_error_estimate"]["low"] < found["time_error_estimate"]["high"]
    assert SetReader(path).attrs["time_error_estimate"] == found["time_error_estimate"]
    assert verify(path) == []


def test_what_a_tolerance_measures_is_part_of_the_plan(
    made_up_pde: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    done = counted(monkeypatch)
    path = stages.generate(config("tolerance=1"), tmp_path, recipe.INLINE)
    assert done == [f"shard {k}" for k in range(4)]
    levels = {level.name: level for level in plan_of(path).levels}
    assert told(path)["time_error_estimate"] == {name: level.time_error for name, level in levels.items()}
    assert told(path)["space_tail_ratio"] == {name: level.tail for name, level in levels.items()}


@pytest.mark.parametrize("stop", [0, 1, 2, 4, 5])
def test_a_run_that_was_stopped_says_the_same(
    stop: int, whole: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.MonkeyPatch.context() as patch:
        counted(patch, stop)
        with pytest.raises(KeyboardInterrupt):
            stages.generate(config(), tmp_path, recipe.INLINE)
    done = counted(monkeypatch)
    path = stages.generate(config(), tmp_path, recipe.INLINE)
    assert done == ["low", "high", *(f"shard {k}" for k in range(max(0, stop - 2), 4))]
    assert told(path) == told(whole)
    assert recipe.content(path) == recipe.content(whole)


def test_a_set_begun_by_an_older_version_goes_on_without_trials(
    whole: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """There the plan has the accuracy, and the attributes have it from the beginning."""
    make = generation.make_plan

    def older(config: Any, runtime: Runtime) -> Plan:
        plan = make(config, runtime)
        return plan.measured(generation_plan.measured(trial) for trial in plan.trials(config, "cpu"))

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(generation, "make_plan", older)
        counted(patch, 2)
        with pytest.raises(KeyboardInterrupt):
            stages.generate(config(), tmp_path, recipe.INLINE)
    assert set(ACCURACY) <= set(json.loads((only(tmp_path) / "config.json").read_text())["schema"]["attrs"])
    done = counted(monkeypatch)
    path = stages.generate(config(), tmp_path, recipe.INLINE)
    assert done == ["shard 2", "shard 3"]
    assert told(path) == told(whole)
    assert verify(path) == []


def test_an_equation_without_a_solution_stops_before_the_samples(
    made_up_pde: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    done = counted(monkeypatch)
    with pytest.raises(NumericalError, match="level low: made_up has no finite solution at step"):
        stages.generate(config("pde={kind: MadeUp, broken: 1}"), tmp_path, recipe.INLINE)
    assert done == ["low"]


def test_a_trial_that_kills_its_worker_twice_is_told(made_up_pde: None, tmp_path: Path) -> None:
    class Deadly(Runtime):
        def map(self, function: Any, items: Any, **rest: Any) -> Any:
            failures = super().map(function, [item for item in items if not isinstance(item, Trial)], **rest)
            return failures + [Failure(item, "killed its worker twice") for item in items if isinstance(item, Trial)]

    with pytest.raises(ResourceError, match="level low could not be measured: killed its worker twice"):
        stages.generate(config(), tmp_path, Deadly(cluster="inline"))
    assert not (only(tmp_path) / "manifest.json").exists()
