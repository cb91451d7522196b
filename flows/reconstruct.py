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
    config: dict[str, Any], prior: str, data: str | None, data_root: str, compute: dict[str, Any]
) -> Outcome:
    """One task for one posterior over all cases; Dask spreads the cases."""
    checked = validate(ReconstructConfig, config)
    truth = None if data is None else Path(data)
    return perform(
        "reconstruct",
        lambda runtime: stages.reconstruct(checked, Path(prior), truth, Path(data_root), runtime),
        compute,
    )


@flow(name="reconstruct")
def reconstruct(
    prior: str, data: str | None = None, overrides: list[str] | None = None, data_root: str = "data"
) -> Outcome:
    """Posterior draws with the prior called `prior`, of held-out cases of `data` or of the user's own observations."""
    config, compute = configure("reconstruct", ReconstructConfig, overrides or [])
    root = Path(data_root)
    truth = None if data is None else str(locate(root, "data", data))
    return reconstruct_task(config, str(locate(root, "prior", prior)), truth, data_root, compute)
