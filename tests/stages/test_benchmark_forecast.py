"""Suite `forecast`: a tiny run of each row, its calibration, its refusals."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from pdediff.config import build
from pdediff.errors import ConfigError
from pdediff.flows import compose
from pdediff.runtime import Runtime
from pdediff.stages.benchmarks import Forecasts
from pdediff.stages.benchmarks.base import Measurement
from pdediff.stages.benchmarks.forecast_ks import COLUMNS, TOP, averaged
from pdediff.stages.benchmarks.forecast_ks_setting import KSEnsemble, KSFit, KSSetting

SMALL = KSSetting(length=22.0, grid=32, step=0.2, train=4, frames=6, test=2, rollout=5)


def suite() -> Forecasts:
    return build("suite", compose.node("suite", "forecast"))


@pytest.mark.slow
def test_every_row_is_trained_and_scored(tmp_path: Path) -> None:
    whole = suite()
    rows = {row: whole.ks.rows[row] for row in ("mse", "refiner_1")}
    fit, ensemble = KSFit(0.2, (0,), batch=4), KSEnsemble(cases=2, members=3, lead=2)
    ks = replace(whole.ks, rows=rows, setting=SMALL, fit=fit, ensemble=ensemble, steps=(0.4,))
    small = replace(whole, parts=("ks",), ks=ks, goals={"ks_refiner_1_top": 5.0})
    with Measurement((), 1, 0.001, False, tmp_path, Runtime("inline")) as measurement:
        table, bars = small.measure(measurement)
    found = {row.what: row.values for row in table.rows}
    assert list(found) == ["solver, step 0.4", "mse", "refiner_1"]
    for row in found.values():
        assert tuple(row) == COLUMNS
        assert isinstance(row["one step"], float)
        assert 0 < row["one step"] < 10
    assert found["solver, step 0.4"]["one step"] < 1e-2 < found["mse"]["one step"]  # type: ignore[operator]
    assert found["mse"]["spread-skill"] is None
    assert found["refiner_1"]["spread-skill"] > 0  # type: ignore[operator]
    assert (found["mse"]["calls"], found["refiner_1"]["calls"]) == (1.0, 2.0)
    (bar,) = bars.rows
    assert bar.goal is not None
    assert bar.goal.reached == pytest.approx(found["mse"][TOP] / found["refiner_1"][TOP])  # type: ignore[operator]


def test_means_over_seeds_and_what_they_stand_for() -> None:
    table = np.array([1e-1, 1e-2, 1e-3]), np.array([10.0, 20.0, 30.0])
    found = averaged([{"HCT 0.8": 14.0, "one step": 0.1}, {"HCT 0.8": 16.0, "one step": 0.3}], table)
    assert found["HCT 0.8"] == 15.0
    assert found["+-"] == 1.0
    assert found["one step"] == pytest.approx(0.2)
    assert found["as initial error"] == pytest.approx(10**-1.5)
    assert found["CRPS"] is None


def test_wrong_names_are_told() -> None:
    whole = suite()
    wrong = replace(whole.ks, rows={"mse": {"forecaster": "one_stp", "network": "fno"}})
    with pytest.raises(ConfigError, match=r"ks\.rows\.mse: forecaster 'one_stp' is not in forecasters"):
        replace(whole, ks=wrong)
    with pytest.raises(ConfigError, match="goals has no option 'ks_mse_hat'"):
        replace(whole, goals={"ks_mse_hat": 1.0})
