"""Small versions of the ready-made problems: a few readings on coarse grids."""

from __future__ import annotations

from typing import Any

from pdediff.config import build
from pdediff.flows import compose
from pdediff.stages.problems import InverseProblem

SMALL: dict[str, dict[str, int]] = {
    "advection_diffusion2d": {"grid": 16, "points": 5, "times": 3},
    "advection_mixture2d": {"grid": 16},
    "born2d": {"grid": 12, "transmitters": 5, "receivers": 10},
    "burgers1d": {"grid": 32, "points": 4},
    "burgers1d_space_time": {"grid": 16, "points": 3},
    "darcy2d": {"grid": 8, "points": 10},
    "darcy_binary2d": {"grid": 8, "points": 10},
    "heat1d": {"grid": 32, "points": 8},
    "helmholtz2d": {"grid": 16, "points": 30},
    "helmholtz2d_hard": {"grid": 24, "points": 60},
    "helmholtz_medium2d": {"grid": 12, "sources": 4, "points": 5},
    "lorenz63": {"frames": 9, "every": 4},
    "navier_stokes2d": {"grid": 16, "points": 10},
    "navier_stokes2d_re200": {"grid": 16, "every": 4, "fields": 16, "fine": 16},
    "poisson2d": {"grid": 16, "points": 30},
}


def small(name: str, **arguments: Any) -> InverseProblem:
    """One of the ready-made problems, small."""
    return build("problem", compose.node("problem", name) | SMALL[name] | arguments)


LINEAR = [name for name in SMALL if small(name).linear]
GAUSSIAN = [name for name in LINEAR if name != "advection_mixture2d"]
NONLINEAR = [name for name in SMALL if name not in LINEAR]


def words(name: str) -> tuple[str, ...]:
    """The same as words of the command line."""
    return (f"problem={name}", *(f"problem.{key}={value}" for key, value in SMALL[name].items()))
