"""Flow: draws of a prior."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from prefect import flow

from pdediff import stages
from pdediff.config import validate
from pdediff.flows.stage import Outcome, configure, perform, stage_task
from pdediff.locate import locate
from pdediff.stages.configs import SampleConfig


@stage_task("sample")
def sample_task(
    config: dict[str, Any], prior: str, data_root: str, compute: dict[str, Any], plan: str | None = None
) -> Outcome:
    """One task for all draws; Dask spreads the tiles."""
    checked = validate(SampleConfig, config)
    tuned = {"plan": Path(plan)} if plan else {}
    return perform(
        "sample", lambda runtime: stages.sample(checked, Path(prior), Path(data_root), runtime, **tuned), compute
    )


@flow(name="sample")
def sample(prior: str, overrides: list[str] | None = None, data_root: str = "data", plan: str | None = None) -> Outcome:
    """Draw from the prior called `prior`, with the tuned `plan` if one is named."""
    config, compute = configure("sample", SampleConfig, overrides or [])
    tuned = str(locate(Path(data_root), "plan", plan)) if plan else None
    return sample_task(config, str(locate(Path(data_root), "prior", prior)), data_root, compute, tuned)
