"""Parts `darcy` and `wos` of the suite `forecast`: a tiny run of each, and their goals."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from pdediff.config import build
from pdediff.errors import ConfigError
from pdediff.flows import compose
from pdediff.runtime import Runtime
from pdediff.stages.benchmarks import Forecasts
from pdediff.stages.benchmarks.base import Measurement, Section
from pdediff.stages.benchmarks.forecast_steady import DarcyRun, SteadyFit, SteadyRuns, SteadySet, WosRun

SET = SteadySet(12, train=16, test=4)
FIT = SteadyFit(batch=4, threads=1)


def tiny(parts: tuple[str, ...]) -> Forecasts:
    whole = build("suite", compose.node("suite", "forecast"))
    networks = {name: node | {"width": 8, "modes": 6} for name, node in whole.networks.items() if "fno_" in name}
    darcy = DarcyRun(setting=SET, fit=FIT, seconds=0.5)
    wos = WosRun(setting=SET, fit=FIT, updates=8)
    goals = {"darcy_error": 0.015, "wos_ratio": 1e3}
    return replace(whole, networks=whole.networks | networks, parts=parts, steady=SteadyRuns(darcy, wos), goals=goals)


def measured(suite: Forecasts, root: Path) -> list[Section]:
    with Measurement((), 1, 0.001, False, root, Runtime("inline")) as measurement:
        return list(suite.measure(measurement))


def test_the_map_of_darcy_flow_is_trained_for_its_time_and_scored(tmp_path: Path) -> None:
    (section,) = measured(tiny(("darcy",)), tmp_path)
    (row,) = section.rows
    assert row.what == "fno_darcy"
    error, updates = row.values["relative L2"], row.values["updates"]
    assert isinstance(error, float)
    assert isinstance(updates, float)
    assert 0.015 < error < 2.0
    assert updates >= 2
    assert row.goal is not None
    assert (row.goal.name, row.goal.reached, row.goal.side, row.goal.met) == ("darcy_error", error, "at most", False)


def test_maps_with_and_without_a_solver_are_compared(tmp_path: Path) -> None:
    (section,) = measured(tiny(("wos",)), tmp_path)
    supervised, free = section.rows
    assert (supervised.what, free.what) == ("steady_map", "walk_on_spheres")
    assert supervised.goal is None
    assert supervised.values["updates"] == free.values["updates"] == 8.0
    assert free.goal is not None
    ratio = free.values["relative L2"] / supervised.values["relative L2"]  # type: ignore[operator]
    assert free.goal.reached == pytest.approx(ratio)
    assert free.values["over supervised"] == pytest.approx(ratio)
    assert (free.goal.side, free.goal.met) == ("at most", True)


def test_nothing_is_measured_that_is_not_asked_for(tmp_path: Path) -> None:
    assert measured(tiny(()), tmp_path) == []


def test_unknown_names_are_told() -> None:
    with pytest.raises(ConfigError, match=r"steady\.wos\.network 'fno_poison' is not there"):
        replace(tiny(()), steady=SteadyRuns(wos=WosRun(network="fno_poison")))
    with pytest.raises(ConfigError, match="goals has no option 'darcy_eror'"):
        replace(tiny(()), goals={"darcy_eror": 1.0})
