"""Training and rolling out forecasters on a small advection set: windows, stores, scores, refusals."""

from __future__ import annotations

import math
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import stage_recipe as recipe
import torch

from pdediff import metrics, stages
from pdediff.errors import ConfigError, ConfigErrors, DataError, MatchError
from pdediff.launch import checked, for_a_forecaster
from pdediff.metrics import rollout as scores
from pdediff.stages import forecasting
from pdediff.stages.forecast_data import Windows, load_windows
from pdediff.stages.forecaster_training import load_forecaster, stride_label
from pdediff.stages.priors import load_prior
from pdediff.store import SetReader, open_store
from pdediff.store.layout import RECEIPTS

GENERATE = (
    "pde=ks1d",
    "pde.length=22.0",
    "pde.clock={frames: 12, interval: 0.5, step: 0.25, warm_up: 4, precision: float64}",
    "samples=24",
    "grid=16",
    "shard=12",
    "tile=4",
    "split={train: 0.5, valid: 0.25, test: 0.25}",
)
NETWORK = ("network=unet", "network.widths=[8]", "network.features=16", "network.padding=circular")
FIT = ("fit.steps=6", "fit.batch=4", "fit.checkpoint_every=3")


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("forecasts")


@pytest.fixture(scope="module")
def data(root: Path) -> Path:
    return stages.generate(recipe.config("generate", *GENERATE), root, recipe.INLINE)


def trained(root: Path, data: Path, *words: str) -> Path:
    config = recipe.config("train_forecaster", *NETWORK, *FIT, *words)
    return stages.train_forecaster(config, data, root, recipe.INLINE)


@pytest.fixture(scope="module")
def refiner(root: Path, data: Path) -> Path:
    return trained(root, data, "forecaster=pde_refiner", "forecaster.history=2", "strides=[1, 2]")


def test_windows_are_all_windows_once() -> None:
    frames = torch.arange(3 * 7.0).reshape(3, 7, 1, 1)  # 10 * row + time would not fit one axis: 7 row + time
    windows = Windows(frames, torch.zeros(3, 0), length=3, strides=(1, 3))
    assert windows.counts == (5, 1)
    assert len(windows) == 18
    taken, _, which = windows.take(torch.arange(18))
    first = taken[:, 0, 0, 0]
    assert which.tolist() == [0] * 15 + [1] * 3
    assert sorted(first[:15].tolist()) == [7.0 * row + start for row in range(3) for start in range(5)]
    assert first[15:].tolist() == [0.0, 7.0, 14.0]
    torch.testing.assert_close(taken[:, :, 0, 0] - first[:, None], torch.tensor([[0.0, 1, 2]] * 15 + [[0.0, 3, 6]] * 3))


def test_differences_and_conditions_are_normalised(data: Path) -> None:
    reader = SetReader(data)
    loaded = load_windows(reader, None, 2, (1, 3))
    rows = reader.split("train")
    u = reader.array("u", rows).astype("float64")
    for number, stride in enumerate((1, 3)):
        change = (u[:, stride:] - u[:, :-stride]) / u.std()
        assert float(loaded.difference[number]) == pytest.approx(math.sqrt((change**2).mean()), rel=1e-4)
    assert set(loaded.scaling.conditions) == {"domain_length", "frame_interval"}  # the viscosity is one for all
    conditions = loaded.windows.conditions
    torch.testing.assert_close(conditions.mean(0), torch.zeros(2), atol=1e-4, rtol=0)
    torch.testing.assert_close(conditions.std(0, correction=0), torch.ones(2), atol=1e-4, rtol=0)


