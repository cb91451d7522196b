"""Small versions of the ready-made problems: a few readings on coarse grids."""

from __future__ import annotations

from typing import Any

from pdediff.config import build
from pdediff.flows import compose
from pdediff.stages.problems import InverseProblem

SMALL: dict[str, dict[str, int]] = {
    "advection_diffusion2d": {"grid": 16, "points": 5, "times": 3},
    "burgers1d": {"grid": 32, "points": 4},
    "darcy2d": {"grid": 8, "points": 10},
    "heat1d": {"grid": 32, "points": 8},
    "helmholtz2d": {"grid": 16, "points": 30},
    "navier_stokes2d": {"grid": 16, "points": 10},
    "poisson2d": {"grid": 16, "points": 30},
}


def small(name: str, **arguments: Any) -> InverseProblem:
    """One of the ready-made problems, small."""
    return build("problem", compose.node("problem", name) | SMALL[name] | arguments)


LINEAR = [name for name in SMALL if small(name).linear]
NONLINEAR = [name for name in SMALL if name not in LINEAR]


def words(name: str) -> tuple[str, ...]:
    """The same as words of the command line."""
    return (f"problem={name}", *(f"problem.{key}={value}" for key, value in SMALL[name].items()))
