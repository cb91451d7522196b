"""Flow: posterior draws of fields from observations."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from prefect import flow

from pdediff import stages
from pdediff.config import validate
from pdediff.flows.stage import Outcome, configure, perform, stage_task
from pdediff.locate import locate
from pdediff.stages.configs import ReconstructConfig


@stage_task("reconstruct")
def reconstruct_task(
    config: dict[str, Any], prior: str | None, data: str | None, data_root: str, compute: dict[str, Any]
) -> Outcome:
    """One task for one posterior over all cases; Dask spreads the cases."""
    checked = validate(ReconstructConfig, config)
    run, truth = (None if path is None else Path(path) for path in (prior, data))
    return perform(
        "reconstruct", lambda runtime: stages.reconstruct(checked, run, truth, Path(data_root), runtime), compute
    )


@flow(name="reconstruct")
def reconstruct(
    prior: str | None = None,
    data: str | None = None,
    overrides: list[str] | None = None,
    data_root: str = "data",
) -> Outcome:
    """Posterior draws with the prior called `prior`, of held-out cases of `data` or of the user's own observations.

    Without a prior for `problem=NAME` among the overrides, which has its own.
    """
    config, compute = configure("reconstruct", ReconstructConfig, overrides or [])
    root = Path(data_root)
    run = None if prior is None else str(locate(root, "prior", prior))
    truth = None if data is None else str(locate(root, "data", data))
    return reconstruct_task(config, run, truth, data_root, compute)
