"""EPD-Solver: several slopes of a step evaluated in parallel and mixed with learned weights."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

from pdediff.errors import ConfigError
from pdediff.samplers.field import NoisePrediction, Parameterisation
from pdediff.samplers.grids import edm_grid
from pdediff.samplers.plan import STATE, Plan, check_levels
from pdediff.samplers.runge_kutta import evaluate
from pdediff.samplers.steps import Eval, Lin
from pdediff.types import PositiveInt

Rows = tuple[tuple[float, ...], ...]
"""A number for each point, in one row for all steps or in a row for each step."""


@dataclass(frozen=True)
class EPD:
    """Ensemble of parallel directions (EPD-Solver, Zhu et al. 2025), K = `points` of them.

    With e = (x - D) / sigma, t the next level and k = 1, ..., K,

        t_k = t^(r_k) sigma^(1 - r_k),  y_k = x + (t_k - sigma) e,  e_k = (y_k - D(y_k, c_k t_k)) / t_k,
        x' = x + (t - sigma) sum_k w_k o_k e_k,

    with `weights` w, `positions` r, `time_scales` c and `direction_scales` o, which a tuner fits for each step. The y_k
    depend on x and e only, so the K evaluations can run at once: K + 1 evaluations a step, the latency of 2. Order 2
    if c = 1, sum w o = 1 and sum w o r = 1/2 (K = 1: the midpoint in log sigma); the step to sigma = 0 is Euler's.

    Good values: 3 to 8 steps, K = 2, fitted; empty rows are the method before it is fitted, w = 1 / K,
    r = (k - 1/2) / K, c = o = 1. `ConfigError` for rows that are not K numbers, positions outside (0, 1], time scales
    that are not positive, and rows that are neither one nor as many as the steps.
    """

    source: ClassVar[str] = "Zhu et al. 2025 (EPD-Solver)"

    points: PositiveInt = 1
    weights: Rows = ()
    positions: Rows = ()
    time_scales: Rows = ()
    direction_scales: Rows = ()

    def __post_init__(self) -> None:
        for name in ("weights", "positions", "time_scales", "direction_scales"):
            if any(len(row) != self.points for row in getattr(self, name)):
                raise ConfigError(f"EPD with {self.points} points needs rows of as many {name}")
        if not all(0.0 < r <= 1.0 for row in self.positions for r in row):
            raise ConfigError(f"EPD needs positions in (0, 1], got {self.positions}")
        if not all(c > 0.0 for row in self.time_scales for c in row):
            raise ConfigError(f"EPD needs positive time scales, got {self.time_scales}")

    @property
    def evaluations(self) -> float:
        """The first slope and the points."""
        return 1.0 + self.points

    @property
    def order(self) -> int:
        """Steps a grid needs at least."""
        return 1

    @property
    def slope(self) -> int:
        """Promised order of convergence before it is fitted; fitted numbers promise none."""
        return 2

    def integrator(self, steps: int) -> tuple[Parameterisation, int]:
        """Noise prediction, order 2."""
        return NoisePrediction(), 2

    def grid(self, steps: int, sigma_max: float, sigma_min: float) -> list[float]:
        """`edm_grid`."""
        return edm_grid(sigma_max, sigma_min, steps)

    def rows(self, steps: int) -> list[tuple[tuple[float, float, float, float], ...]]:
        """(w, r, c, o) of each point of each step; `ConfigError` for the wrong number of rows."""
        k = self.points
        plain = {
            "weights": (1.0 / k,) * k,
            "positions": tuple((i + 0.5) / k for i in range(k)),
            "time_scales": (1.0,) * k,
            "direction_scales": (1.0,) * k,
        }
        tables = []
        for name, row in plain.items():
            given = getattr(self, name) or (row,)
            if len(given) not in (1, steps):
                raise ConfigError(f"EPD has {len(given)} rows of {name} for {steps} steps", hint="one row, or as many")
            tables.append(list(given) * (steps if len(given) == 1 else 1))
        return [tuple(zip(*step, strict=True)) for step in zip(*tables, strict=True)]

    def plan(self, sigmas: Sequence[float]) -> Plan:
        """The compiled steps; `ConfigError` if the levels do not decrease or are not as many as the rows say."""
        levels = check_levels(sigmas)
        ops: list[Eval | Lin] = []
        for (sigma, stop), points in zip(itertools.pairwise(levels), self.rows(len(levels) - 1), strict=True):
            ops += [Eval(STATE, STATE, sigma)] if stop == 0.0 else _step(sigma, stop, points)
        return Plan(tuple(ops), levels)


def _step(sigma: float, stop: float, points: Sequence[tuple[float, float, float, float]]) -> list[Eval | Lin]:
    ops = evaluate(NoisePrediction(), sigma, STATE, "k0")
    terms = [(STATE, 1.0)]
    for i, (w, r, c, o) in enumerate(points, start=1):
        level, slot, point = stop**r * sigma ** (1.0 - r), f"k{i}", f"y{i}"
        ops += [Lin(point, ((STATE, 1.0), ("k0", level - sigma))), Eval(slot, point, c * level)]
        # D over -t_k and the states over t_k: sum_k e_k without a slot for each slope.
        share = (stop - sigma) * w * o / level
        terms += [(point, share), (slot, -share)]
    return [*ops, Lin(STATE, tuple(terms))]
