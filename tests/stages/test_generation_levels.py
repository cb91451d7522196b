"""Difficulty levels: their shares, what each sample is a solution of, and what the set says of itself."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any, cast

import numpy as np
import pytest
import stage_recipe as recipe

from pdediff import cli, stages
from pdediff.config import build
from pdediff.errors import ConfigError, ConfigErrors
from pdediff.pdes.accuracy import inner_step, time_error
from pdediff.runtime import Runtime
from pdediff.stages import training
from pdediff.stages.generation_config import changed
from pdediff.stages.generation_plan import PILOTS, Plan
from pdediff.store import SetReader, open_store, read_identity
from pdediff.types import Purpose, derive, derive_many

NOTHING = cast(Runtime, None)
MADE_UP = ("pde={kind: MadeUp}", "grid=8", "difficulty=[low:0.7,medium:0.2,high:0.1]")
DARCY = ("pde=darcy", "grid=8", "tile=2", "shard=4", "difficulty=[low:0.5,high:0.5]")
SPLIT = "split={train: 0.6, valid: 0.2, test: 0.2}"


def made(root: Path, *words: str) -> Path:
    return stages.generate(recipe.config("generate", *words), root, recipe.INLINE)


def opened(path: Path) -> Any:
    return open_store(path)


def test_a_sample_is_the_solution_of_its_own_level(made_up_pde: None, tmp_path: Path) -> None:
    path = made(tmp_path, *MADE_UP, "samples=40", "tile=2", "shard=10", SPLIT)
    data = opened(path)
    codes = data["difficulty"].values
    assert codes.dtype == np.int8
    assert data["difficulty"].attrs["flag_values"] == [0, 1, 2, 3, 4]
    assert data["difficulty"].attrs["flag_meanings"] == "low medium high longer wrong"
    assert np.bincount(codes).tolist() == [28, 8, 4]
    assert (codes.reshape(20, 2)[:, 0] == codes.reshape(20, 2)[:, 1]).all()  # one level a tile
    config = recipe.config("generate", *MADE_UP)
    kind = build("pde", config.pde)
    for code, level in enumerate(("low", "medium", "high")):
        pde = build("pde", changed(config.pde, kind.levels[level]))
        for index in np.flatnonzero(codes == code)[:2]:
            (alone,) = pde.solve(pde.draw([derive(0, Purpose.PROBLEM, int(index))], 8))["u"].float().numpy()
            np.testing.assert_array_equal(data["u"].values[index], alone)


def test_every_part_of_the_split_has_every_level(made_up_pde: None, tmp_path: Path) -> None:
    data = opened(made(tmp_path, *MADE_UP, "samples=60", "tile=2", "shard=20", SPLIT))
    codes, split = data["difficulty"].values, data["split"].values
    table = np.array([[((codes == c) & (split == s)).sum() for s in range(3)] for c in range(3)])
    # 42, 12 and 6 samples; blocks of the whole set would leave no "high" one to validate on
    assert table.tolist() == [[25, 9, 8], [7, 3, 2], [4, 1, 1]]
    for code in range(3):  # blocks within a level: training samples come first
        assert (np.diff(split[codes == code]) >= 0).all()


def test_what_the_set_says_of_its_levels(made_up_pde: None, tmp_path: Path) -> None:
    words = (*MADE_UP, "samples=20", "tile=1", "shard=4", "tolerance=0.02")
    path = made(tmp_path, *words)
    told = opened(path).attrs
    config = recipe.config("generate", *words)
    kind = build("pde", config.pde)
    seeds = derive_many(0, Purpose.PILOT, range(PILOTS))
    for level in ("low", "medium", "high"):
        pde = build("pde", changed(config.pde, kind.levels[level]))
        while time_error(pde, seeds, 8) > 0.02:
            pde = replace(pde, clock=pde.clock.halved())
        assert told["step"][level] == pde.clock.step
        assert told["time_error_estimate"][level] == time_error(pde, seeds, 8) <= 0.02
        assert told["method"][level]["step"] == pde.clock.step
        assert told["levels"][level]["parameters"]["rate"] == kind.levels[level]["rate"]
    assert told["step"]["low"] == 0.1
    assert told["step"]["high"] < 0.025
    assert [told["levels"][level]["tiles"] for level in ("low", "medium", "high")] == [14, 4, 2]
    assert [told["levels"][level]["share"] for level in ("low", "medium", "high")] == [0.7, 0.2, 0.1]
    assert set(told["space_tail_ratio"]["high"]) == {"u"}
    assert 0 < told["space_tail_ratio"]["high"]["u"] <= 1  # white noise
    assert (told["tile"], told["shard"], told["root_seed"]) == (1, 4, 0)
    json.dumps(told)


def test_a_set_without_levels_says_the_same_in_numbers(tmp_path: Path) -> None:
    words = ("pde=burgers1d", "pde.clock.frames=3", "samples=8", "grid=32", "tile=2")
    data = opened(made(tmp_path, *words))
    assert data["difficulty"].values.tolist() == [0] * 8
    assert data["difficulty"].attrs["flag_meanings"] == "config"
    pde = build("pde", recipe.config("generate", *words).pde)
    expected = time_error(pde, derive_many(0, Purpose.PILOT, range(PILOTS)), 32)
    assert data.attrs["time_error_estimate"] == expected > 0
    assert data.attrs["step"] == inner_step(pde, 32) == data.attrs["method"]["step"]
    assert set(data.attrs["space_tail_ratio"]) == {"u"}
    assert "levels" not in data.attrs
    steady = opened(made(tmp_path, "pde=darcy", "samples=4", "grid=8", "tile=2")).attrs
    assert not {"time_error_estimate", "step"} & set(steady)
    assert 0 < steady["space_tail_ratio"]["pressure"] < 0.1


def test_the_tolerance_decides_the_step_and_the_data(made_up_pde: None, tmp_path: Path) -> None:
    coarse = opened(made(tmp_path, "pde={kind: MadeUp}", "samples=4", "grid=8"))
    fine = opened(made(tmp_path, "pde={kind: MadeUp}", "samples=4", "grid=8", "tolerance=1e-3"))
    assert fine.attrs["time_error_estimate"] <= 1e-3 < coarse.attrs["time_error_estimate"]
    exact = coarse["initial"].values * np.exp(-0.5)
    errors = [np.abs(data["u"].values[:, 1] - exact).max() for data in (coarse, fine)]
    assert 0 < errors[1] < 0.1 * errors[0]
    with pytest.raises(ConfigError, match=r"tolerance=1e-09 is not reached: made_up has error \S+ at step"):
        made(tmp_path / "none", "pde={kind: MadeUp}", "samples=4", "grid=8", "tolerance=1e-9")
    with pytest.raises(ConfigError, match=r"level high: tolerance=1e-09 is not reached"):
        made(tmp_path / "none", *MADE_UP, "difficulty={high: 1}", "samples=4", "tolerance=1e-9")
    assert not (tmp_path / "none").exists()


def test_one_set_has_one_name(made_up_pde: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Order and form of the shares, and numbers that were left open, do not count; values do."""
    monkeypatch.setattr("pdediff.stages.generation.is_complete", lambda path: True)

    def name(*words: str) -> str:
        return stages.generate(recipe.config("generate", *words), tmp_path, NOTHING).name

    base = name("pde={kind: MadeUp}", "samples=256", "difficulty=[low:0.75,high:0.25]")
    assert name("pde={kind: MadeUp}", "samples=256", "difficulty={high: 0.25, low: 0.75}") == base
    assert name("pde={kind: MadeUp}", "samples=256", "difficulty=[low:0.75,high:0.25]", "tile=16", "shard=16") == base
    others = [
        name("pde={kind: MadeUp}", "samples=256"),
        name("pde={kind: MadeUp}", "samples=256", "difficulty=[low:0.5,high:0.5]"),
        name("pde={kind: MadeUp}", "samples=256", "difficulty=[low:0.75,medium:0.25]"),
        name("pde={kind: MadeUp}", "samples=256", "difficulty=[low:0.75,high:0.25]", "tolerance=0.1"),
        name("pde={kind: MadeUp}", "budget=2h", "difficulty=[low:0.75,high:0.25]"),
        name("pde={kind: MadeUp}", "budget=7201", "difficulty=[low:0.75,high:0.25]"),
    ]
    assert len({base, *others}) == 7
    hours = {name("pde={kind: MadeUp}", f"budget={text}") for text in ("2h", "120min", "7200s", "7200", "'7200.0 s'")}
    assert len(hours) == 1


