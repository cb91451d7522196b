"""Flow: a sampler's levels and weights fitted to a prior."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from prefect import flow

from pdediff import stages
from pdediff.config import validate
from pdediff.flows.stage import Outcome, configure, perform, stage_task
from pdediff.locate import locate
from pdediff.stages.configs import TuneConfig


@stage_task("tune")
def tune_task(config: dict[str, Any], prior: str, data_root: str, compute: dict[str, Any]) -> Outcome:
    """One task: the search is a sequence of small batches."""
    checked = validate(TuneConfig, config)
    return perform("tune", lambda runtime: stages.tune(checked, Path(prior), Path(data_root), runtime), compute)


@flow(name="tune")
def tune(prior: str, overrides: list[str] | None = None, data_root: str = "data") -> Outcome:
    """Fit a plan to the prior called `prior`."""
    config, compute = configure("tune", TuneConfig, overrides or [])
    return tune_task(config, str(locate(Path(data_root), "prior", prior)), data_root, compute)
