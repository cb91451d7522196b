"""Maps of steady equations as stages: the labelled forecast, its scores, a training that no solution entered."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import stage_recipe as recipe
import torch

from pdediff import stages
from pdediff.config import build
from pdediff.errors import ConfigError, DataError, MatchError
from pdediff.metrics import rollout as scores
from pdediff.models.forecasters import WalkOnSpheresMap
from pdediff.stages.forecaster_training import load_forecaster
from pdediff.stages.steady_data import load_pairs
from pdediff.stages.steady_training import load_map
from pdediff.store import SetReader, open_store

NETWORK = ("network=fno", "network.modes=8", "network.width=8", "network.features=16")
FIT = ("fit.steps=6", "fit.batch=8", "fit.checkpoint_every=3")
DARCY = ("pde=darcy", "samples=32", "grid=16", "split={train: 0.5, valid: 0.25, test: 0.25}")
POISSON = ("pde=poisson2d", "samples=32", "grid=12", "split={train: 0.5, valid: 0.25, test: 0.25}")


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("steady")


@pytest.fixture(scope="module")
def poisson(root: Path) -> Path:
    return stages.generate(recipe.config("generate", *POISSON), root, recipe.INLINE)


@pytest.fixture(scope="module")
def darcy(root: Path) -> Path:
    return stages.generate(recipe.config("generate", *DARCY), root, recipe.INLINE)


def trained(root: Path, data: Path, *words: str, forecaster: str = "steady_map") -> Path:
    config = recipe.config("train_forecaster", f"forecaster={forecaster}", *NETWORK, *FIT, *words)
    return stages.train_forecaster(config, data, root, recipe.INLINE)


@pytest.fixture(scope="module")
def model(root: Path, darcy: Path) -> Path:
    return trained(root, darcy)


def test_pairs_are_normalised_inputs_and_outputs(darcy: Path, model: Path) -> None:
    reader, rule = SetReader(darcy), load_map(model).forecaster
    pairs = load_pairs(reader, None, rule, 0)
    assert (pairs.meta["inputs"], pairs.meta["fields"]) == (["permeability"], ["pressure"])
    for z in (pairs.given, pairs.known):
        assert float(z.mean()) == pytest.approx(0.0, abs=1e-4)
        assert float(z.std(correction=0)) == pytest.approx(1.0, rel=1e-4)
    rows = reader.split("train")
    torch.testing.assert_close(pairs.outputs.physical(pairs.known), reader.fields(["pressure"], rows))


def test_the_forecast_is_labelled_and_scored(darcy: Path, model: Path, tmp_path: Path) -> None:
    path = stages.forecast(recipe.config("forecast", "cases=5", "tile=2"), model, darcy, tmp_path, recipe.INLINE)
    tree = open_store(path)
    made, truth = tree["forecast"]["pressure"], tree["truth"]["pressure"]
    assert made.dims == ("case", "member", "y", "x")
    assert made.shape == (5, 1, 16, 16)
    reader, stored = SetReader(darcy), load_map(model)
    rows = reader.split("test")[:5]
    np.testing.assert_array_equal(tree["constant_data"]["sample"], rows)
    np.testing.assert_array_equal(truth, reader.array("pressure", rows))
    alone = stored(reader.fields(["permeability"], rows[3:4]), torch.zeros(1, 0))
    np.testing.assert_allclose(made[3, 0], alone[0, 0], atol=1e-6)
    told = tree["scores"]["pressure_relative_l2"]
    np.testing.assert_allclose(told, scores.nrmse(made.values[:, 0], truth.values, 2))
    assert (told < 1.0).all()  # already nearer than zero: the mean is known
    assert (
        stages.forecast(recipe.config("forecast", "cases=5", "tile=2"), model, darcy, tmp_path, recipe.INLINE) == path
    )


def test_training_is_found_again_and_continues_to_the_same_weights(darcy: Path, tmp_path: Path) -> None:
    whole = trained(tmp_path / "a", darcy)
    assert trained(tmp_path / "a", darcy) == whole
    short = Path(shutil.copytree(whole, tmp_path / "b" / "runs" / whole.name))
    (short / "manifest.json").unlink()
    for folder in (short / "checkpoints").glob("*0006"):
        shutil.rmtree(folder)
    assert trained(tmp_path / "b", darcy) == short
    assert recipe.content(short) == recipe.content(whole)


def test_symmetries_change_the_training_and_can_be_left_out(darcy: Path, model: Path, tmp_path: Path) -> None:
    plain = load_map(trained(tmp_path, darcy, "forecaster.augment=false"))
    weights = [dict(m.response.network.named_parameters())["projection.fcs.1.bias"] for m in (plain, load_map(model))]
    assert not torch.equal(*weights)


def test_symmetries_move_inputs_and_what_they_belong_to_alike(
    poisson: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[tuple[torch.Tensor, torch.Tensor]] = []
    loss = WalkOnSpheresMap.loss

    def recorded(self: WalkOnSpheresMap, response: Any, given: torch.Tensor, known: torch.Tensor, *rest: Any) -> Any:
        seen.append((given, known))
        return loss(self, response, given, known, *rest)

    monkeypatch.setattr(WalkOnSpheresMap, "loss", recorded)
    stored = load_map(trained(tmp_path, poisson, "forecaster.points=20", forecaster="walk_on_spheres"))
    given, known = (torch.cat(parts) for parts in zip(*seen, strict=True))
    torch.testing.assert_close(stored.inputs.physical(given), -known * stored.outputs.scale, rtol=1e-4, atol=1e-5)
    reader = SetReader(poisson)
    whole = stored.inputs.state(reader.fields(["source"], reader.split("train")))
    kept = [bool((whole == field).flatten(1).all(1).any()) for field in given]
    assert sum(kept) < len(kept) / 2  # one of eight elements is the identity


def test_no_solution_enters_a_training_on_walks(poisson: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[str] = []
    read = SetReader.array

    def recorded(self: SetReader, name: str, *rest: Any) -> Any:
        asked.append(name)
        return read(self, name, *rest)

    monkeypatch.setattr(SetReader, "array", recorded)
    run = trained(tmp_path, poisson, "forecaster.points=20", forecaster="walk_on_spheres")
    assert "source" in asked
    assert "potential" not in asked
    stored, reader = load_map(run), SetReader(poisson)
    size = reader.array("potential", reader.split("train")).std()
    assert float(stored.outputs.scale) == pytest.approx(float(size), rel=0.5)  # from products of walks
    assert float(stored.outputs.offset) == 0.0
    path = stages.forecast(recipe.config("forecast", "cases=2"), run, poisson, tmp_path, recipe.INLINE)
    assert np.isfinite(open_store(path)["scores"]["potential_relative_l2"]).all()


def test_the_known_field_of_a_training_on_walks_is_minus_the_source(poisson: Path) -> None:
    reader = SetReader(poisson)
    rule = recipe.config("train_forecaster", "forecaster=walk_on_spheres").forecaster
    pairs = load_pairs(reader, None, build("forecaster", rule), 0)
    source = reader.fields(["source"], reader.split("train"))
    torch.testing.assert_close(pairs.known * pairs.outputs.scale, -source)
    torch.testing.assert_close(pairs.inputs.physical(pairs.given), source)


@pytest.mark.parametrize(
    ("words", "error", "line"),
    [
        (("cases=100",), DataError, "cases=100, but split 'test' has 8 samples"),
        (("members=2",), ConfigError, "members=2: a steady map has neither time nor chance"),
        (("start=1",), ConfigError, "start=1: a steady map has neither time nor chance"),
        (("frames=3",), ConfigError, "frames=3: a steady map has neither time nor chance"),
    ],
)
def test_requests_that_do_not_fit(
    darcy: Path, model: Path, tmp_path: Path, words: tuple[str, ...], error: type[Exception], line: str
) -> None:
    with pytest.raises(error, match=line):
        stages.forecast(recipe.config("forecast", "cases=1", *words), model, darcy, tmp_path, recipe.INLINE)


def test_wrong_kinds_of_results_are_named(darcy: Path, poisson: Path, model: Path, tmp_path: Path) -> None:
    with pytest.raises(MatchError, match=r"walks on spheres solve Poisson; .* is Darcy"):
        trained(tmp_path, darcy, forecaster="walk_on_spheres")
    with pytest.raises(MatchError, match=r"fields names 'permeability'; steady outputs of .*: pressure"):
        trained(tmp_path, darcy, "fields=[permeability]")
    with pytest.raises(ConfigError, match="a steady map has no time step"):
        trained(tmp_path, darcy, "strides=[2]")
    with pytest.raises(MatchError, match="the map knows permeability, pressure"):
        stages.forecast(recipe.config("forecast", "cases=1"), model, poisson, tmp_path, recipe.INLINE)
    with pytest.raises(MatchError, match="not a forecaster"):
        load_forecaster(model)


def test_a_prior_is_no_map(world: recipe.World) -> None:
    with pytest.raises(MatchError, match="holds no map of a steady equation"):
        load_map(world.prior)
