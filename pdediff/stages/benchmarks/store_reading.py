"""Workloads that read a stored array: by xarray, as checked torch batches, and the same numbers by numpy."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np


def prepare(settings: Mapping[str, Any]) -> Callable[[], Any]:
    """The workload `what`: "xarray", "batches", "numpy" or "hashed"; each run opens the file or store anew."""
    import torch

    torch.set_num_threads(1)
    return {"xarray": _xarray, "batches": _batches, "numpy": _numpy, "hashed": _hashed}[settings["what"]](settings)


def _xarray(settings: Mapping[str, Any]) -> Callable[[], np.ndarray]:
    from pdediff.store import open_store

    return lambda: np.asarray(open_store(settings["store"])[settings["array"]].values)


def _batches(settings: Mapping[str, Any]) -> Callable[[], int]:
    from pdediff.store import SetReader

    def run() -> int:
        reader = SetReader(settings["store"])
        rows, size = range(len(reader)), settings["batch"]
        return sum(len(reader.fields([settings["array"]], rows[i : i + size])) for i in rows[::size])

    return run


def _numpy(settings: Mapping[str, Any]) -> Callable[[], np.ndarray]:
    return lambda: np.load(settings["file"])


def _hashed(settings: Mapping[str, Any]) -> Callable[[], list[str]]:
    return lambda: [hashlib.sha256(row).hexdigest() for row in np.load(settings["file"])]
