"""Posterior samples of fields and parameters of PDEs from a few sensors, with diffusion priors.

The rooms (`pdediff.pdes`, `pdediff.diffusion`, ...) and the few names below are imported when first used, so that
`import pdediff` costs nothing.
"""

from __future__ import annotations

import importlib
from typing import Any

__version__ = "0.1.0"

_ROOMS = ("configs", "diffusion", "errors", "flows", "metrics", "models", "observe")
_ROOMS += ("pdes", "posterior", "samplers", "stages", "store")
_NAMES = {
    "PdediffError": "pdediff.errors",
    "Runtime": "pdediff.runtime",
    "build": "pdediff.config",
    "checked": "pdediff.launch",
    "open_store": "pdediff.store",
}

__all__ = ["PdediffError", "Runtime", "__version__", "build", "checked", "open_store"]


def __getattr__(name: str) -> Any:
    if name in _ROOMS:
        return importlib.import_module(f"pdediff.{name}")
    if name in _NAMES:
        return getattr(importlib.import_module(_NAMES[name]), name)
    raise AttributeError(f"module 'pdediff' has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted({*globals(), *_ROOMS, *_NAMES})
