"""Every test runs with one thread, fixed seeds, no telemetry, no network, and leaves global state as it found it."""

from __future__ import annotations

import os
import random
import shutil
import socket
import tempfile
from collections.abc import Iterator
from typing import Any

# Before torch, dask and prefect are imported: they read these once.
_HOME = tempfile.mkdtemp(prefix="pdediff-tests-")
os.environ.update(
    {
        "OMP_NUM_THREADS": "1",
        "MKL_NUM_THREADS": "1",
        "OPENBLAS_NUM_THREADS": "1",
        "DO_NOT_TRACK": "1",
        "WANDB_MODE": "disabled",
        "MPLBACKEND": "Agg",
        "NO_COLOR": "1",
        "COLUMNS": "120",
        "PREFECT_HOME": f"{_HOME}/prefect",
        "PREFECT_LOGGING_LEVEL": "WARNING",
        "PREFECT_SERVER_ANALYTICS_ENABLED": "false",
        "PREFECT_SERVER_EPHEMERAL_STARTUP_TIMEOUT_SECONDS": "180",
        # Processes that tests start find no way out either.
        "HTTP_PROXY": "http://127.0.0.1:9",
        "HTTPS_PROXY": "http://127.0.0.1:9",
        "NO_PROXY": "127.0.0.1,localhost,::1",
    }
)

import numpy as np
import pytest
import torch
from hypothesis import settings

settings.register_profile("repository", deadline=None, derandomize=True, database=None, max_examples=50)
settings.load_profile("repository")
torch.set_num_threads(1)


def pytest_unconfigure() -> None:
    """Remove Prefect's home."""
    shutil.rmtree(_HOME, ignore_errors=True)


@pytest.fixture(autouse=True)
def seeds() -> None:
    """Global generators start each test from the same state, for the code of others; ours takes seeds as arguments."""
    random.seed(0)
    np.random.seed(0)
    torch.manual_seed(0)


@pytest.fixture(autouse=True)
def unchanged_state() -> Iterator[None]:
    """A test that changes what others see fails."""
    before = _state()
    yield
    after = _state()
    torch.set_num_threads(1)
    torch.set_default_dtype(torch.float32)
    os.chdir(before["folder"])
    assert after == before


def _state() -> dict[str, Any]:
    return {
        "threads": torch.get_num_threads(),
        "dtype": torch.get_default_dtype(),
        "gradients": torch.is_grad_enabled(),
        "deterministic": torch.are_deterministic_algorithms_enabled(),
        "folder": os.getcwd(),
    }


@pytest.fixture(autouse=True, scope="session")
def no_network() -> Iterator[None]:
    """Connections leave this machine under no test."""
    connect = socket.socket.connect

    def local_only(self: socket.socket, address: Any) -> None:
        internet = self.family in (socket.AF_INET, socket.AF_INET6) and self.type & socket.SOCK_STREAM
        if internet and address[0] not in ("127.0.0.1", "localhost", "::1"):
            raise RuntimeError(f"a test wanted to connect to {address}")
        connect(self, address)

    socket.socket.connect = local_only  # type: ignore[method-assign]
    yield
    socket.socket.connect = connect  # type: ignore[method-assign]
