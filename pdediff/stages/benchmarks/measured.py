"""The measured side of a benchmark: a process that prepares workloads and times them, one order on stdin at a time.

A workload is a function without arguments that `prepare(settings)` of a module makes. The process has one core and
one numeric thread, and loads nothing but that module, so that no library changes what another one measures.
"""

from __future__ import annotations

import gc
import json
import os
import sys
import time
from collections.abc import Callable
from importlib import import_module
from typing import Any, TextIO

Work = Callable[[], Any]


def main(module: str, core: int) -> None:
    """Serve orders until stdin ends: prepare, measure, clear."""
    if core >= 0 and hasattr(os, "sched_setaffinity"):
        os.sched_setaffinity(0, {core})  # before any library starts its threads
    with os.fdopen(os.dup(1), "w") as replies:
        os.dup2(2, 1)  # what libraries print must not be taken for a reply
        works: dict[str, Work] = {}
        for line in sys.stdin:
            _reply(replies, _obey(json.loads(line), works, module))


def _obey(order: dict[str, Any], works: dict[str, Work], module: str) -> dict[str, Any]:
    try:
        if order["do"] == "clear":
            works.clear()
            gc.collect()
            return {}
        if order["do"] == "prepare":
            works[order["key"]] = import_module(module).prepare(order["settings"])
            return _first(works[order["key"]], order["save"])
        return _best(works[order["key"]], order["seconds"])
    except Exception as error:
        return {"error": f"{type(error).__name__}: {' '.join(str(error).split())}"}


def _first(work: Work, save: str | None) -> dict[str, float]:
    """The first run, compilation included; its result is saved on request."""
    timing, result = timed(work)
    if save is not None:
        import numpy as np

        np.save(save, np.asarray(result))
    return timing


def _best(work: Work, seconds: float) -> dict[str, float]:
    """Least processor time and least wall time of runs that fill `seconds`, at least one."""
    cpu, wall, spent, runs = float("inf"), float("inf"), 0.0, 0
    while not runs or spent < seconds:
        timing, _ = timed(work)
        cpu, wall = min(cpu, timing["cpu"]), min(wall, timing["wall"])
        spent, runs = spent + timing["wall"], runs + 1
    return {"cpu": cpu, "wall": wall, "runs": runs}


def timed(work: Work) -> tuple[dict[str, float], Any]:
    """Processor and wall seconds of one run, and what it returned."""
    wall, cpu = time.perf_counter(), time.process_time()
    result = work()
    return {"cpu": time.process_time() - cpu, "wall": time.perf_counter() - wall}, result


def _reply(replies: TextIO, told: dict[str, Any]) -> None:
    replies.write(json.dumps(told) + "\n")
    replies.flush()


if __name__ == "__main__":
    main(sys.argv[1], int(sys.argv[2]))
