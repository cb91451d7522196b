"""Flow: solver data into a store."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from prefect import flow

from pdediff import stages
from pdediff.config import validate
from pdediff.flows.stage import Outcome, configure, perform, stage_task
from pdediff.stages.configs import GenerateConfig


@stage_task("generate")
def generate_task(config: dict[str, Any], data_root: str, compute: dict[str, Any]) -> Outcome:
    """One task for the whole data set; Dask spreads its shards."""
    checked = validate(GenerateConfig, config)
    return perform("generate", lambda runtime: stages.generate(checked, Path(data_root), runtime), compute)


@flow(name="generate")
def generate(overrides: list[str] | None = None, data_root: str = "data") -> Outcome:
    """Make the data set that `overrides` describe, e.g. `["pde=darcy", "samples=2048", "compute.workers=4"]`."""
    config, compute = configure("generate", GenerateConfig, overrides or [])
    return generate_task(config, data_root, compute)
