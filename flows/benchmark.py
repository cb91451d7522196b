"""Flow: a benchmark suite."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from prefect import flow

from pdediff import stages
from pdediff.config import validate
from pdediff.flows import artifacts
from pdediff.flows.stage import Outcome, configure, perform, stage_task
from pdediff.stages.configs import BenchmarkConfig


@stage_task("benchmark")
def benchmark_task(config: dict[str, Any], data_root: str, compute: dict[str, Any]) -> Outcome:
    """One task for the whole suite; shows its table as an artifact."""
    checked = validate(BenchmarkConfig, config)
    outcome = perform("benchmark", lambda runtime: stages.benchmark(checked, Path(data_root), runtime), compute)
    artifacts.benchmark(Path(outcome["path"]))
    return outcome


@flow(name="benchmark")
def benchmark(overrides: list[str] | None = None, data_root: str = "data") -> Outcome:
    """Measure the suite that `overrides` describe, e.g. `["suite=pdes", "peers=[]", "repeats=3"]`."""
    config, compute = configure("benchmark", BenchmarkConfig, overrides or [])
    return benchmark_task(config, data_root, compute)