WRONG = [
    ("difficulty=[low:0.7,hgh:0.3]", "difficulty: level 'hgh' is not one of low, medium, high, longer, wrong (MadeUp)"),
    ("difficulty=[low:0.7,high:0.2]", "difficulty: the shares low:0.7, high:0.2 add up to 0.9, not to 1"),
    ("difficulty=[low:1.1,high:-0.1]", "difficulty.low=1.1 is not a share between 0 and 1"),
    ("difficulty=[low:1,high:0]", "difficulty.high=0.0 is not a share between 0 and 1"),
    ("difficulty=[low:0.5,low:0.5]", "difficulty: low:0.5, low:0.5 names a level twice"),
    ("difficulty=[low]", "difficulty: 'low' is not LEVEL:SHARE"),
    ("difficulty=[low:much]", "difficulty: 'low:much' is not LEVEL:SHARE"),
    ("difficulty=low", "difficulty: 'low' is not a list of LEVEL:SHARE"),
    ("difficulty={low: true}", "difficulty.low=True is not a share"),
    ("difficulty={low: text}", "difficulty.low='text' is not a share"),
    ("difficulty=[wrong:1]", "difficulty.wrong.rate='fast' is not a number"),
    ("budget=2x", "budget='2x' is not a time such as 90s, 30min or 2h"),
    ("budget=-5", "budget=-5 is not a time"),
    ("budget=0s", "budget='0s' is not a time"),
    ("budget=true", "budget=True is not a time"),
    ("budget=inf", "budget=inf is not a time"),
    ("budget=2h samples=10", "samples=10 and budget=7200 s: with a budget their number follows from it"),
    ("tolerance=0", "tolerance=0 must be greater than 0"),
    ("tile=3 shard=4", "shard=4 must be a multiple of tile=3"),
]


