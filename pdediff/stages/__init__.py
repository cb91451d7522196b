"""The stages: typed config and paths in, path out; finished work is returned, half-done work is completed."""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from pdediff.stages.benchmarking import benchmark
    from pdediff.stages.evaluation import evaluate
    from pdediff.stages.generation import generate
    from pdediff.stages.reconstruction import reconstruct
    from pdediff.stages.repairs import repair, verify
    from pdediff.stages.sampling import sample
    from pdediff.stages.surrogates import forecast, train_forecaster
    from pdediff.stages.training import train
    from pdediff.stages.tuning import tune

_HOME = {
    "benchmark": "benchmarking",
    "evaluate": "evaluation",
    "forecast": "surrogates",
    "generate": "generation",
    "reconstruct": "reconstruction",
    "repair": "repairs",
    "sample": "sampling",
    "train": "training",
    "train_forecaster": "surrogates",
    "tune": "tuning",
    "verify": "repairs",
}

__all__ = [
    "benchmark",
    "evaluate",
    "forecast",
    "generate",
    "reconstruct",
    "repair",
    "sample",
    "train",
    "train_forecaster",
    "tune",
    "verify",
]


def __getattr__(name: str) -> Any:
    # Loaded when asked for: reading a config must not import torch.
    if name in _HOME:
        return getattr(import_module(f"pdediff.stages.{_HOME[name]}"), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
