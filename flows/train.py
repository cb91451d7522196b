"""Flow: a diffusion prior from a data set."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from prefect import flow

from pdediff import stages
from pdediff.config import validate
from pdediff.flows.stage import Outcome, configure, perform, stage_task
from pdediff.locate import locate
from pdediff.stages.configs import TrainConfig


@stage_task("train")
def train_task(config: dict[str, Any], data: str, data_root: str, compute: dict[str, Any]) -> Outcome:
    """One task for the whole training; its checkpoints let it go on after a death."""
    checked = validate(TrainConfig, config)
    return perform("train", lambda runtime: stages.train(checked, Path(data), Path(data_root), runtime), compute)


@flow(name="train")
def train(data: str, overrides: list[str] | None = None, data_root: str = "data") -> Outcome:
    """Train a prior on the data set called `data` (its folder, or its name where that is unique)."""
    config, compute = configure("train", TrainConfig, overrides or [])
    return train_task(config, str(locate(Path(data_root), "data", data)), data_root, compute)