@pytest.mark.parametrize(("words", "line"), WRONG)
def test_what_cannot_be_meant_is_refused(
    words: str, line: str, made_up_pde: None, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    argv = ["generate", "pde={kind: MadeUp}", *words.replace(": ", ":").split(), "--data-root", str(tmp_path / "x")]
    assert cli.run(argv) == 2
    lines = capsys.readouterr().err.splitlines()
    assert lines[0].startswith(f"error[config]: {line}")
    assert max(map(len, lines)) <= 160
    assert len(lines) <= 2
    assert not (tmp_path / "x").exists()


def test_equations_without_levels_or_steps_say_so(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(ConfigErrors, match=r"difficulty: level 'low' is unknown: there are none \(Poisson\)"):
        recipe.config("generate", "pde=poisson2d", "difficulty=[low:1]")
    with pytest.raises(ConfigErrors, match=r"tolerance=0\.1 has no meaning for Darcy: it is steady"):
        recipe.config("generate", "pde=darcy", "tolerance=0.1")


def test_levels_must_fit_one_set(made_up_pde: None, tmp_path: Path) -> None:
    words = ("pde={kind: MadeUp}", "samples=4", "grid=8")
    with pytest.raises(ConfigError, match="difficulty: level longer has other time than the equation itself"):
        made(tmp_path, *words, "difficulty=[low:0.5,longer:0.5]")
    with pytest.raises(ConfigError, match="samples=4 are 2 tiles of 2, fewer than the levels: low, medium, high"):
        made(tmp_path, *words, *MADE_UP[2:], "tile=2")
    assert not any(tmp_path.iterdir())


def test_other_stages_take_the_level_for_no_field(tmp_path: Path) -> None:
    words = (*DARCY, "samples=24", SPLIT)
    data = made(tmp_path, *words)
    reader = SetReader(data)
    assert reader.array("difficulty").tolist() == opened(data)["difficulty"].values.tolist()
    run = stages.train(recipe.config("train", *recipe.TRAIN, "fit.steps=2"), data, tmp_path, recipe.INLINE)
    recon = ("posterior=kriging", "cases=2", "draws=4", "tile=4")
    sensors = "observations={sensors: {pressure: 4}}"
    path = stages.reconstruct(recipe.config("reconstruct", *recon, sensors), run, data, tmp_path, recipe.INLINE)
    assert open_store(path).attrs["fields"] == ["permeability", "pressure"]
    report = stages.evaluate(recipe.config("evaluate"), [path], tmp_path, recipe.INLINE)
    scores = (report / "scores.json").read_text()
    assert '"misfit"' in scores
    assert '"residual"' not in scores  # which level's equation a case belongs to, it does not say


def test_a_prior_knows_the_equation_of_its_data(tmp_path: Path) -> None:
    """Of one level: its arguments and the step that was chosen; of several: those of the config, and their names."""
    config = recipe.config("train", *recipe.TRAIN)

    def meta(*words: str) -> dict[str, Any]:
        reader = SetReader(made(tmp_path, "samples=16", SPLIT, *words))
        return training.load_data(reader, training.fields_of(config, reader), config).meta

    darcy = ("pde=darcy", "grid=8", "tile=2", "shard=4")
    one = meta(*darcy, "difficulty=[high:1]")
    assert (one["pde"]["high"], one["levels"]) == (300.0, ["high"])
    several = meta(*DARCY)
    assert (several["pde"]["high"], sorted(several["levels"])) == (12.0, ["high", "low"])
    stepped = meta("pde=burgers1d", "pde.clock.frames=3", "pde.clock.step=0.01", "grid=32", "tolerance=1e-7")
    assert stepped["pde"]["clock"]["step"] < 0.01
    assert stepped["levels"] == []


@pytest.mark.slow
def test_two_workers_make_the_levels_that_one_makes(tmp_path: Path) -> None:
    alone = made(tmp_path / "alone", *DARCY, "samples=40")
    chosen = recipe.config("generate", *DARCY, "samples=40")
    both = stages.generate(chosen, tmp_path / "both", Runtime(cluster="local", workers=2))
    assert both.name == alone.name
    assert recipe.content(both) == recipe.content(alone)
    plans = [Plan.of(read_identity(path)) for path in (both, alone)]
    assert plans[0].levels == plans[1].levels
    levels = opened(both)["difficulty"].values
    assert np.bincount(levels).tolist() == [20, 0, 20]
    high = opened(both)["permeability"].values[levels == 2]
    assert set(np.unique(high)) == {3.0, 300.0}
