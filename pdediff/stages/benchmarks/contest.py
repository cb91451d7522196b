"""Side-by-side timing: every contestant in its own process on the same core, repeats interleaved, the best counts."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any

from pdediff.environment import THREAD_VARIABLES
from pdediff.errors import ResourceError

ENVIRONMENT = {
    **dict.fromkeys(THREAD_VARIABLES, "1"),
    "XLA_FLAGS": "--xla_cpu_multi_thread_eigen=false intra_op_parallelism_threads=1",
    "JAX_PLATFORMS": "cpu",
}
"""One numeric thread for everyone."""


@dataclass(frozen=True)
class Timing:
    """Best seconds of one run of a workload; `first` is the first run, compilation included."""

    cpu: float
    wall: float
    first: float
    runs: int = 0


class Contestant:
    """A process that runs the workloads of one module, on one core (all cores where `core` is negative)."""

    def __init__(self, name: str, module: str, core: int = -1) -> None:
        self.name = name
        self._told = tempfile.TemporaryFile("w+")  # noqa: SIM115  closed with the process
        self._process = subprocess.Popen(
            [sys.executable, "-m", "pdediff.stages.benchmarks.measured", module, str(core)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self._told,
            text=True,
            env=os.environ | ENVIRONMENT,
        )

    def __enter__(self) -> Contestant:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._process.kill()
        self._process.wait()
        for stream in (self._process.stdin, self._process.stdout, self._told):
            with suppress(OSError):
                stream.close()  # type: ignore[union-attr]

    def prepare(self, key: str, settings: Mapping[str, Any], save: Path | None = None) -> float:
        """Make a workload and run it once; processor seconds of that run. Its result is saved as .npy on request."""
        path = None if save is None else str(save)
        return self._ask({"do": "prepare", "key": key, "settings": dict(settings), "save": path})["cpu"]

    def measure(self, key: str, seconds: float) -> dict[str, float]:
        """Best processor and wall seconds of runs that fill `seconds`."""
        return self._ask({"do": "measure", "key": key, "seconds": seconds})

    def clear(self) -> None:
        """Forget all workloads."""
        self._ask({"do": "clear"})

    def _ask(self, order: dict[str, Any]) -> dict[str, Any]:
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        try:
            self._process.stdin.write(json.dumps(order) + "\n")
            self._process.stdin.flush()
            line = self._process.stdout.readline()
        except BrokenPipeError:
            line = ""
        reply = json.loads(line) if line else {"error": self._last_words()}
        if "error" in reply:
            raise ResourceError(f"{self.name} failed: {reply['error']}", hint="peers=[] measures without peers")
        return reply

    def _last_words(self) -> str:
        self._process.wait()
        self._told.seek(0)
        lines = self._told.read().strip().splitlines()
        return lines[-1] if lines else f"its process ended with code {self._process.returncode}"


@dataclass(frozen=True)
class Entry:
    """One workload of one contestant."""

    contestant: Contestant
    key: str
    settings: Mapping[str, Any]


def contest(entries: Sequence[Entry], repeats: int, seconds: float) -> list[Timing]:
    """Best times of every entry; the entries take turns, so that a busy moment of the machine hits all of them."""
    first = [entry.contestant.prepare(entry.key, entry.settings) for entry in entries]
    best = [{"cpu": float("inf"), "wall": float("inf"), "runs": 0.0} for _ in entries]
    for _ in range(repeats):
        for entry, found in zip(entries, best, strict=True):
            told = entry.contestant.measure(entry.key, seconds)
            for key in ("cpu", "wall"):
                found[key] = min(found[key], told[key])
            found["runs"] += told["runs"]
    for contestant in {entry.contestant for entry in entries}:
        contestant.clear()
    return [Timing(b["cpu"], b["wall"], f, int(b["runs"])) for b, f in zip(best, first, strict=True)]