def test_forecast_is_labelled_and_scored(root: Path, data: Path, refiner: Path) -> None:
    words = ("cases=3", "members=4", "start=1", "stride=2", "frames=3", "tile=8", "seed=5")
    path = stages.forecast(recipe.config("forecast", *words), refiner, data, root, recipe.INLINE)
    tree = open_store(path)
    made, truth = tree["forecast"]["u"], tree["truth"]["u"]
    assert made.dims == ("case", "member", "time", "x")
    assert made.shape == (3, 4, 3, 16)
    np.testing.assert_allclose(tree["time"], [1.0, 2.0, 3.0])  # stride 2 of 0.5
    reader = SetReader(data)
    rows = reader.split("test")[:3]
    assert tree["constant_data"]["sample"].values.tolist() == rows.tolist()
    np.testing.assert_array_equal(truth, reader.array("u", rows)[:, [5, 7, 9]])  # frames 1 and 3 are seen
    u, t = made.values, truth.values
    told = tree["scores"]
    np.testing.assert_allclose(told["u_nrmse"], scores.nrmse(u, t[:, None], 1).mean(1))
    np.testing.assert_allclose(told["u_correlation_of_mean"], scores.correlation(u.mean(1, dtype="f8"), t, 1))
    assert float(told["u_crps"][1, 2]) == pytest.approx(metrics.crps(u[1, :, 2], t[1, 2]))
    assert float(told["u_spread_skill"][2, 0]) == pytest.approx(metrics.spread_skill(u[2, :, 0], t[2, 0]))
    assert tree["sample_stats"]["network_calls"].values.tolist() == [4 * 3 * 4.0] * 3
    assert (tree["sample_stats"]["diverged_at"] == -1).all()
    assert np.unique(u[0], axis=0).shape[0] == 4  # members differ


def test_members_depend_on_case_and_number_alone(root: Path, data: Path, refiner: Path) -> None:
    def of(*words: str) -> np.ndarray:
        config = recipe.config("forecast", "stride=1", "frames=2", *words)
        return open_store(stages.forecast(config, refiner, data, root, recipe.INLINE))["forecast"]["u"].values

    whole = of("cases=3", "members=4", "tile=4")
    np.testing.assert_array_equal(of("cases=2", "members=2", "tile=4"), whole[:2, :2])
    np.testing.assert_allclose(of("cases=3", "members=4", "tile=16"), whole, atol=1e-5)  # another batch size
    assert not np.array_equal(of("cases=3", "members=4", "tile=4", "seed=1"), whole)


def test_half_done_is_completed_and_done_is_returned(root: Path, data: Path, refiner: Path, tmp_path: Path) -> None:
    config = recipe.config("forecast", "cases=3", "members=2", "tile=2", "frames=2")
    whole = stages.forecast(config, refiner, data, root, recipe.INLINE)
    content = recipe.content(whole)
    assert stages.forecast(config, refiner, data, root, recipe.INLINE) == whole
    again = Path(shutil.copytree(whole, tmp_path / "data" / "forecasts" / whole.name))
    (again / "manifest.json").unlink()
    receipts = again / RECEIPTS
    lines = receipts.read_text().splitlines(keepends=True)
    assert len(lines) == 3
    receipts.write_text("".join(lines[:1] + lines[2:]))
    made = stages.forecast(config, refiner, data, tmp_path / "data", recipe.INLINE)
    assert made == again
    assert recipe.content(made) == content


def test_a_damaged_forecast_is_computed_again(root: Path, data: Path, refiner: Path) -> None:
    config = recipe.config("forecast", "cases=2", "members=2", "frames=2", "seed=9")
    path = stages.forecast(config, refiner, data, root, recipe.INLINE)
    content = recipe.content(path)
    shard = next(file for file in sorted((path / "data.zarr" / "forecast" / "u" / "c").rglob("*")) if file.is_file())
    kept = shard.read_bytes()
    shard.write_bytes(kept[:40] + b"xx" + kept[42:])
    assert stages.verify(path)
    assert stages.repair(path, root, recipe.INLINE) == [0]
    assert stages.verify(path) == []
    assert recipe.content(path) == content
    assert shard.read_bytes() == kept


def test_two_workers_make_the_same(root: Path, data: Path, refiner: Path, tmp_path: Path) -> None:
    config = recipe.config("forecast", "cases=4", "members=2", "tile=2", "frames=2")
    whole = recipe.content(stages.forecast(config, refiner, data, root, recipe.INLINE))
    local = replace(recipe.INLINE, cluster="local", workers=2)
    with local.open():
        made = stages.forecast(config, refiner, data, tmp_path, local)
    assert recipe.content(made) == whole


def test_training_is_found_again_and_continues_to_the_same_weights(root: Path, data: Path, tmp_path: Path) -> None:
    whole = trained(root, data, "forecaster=one_step")
    assert trained(root, data, "forecaster=one_step") == whole
    short = Path(shutil.copytree(whole, tmp_path / "runs" / whole.name))
    (short / "manifest.json").unlink()
    for folder in (short / "checkpoints").glob("*0006"):  # both the last step and the final one
        shutil.rmtree(folder)
    made = trained(tmp_path, data, "forecaster=one_step")
    assert made == short
    assert recipe.content(made) == recipe.content(whole)


