"""What all flows share: configs from overrides, the runtime of a stage, and the Prefect task around it."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from prefect import Task, task
from prefect.client.schemas.objects import State, TaskRun
from pydantic import BaseModel

from pdediff.config import validate
from pdediff.errors import ResourceError
from pdediff.flows import PROGRESS, artifacts
from pdediff.flows.compose import compose
from pdediff.progress import choose
from pdediff.runtime import Runtime, Slurm
from pdediff.stages.configs import ComputeConfig
from pdediff.store import read_manifest

RETRY_DELAY = 10.0
"""Seconds before the one retry: a lost scheduler or a full disk needs a moment."""

Outcome = dict[str, Any]


def configure(command: str, model: type[BaseModel], overrides: Sequence[str]) -> tuple[Outcome, Outcome]:
    """The validated config of `command` and where to run it, as plain data. Raises ConfigErrors with all problems."""
    values = compose(command, overrides)
    compute = values.pop("compute")
    config = validate(model, values)
    return config.model_dump(mode="json"), validate(ComputeConfig, compute, "compute").model_dump(mode="json")


def runtime_of(compute: Mapping[str, Any]) -> Runtime:
    """The runtime of a stage, whose progress is seen in the log and in the UI. Raises ConfigError."""
    checked = ComputeConfig.model_validate(compute)
    slurm = checked.slurm.model_dump()
    shown = os.environ.get(PROGRESS)
    return Runtime(
        cluster=checked.cluster,
        workers=checked.workers,
        address=checked.address,
        device=checked.device,
        threads=checked.threads,
        memory=checked.memory,
        slurm=Slurm(**{**slurm, "prologue": tuple(slurm["prologue"])}),
        progress=artifacts.ArtifactProgress(choose(as_json=shown == "json", quiet=shown == "quiet")),
    )


def transient(task: Task[..., Any], run: TaskRun, state: State[Any]) -> bool:
    """Whether a failed stage is worth one more try: resources may come back, wrong input does not."""
    error = state.result(raise_on_failure=False)
    return isinstance(error, ResourceError)


def stage_task(name: str) -> Callable[[Callable[..., Outcome]], Task[..., Outcome]]:
    """The Prefect task of one stage: its JSON result is kept, a lack of resources is retried once.

    No cache (each task run has a key of its own): the receipts in the store say what is done, and a stage that is
    done returns at once.
    """
    return task(
        name=name,
        persist_result=True,
        result_serializer="json",
        result_storage_key="{task_run.id}.json",
        retries=1,
        retry_delay_seconds=RETRY_DELAY,
        retry_condition_fn=transient,
    )


def perform(stage: str, work: Callable[[Runtime], Path], compute: Mapping[str, Any]) -> Outcome:
    """Run one stage and describe its result: stage, path, identity, content hash, seconds."""
    begun = time.monotonic()
    path = work(runtime_of(compute)).resolve()
    outcome = {
        "stage": stage,
        "path": str(path),
        "identity": path.name.rpartition("-")[2],
        "content": (read_manifest(path) or {}).get("content"),
        "seconds": round(time.monotonic() - begun, 1),
    }
    artifacts.provenance(outcome)
    return outcome
