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

set_environment()


def launch(
    flow: Literal["generate", "train", "sample", "reconstruct", "evaluate", "pipeline"],
    data_root: Path,
    parameters: Mapping[str, Any],
) -> dict[str, Any]:
    """Run a flow from a program: Prefect's home lies in `data_root`, and one private server serves the run.

    Where PREFECT_API_URL names a server, that one is used. Errors of the stage arrive as they were raised.
    """
    set_environment(data_root)
    os.environ.setdefault("PREFECT_LOGGING_LEVEL", "CRITICAL")  # the caller shows errors, without tracebacks
    Path(os.environ["PREFECT_HOME"]).mkdir(parents=True, exist_ok=True)  # Prefect makes only the last folder of it
    server = import_module("pdediff.flows.server")
    run = getattr(import_module(f"pdediff.flows.{flow}"), flow)
    with server.local_server():
        return run(**{**parameters, "data_root": str(data_root)})
