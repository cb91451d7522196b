"""A plan tuned for a prior: stored, found again, run by `sample`, refused for another prior."""

from __future__ import annotations

import dataclasses
import itertools
import json
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import stage_recipe as recipe

from pdediff import cli, stages
from pdediff.errors import IntegrityError, MatchError
from pdediff.samplers import Plan
from pdediff.stages.sampling import task_of
from pdediff.stages.tuning import plan_of
from pdediff.store import open_store, read_schema

Shell = Callable[..., tuple[int, list[str], list[str]]]


@pytest.fixture
def shell(copy: recipe.World, capsys: pytest.CaptureFixture[str]) -> Shell:
    """Exit code and lines of output and error of a command on this job."""

    def run(command: str, *words: str) -> tuple[int, list[str], list[str]]:
        code = cli.run([command, *words, "--data-root", str(copy.root)])
        told = capsys.readouterr()
        return code, told.out.splitlines(), told.err.splitlines()

    return run


TUNE = ("steps=4", "budget=300")
SAMPLE = ("n=6", "steps=4", "tile=4")


@pytest.fixture(scope="module")
def tuned(world: recipe.World, tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("tuned")
    return stages.tune(recipe.config("tune", *TUNE), world.prior, root, recipe.INLINE)


def test_a_tuned_plan_is_kept_with_its_errors(tuned: Path, world: recipe.World) -> None:
    plan, tuned_for = plan_of(tuned)
    told = json.loads((tuned / "tuned.json").read_text())
    assert plan.nfe == 4
    assert (plan.levels[0], plan.levels[-1]) == (80.0, 0.01)
    assert tuned_for == recipe.content(world.prior)
    assert Plan.from_json(json.dumps(told["plan"])) == plan
    assert told["train"][1] <= told["train"][0]
    before = recipe.snapshot(tuned)
    again = stages.tune(recipe.config("tune", *TUNE), world.prior, tuned.parents[1], recipe.INLINE)
    assert again == tuned
    assert recipe.snapshot(tuned) == before


def test_samples_run_the_tuned_plan_and_keep_it(tuned: Path, world: recipe.World, tmp_path: Path) -> None:
    config = recipe.config("sample", *SAMPLE)
    plain = stages.sample(config, world.prior, tmp_path, recipe.INLINE)
    path = stages.sample(config, world.prior, tmp_path, recipe.INLINE, plan=tuned)
    assert path != plain
    drawn, other = open_store(path), open_store(plain)
    assert drawn.attrs["plan"] == plan_of(tuned)[0].to_json()
    assert drawn.attrs["plan_digest"] == plan_of(tuned)[0].digest()
    assert drawn.attrs["plan_digest"] != other.attrs["plan_digest"]
    assert float(np.abs(drawn["pressure"].values - other["pressure"].values).max()) > 0.0
    # sampler and steps are not what made it
    same = recipe.config("sample", "n=6", "steps=9", "tile=4", "sampler=ddim")
    assert stages.sample(same, world.prior, tmp_path, recipe.INLINE, plan=tuned) == path


def test_samples_on_one_brownian_path(world: recipe.World, tmp_path: Path) -> None:
    """Other noise than that of the steps, and kept apart from it; without noise in the sampler nothing changes."""
    drawn = {}
    for sampler, path in itertools.product(("ddpm", "ddim"), ("true", "false")):
        config = recipe.config("sample", *SAMPLE, f"sampler={sampler}", f"path={path}")
        made = stages.sample(config, world.prior, tmp_path, recipe.INLINE)
        drawn[sampler, path] = open_store(made)["pressure"].values
    assert float(np.abs(drawn["ddpm", "true"] - drawn["ddpm", "false"]).max()) > 0.0
    assert np.array_equal(drawn["ddim", "true"], drawn["ddim", "false"])


def test_samples_of_a_version_without_plans_are_not_guessed_at(world: recipe.World, tmp_path: Path) -> None:
    path = stages.sample(recipe.config("sample", *SAMPLE), world.prior, tmp_path, recipe.INLINE)
    schema = read_schema(path)
    old = dataclasses.replace(schema, attrs={k: v for k, v in schema.attrs.items() if k != "plan"})
    with pytest.raises(MatchError, match="another version of pdediff"):
        task_of(path, 0, {"config": {}}, old, world.prior, "cpu")


def test_a_plan_belongs_to_its_prior(tuned: Path, world: recipe.World, tmp_path: Path) -> None:
    other = stages.train(recipe.config("train", *recipe.TRAIN, "seed=1"), world.data, tmp_path, recipe.INLINE)
    with pytest.raises(MatchError, match="tuned for another prior"):
        stages.sample(recipe.config("sample", *SAMPLE), other, tmp_path, recipe.INLINE, plan=tuned)
    assert not (tmp_path / "samples").exists()


def test_a_damaged_plan_is_not_run(tuned: Path, tmp_path: Path) -> None:
    damaged = Path(shutil.copytree(tuned, tmp_path / tuned.name))
    text = (damaged / "plan.json").read_text()
    (damaged / "plan.json").write_text(text.replace("0.01", "0.02", 1))
    with pytest.raises(IntegrityError, match="is not whole"):
        plan_of(damaged)
    (damaged / "manifest.json").unlink()
    with pytest.raises(IntegrityError, match="is not whole"):
        plan_of(damaged)


def test_tuning_from_the_command_line(copy: recipe.World, shell: Shell) -> None:
    code, out, _ = shell("tune", f"prior={copy.prior.name}", *TUNE, "name=quick", "compute=inline", "-q")
    assert code == 0
    assert Path(out[-1]).parent.name == "plans"
    code, out, _ = shell("sample", f"prior={copy.prior.name}", "plan=quick", "n=3", "tile=3", "compute=inline", "-q")
    assert code == 0
    assert open_store(Path(out[-1])).sizes["sample"] == 3
    assert shell("verify", "quick")[0] == 0
    assert any("quick" in line and "plans" in line for line in shell("ls")[1])
    code, _, err = shell("sample", f"prior={copy.prior.name}", "plan=quik", "n=3")
    assert (code, len(err)) == (2, 2)
    assert err[0].startswith("error[config]: plan='quik' is neither a folder nor a name")
    code, _, err = shell("tune", f"prior={copy.prior.name}", "steps=1")
    assert code == 2
    assert "steps=1" in err[0]
