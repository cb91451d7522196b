"""Environment defaults of the programs we start; light, because it has to run before prefect is imported."""

from __future__ import annotations

import os
from pathlib import Path

THREAD_VARIABLES = ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS")
"""Numeric libraries read these when they are loaded; their results depend on the number of threads."""

DEFAULTS = dict.fromkeys(THREAD_VARIABLES, "1") | {
    "DO_NOT_TRACK": "1",
    "WANDB_MODE": "disabled",
    "PREFECT_SERVER_ANALYTICS_ENABLED": "false",
    "PREFECT_CLOUD_ENABLE_ORCHESTRATION_TELEMETRY": "false",
    "PREFECT_TELEMETRY_ENABLE_RESOURCE_METRICS": "false",
    "PREFECT_SERVER_EPHEMERAL_STARTUP_TIMEOUT_SECONDS": "180",  # the first start on a busy machine takes over 20 s
    "PREFECT_CLIENT_MAX_RETRIES": "15",
    "PREFECT_RESULTS_DEFAULT_SERIALIZER": "json",
}


def set_environment(data_root: Path | None = None) -> None:
    """One numeric thread, no telemetry, Prefect's home inside `data_root`; what the user has set stays."""
    for name, value in DEFAULTS.items():
        os.environ.setdefault(name, value)
    if data_root is not None:
        os.environ.setdefault("PREFECT_HOME", str(data_root.resolve() / ".prefect"))
