"""Every ready-made posterior, shrunk until it takes a fraction of a second: a config of the folder enrols itself."""

from __future__ import annotations

from functools import cache
from pathlib import Path
from typing import Any

import yaml
from problem_recipe import SMALL

CONFIGS = Path(__file__).parents[2] / "configs"

FEW: dict[str, int] = {
    "steps": 4,
    "iterations": 3,
    "ensemble": 8,
    "updates": 2,
    "budget": 12,
    "chains": 4,
    "burn_in": 4,
    "samples": 4,
    "thin": 1,
    "count": 2,
    "flow_steps": 2,
    "langevin": 2,
    "repeats": 2,
    "draws": 2,
    "candidates": 2,
    "newton": 2,
}
"""The most of each number that costs time, wherever it stands in a config."""

ZOO = sorted(path.stem for path in (CONFIGS / "posterior").glob("*.yaml"))


def shrunk(node: Any) -> Any:
    """The node with small numbers."""
    if not isinstance(node, dict):
        return node
    return {k: min(v, FEW[k]) if k in FEW and isinstance(v, int) else shrunk(v) for k, v in node.items()}


@cache
def node(name: str) -> dict[str, Any]:
    """One of the ready-made posteriors."""
    return yaml.safe_load((CONFIGS / "posterior" / f"{name}.yaml").read_text())


def posterior(name: str) -> dict[str, Any]:
    """One of the ready-made posteriors, small."""
    return shrunk(node(name))


def problem(name: str) -> dict[str, Any]:
    """One of the ready-made problems, small."""
    return yaml.safe_load((CONFIGS / "problem" / f"{name}.yaml").read_text()) | SMALL[name]
