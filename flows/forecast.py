"""Flow: an ensemble forecast."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from prefect import flow

from pdediff import stages
from pdediff.config import validate
from pdediff.flows.stage import Outcome, configure, perform, stage_task
from pdediff.locate import locate
from pdediff.stages.configs import ForecastConfig


@stage_task("forecast")
def forecast_task(config: dict[str, Any], model: str, data: str, data_root: str, compute: dict[str, Any]) -> Outcome:
    """One task for all cases; Dask spreads them."""
    checked = validate(ForecastConfig, config)

    def work(runtime: Any) -> Path:
        return stages.forecast(checked, Path(model), Path(data), Path(data_root), runtime)

    return perform("forecast", work, compute)


@flow(name="forecast")
def forecast(model: str, data: str, overrides: list[str] | None = None, data_root: str = "data") -> Outcome:
    """Forecast cases of the data set called `data` with the forecaster called `model`."""
    config, compute = configure("forecast", ForecastConfig, overrides or [])
    root = Path(data_root)
    return forecast_task(config, str(locate(root, "model", model)), str(locate(root, "data", data)), data_root, compute)
