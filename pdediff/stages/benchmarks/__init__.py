"""Benchmark suites: speed and error side by side with peers, each measured in a process of its own.

Suites are imported when asked for: the processes of the peers load this package, and nothing of ours besides.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from pdediff.stages.benchmarks.base import Suite
    from pdediff.stages.benchmarks.forecast import Forecasts
    from pdediff.stages.benchmarks.pdes import PDEs
    from pdediff.stages.benchmarks.posterior import Posteriors
    from pdediff.stages.benchmarks.samplers import Samplers

_HOME = {"Forecasts": "forecast", "PDEs": "pdes", "Posteriors": "posterior", "Samplers": "samplers", "Suite": "base"}

__all__ = ["Forecasts", "PDEs", "Posteriors", "Samplers", "Suite"]


def __getattr__(name: str) -> Any:
    if name in _HOME:
        return getattr(import_module(f"{__name__}.{_HOME[name]}"), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
