"""Prefect flows of pdediff: thin, one file per job; every flow returns JSON (paths and hashes).

Importing this package sets the environment defaults of Prefect and no more; flows are imported when asked for.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from importlib import import_module
from pathlib import Path
from typing import Any, Literal

from pdediff.environment import set_environment

__all__ = ["launch"]

PROGRESS = "PDEDIFF_PROGRESS"
"""Environment variable that says how stages show their progress: `json` or `quiet`; a worker's shell may set it too."""

set_environment()


def launch(
    flow: Literal[
        "benchmark",
        "evaluate",
        "forecast",
        "generate",
        "pipeline",
        "reconstruct",
        "sample",
        "train",
        "train_forecaster",
        "tune",
    ],
    data_root: Path,
    parameters: Mapping[str, Any],
    progress: Literal["json", "quiet"] | None = None,
) -> dict[str, Any]:
    """Run a flow from a program: Prefect's home lies in `data_root`, and one private server serves the run.

    `progress` of the stages: JSON events on stdout, nothing, or what suits the terminal; it is handed on as `PROGRESS`.
    Where PREFECT_API_URL names a server, that one is used. Errors of the stage arrive as they were raised.
    """
    set_environment(data_root)
    os.environ.setdefault("PREFECT_LOGGING_LEVEL", "CRITICAL")  # the caller shows errors, without tracebacks
    Path(os.environ["PREFECT_HOME"]).mkdir(parents=True, exist_ok=True)  # Prefect makes only the last folder of it
    server = import_module("pdediff.flows.server")
    run = getattr(import_module(f"pdediff.flows.{flow}"), flow)
    before = os.environ.get(PROGRESS, "")
    os.environ[PROGRESS] = progress or before
    try:
        with server.local_server():
            return run(**{**parameters, "data_root": str(data_root)})
    finally:
        os.environ[PROGRESS] = before
