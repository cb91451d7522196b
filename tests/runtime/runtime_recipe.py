"""What the tests of the runtime send to workers, and how they collect it."""

from __future__ import annotations

import os
import resource
import signal
import sys
import time
from collections import Counter
from pathlib import Path

import cloudpickle
import torch

from pdediff.errors import DataError
from pdediff.runtime import Runtime
from pdediff.types import Purpose, derive, normal

# The workers cannot import test modules in every import mode of pytest.
cloudpickle.register_pickle_by_value(sys.modules[__name__])


def transform(item: int) -> tuple[int, bytes]:
    """Something whose bits would change with threads or order: a matrix product of keyed noise."""
    x = normal((derive(3, Purpose.PROBLEM, item),), (96, 96))[0]
    return torch.get_num_threads(), (torch.linalg.matrix_exp(x / 10) @ x).numpy().tobytes()


def logged(folder: Path, item: int, deadly: tuple[int, ...] = (), once: bool = False) -> int:
    """Leave a trace of each execution; die if told so (always, or the first time only)."""
    traces = len(list(folder.glob(f"{item}-*")))
    (folder / f"{item}-{os.getpid()}-{time.time_ns()}").touch()
    if item in deadly and not (once and traces):
        os.kill(os.getpid(), signal.SIGKILL)
    time.sleep(0.1)
    return item * item


def refuse(item: int) -> int:
    """An error of ours, of Python, or a result."""
    if item == 3:
        raise DataError("item 3 is bad", hint="look at it", context={"item": item})
    if item == 4:
        raise ZeroDivisionError("item 4")
    return item


def environment(item: str) -> str | None:
    """What a worker sees."""
    return os.environ.get(item)


def page_faults(size: int) -> int:
    """Pages that the system maps anew for 100 temporary arrays of `size` bytes."""
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    for _ in range(100):
        torch.ones(size, dtype=torch.uint8)
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before


def collect(runtime: Runtime, function: object, items: list) -> tuple[dict, list]:
    results: dict = {}

    def keep(item: object, result: object) -> None:
        assert item not in results
        results[item] = result

    return results, runtime.map(function, items, label="test", on_result=keep)


def executions(folder: Path) -> Counter:
    return Counter(int(trace.name.split("-")[0]) for trace in folder.iterdir())