def test_stride_is_a_label_around_zero() -> None:
    assert [stride_label(s, (1, 2, 4)) for s in (1, 2, 4)] == [-1.0, 0.0, 1.0]


def test_a_forecast_is_told_what_its_training_was(data: Path, refiner: Path) -> None:
    """The stride's label and the size of its differences, and the scalars as they were normalised."""
    model, reader = load_forecaster(refiner), SetReader(data)
    loaded = load_windows(reader, None, 3, (1, 2))
    torch.testing.assert_close(model.difference, loaded.difference, rtol=0, atol=0)
    rows = reader.split("train")
    scalars = model.scaling.of(reader, rows)
    torch.testing.assert_close(scalars, loaded.windows.conditions, rtol=0, atol=0)
    for number, stride in enumerate((1, 2)):
        told = model.conditions(scalars, stride)
        torch.testing.assert_close(told[:, :-1], scalars, rtol=0, atol=0)
        assert told[:, -1].tolist() == [number - 0.5] * len(rows)
        assert torch.equal(model.dynamics(stride).difference, loaded.difference[number])


def test_a_blow_up_is_told_by_its_first_frame(
    root: Path, data: Path, refiner: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def lost(forecaster: object, dynamics: object, history: torch.Tensor, frames: int, *_: object) -> torch.Tensor:
        made = history[:, -1:].repeat(1, frames, 1, 1)
        made[1, 2:] = math.nan  # member 1 from its third frame, member 2 in its second alone
        made[2, 1] *= 1e6
        return made

    monkeypatch.setattr(forecasting, "rollout", lost)
    config = recipe.config("forecast", "cases=1", "members=3", "tile=3", "frames=4", "seed=3")
    tree = open_store(stages.forecast(config, refiner, data, root, recipe.INLINE))
    assert tree["sample_stats"]["diverged_at"].values.tolist() == [[-1, 2, 1]]
    assert np.isnan(tree["scores"]["u_crps"].values[0]).tolist() == [False, False, True, True]
    assert tree["scores"]["u_correlation_of_mean"].values[0, 2:].tolist() == [0.0, 0.0]


def test_train_with_a_forecaster_is_another_stage() -> None:
    assert for_a_forecaster("train", ["data=x", "forecaster=one_step"]) == "train_forecaster"
    assert for_a_forecaster("train", ["data=x"]) == "train"
    with pytest.raises(ConfigErrors, match="calibration"):
        checked("train", ["forecaster=one_step", "calibration.levels=4"])


@pytest.mark.parametrize(
    ("words", "error", "line"),
    [
        (("cases=100",), DataError, "cases=100, but split 'test' has 6 samples"),
        (("frames=11",), DataError, "frames=11, but kura.* has 10 after start=0"),
        (("start=11",), DataError, "start=11 leaves no frame to forecast"),
        (("stride=3",), ConfigError, "stride=3: this forecaster was trained for 1, 2"),
    ],
)
def test_requests_that_do_not_fit(
    root: Path, data: Path, refiner: Path, words: tuple[str, ...], error: type[Exception], line: str
) -> None:
    with pytest.raises(error, match=line):
        stages.forecast(recipe.config("forecast", "cases=1", *words), refiner, data, root, recipe.INLINE)


def test_members_need_chance(root: Path, data: Path) -> None:
    model = trained(root, data, "forecaster=one_step")
    with pytest.raises(ConfigError, match="members=2: OneStep has no chance in it"):
        stages.forecast(recipe.config("forecast", "cases=1", "members=2"), model, data, root, recipe.INLINE)


def test_wrong_kinds_of_results_are_named(world: recipe.World, root: Path, data: Path, refiner: Path) -> None:
    config = recipe.config("forecast", "cases=1")
    with pytest.raises(MatchError, match="is a prior, not a forecaster"):
        load_forecaster(world.prior)
    with pytest.raises(MatchError, match="is a forecaster, not a prior"):
        load_prior(refiner)
    with pytest.raises(MatchError, match="has no field over time to forecast"):
        trained(root, world.data, "forecaster=one_step")
    with pytest.raises(MatchError, match="the forecaster knows u"):
        stages.forecast(config, refiner, world.data, root, recipe.INLINE)
    with pytest.raises(MatchError, match="fields names 'v'"):
        trained(root, data, "forecaster=one_step", "fields=[v]")
    with pytest.raises(DataError, match="12 frames; windows of 2 at stride 12 need 13"):
        trained(root, data, "forecaster=one_step", "strides=[12]")
