"""Explicit Runge-Kutta methods in the natural variable of a parameterisation: Euler, midpoint, Heun, Kutta, RK4."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import ClassVar, Literal

from pdediff.samplers.field import FieldName, Parameterisation, field
from pdediff.samplers.grids import natural_grid
from pdediff.samplers.plan import STATE, Plan, check_levels
from pdediff.samplers.steps import Eval, Lin
from pdediff.types import Positive

TableauName = Literal["euler", "midpoint", "heun", "kutta3", "heun3", "rk4"]


@dataclass(frozen=True)
class Tableau:
    """Stage i at c_i of the step, from slopes k_j with weights a_ij; the step takes them with weights b_j."""

    order: int
    c: tuple[float, ...]
    a: tuple[tuple[float, ...], ...]
    b: tuple[float, ...]


TABLEAUS: dict[TableauName, Tableau] = {
    "euler": Tableau(1, (0.0,), ((),), (1.0,)),
    "midpoint": Tableau(2, (0.0, 1 / 2), ((), (1 / 2,)), (0.0, 1.0)),
    "heun": Tableau(2, (0.0, 1.0), ((), (1.0,)), (1 / 2, 1 / 2)),
    "kutta3": Tableau(3, (0.0, 1 / 2, 1.0), ((), (1 / 2,), (-1.0, 2.0)), (1 / 6, 2 / 3, 1 / 6)),
    "heun3": Tableau(3, (0.0, 1 / 3, 2 / 3), ((), (1 / 3,), (0.0, 2 / 3)), (1 / 4, 0.0, 3 / 4)),
    "rk4": Tableau(
        4, (0.0, 1 / 2, 1 / 2, 1.0), ((), (1 / 2,), (0.0, 1 / 2), (0.0, 0.0, 1.0)), (1 / 6, 1 / 3, 1 / 3, 1 / 6)
    ),
}

_TO_ZERO: dict[TableauName, TableauName] = {"heun": "midpoint", "kutta3": "heun3", "rk4": "heun3"}
"""Methods that would evaluate at the end of the step, and what takes the step to sigma = 0 instead."""


@dataclass(frozen=True)
class RungeKutta:
    """Explicit Runge-Kutta method on dz / dkappa = m, x = S z, in the natural variable kappa of a field.

        k_i = m(x_i, D(x_i, sigma_i)),  x_i = S_i (z + h sum_j a_ij k_j),  x' = S' (z + h sum_i b_i k_i),

    kappa(sigma_i) = kappa + c_i h. Field "eps" is kappa = sigma: with heun, kutta3 and rk4 the rhoRK solvers of DEIS
    (Zhang & Chen 2023, sec. 4), with euler DDIM. Field "v" is flow time u = sigma / (s + sigma): with midpoint
    RF-Solver (Wang et al. 2025), whose second-order Taylor step is that rule, with euler rectified flow.
    Fields "x0" and "F" are kappa = 1 / sigma and -atan(sigma / s). As many evaluations a step as stages. A step to
    sigma = 0 never evaluates there: methods with a stage at the end hand over to midpoint or, of order 3 and 4, to
    Heun's third-order rule, and field x0 takes the denoised state.

    Good values: field v with s = standard deviation of the data; heun3 up to 16 evaluations, rk4 above. `Default` has
    a fifth of their error at equal cost. In field eps, few steps over a wide range of levels are unstable.
    """

    source: ClassVar[str] = "Zhang & Chen 2023 (DEIS), sec. 4; Wang et al. 2025 (RF-Solver)"

    field: FieldName = "v"
    tableau: TableauName = "heun3"
    s: Positive = 1.0

    @property
    def evaluations(self) -> float:
        """Stages of a step."""
        return float(len(TABLEAUS[self.tableau].c))

    @property
    def order(self) -> int:
        """Steps a grid needs at least."""
        return 1

    @property
    def slope(self) -> int:
        """Promised order of convergence."""
        return TABLEAUS[self.tableau].order

    def integrator(self, steps: int) -> tuple[Parameterisation, int]:
        """Parameterisation and order."""
        return field(self.field, self.s), self.slope

    def grid(self, steps: int, sigma_max: float, sigma_min: float) -> list[float]:
        """Uniform in the interpolation variable of the field."""
        return natural_grid(self.field, steps, sigma_max, sigma_min, self.s)

    def plan(self, sigmas: Sequence[float]) -> Plan:
        """The compiled steps; `ConfigError` if the levels do not decrease."""
        levels = check_levels(sigmas)
        of, natural = field(self.field, self.s), natural_variable(self.field, self.s)
        ops: list[Eval | Lin] = []
        for start, stop in itertools.pairwise(levels):
            name = self.tableau if stop > 0.0 else _TO_ZERO.get(self.tableau, self.tableau)
            if stop == 0.0 and self.field == "x0":
                ops.append(Eval(STATE, STATE, start))
            else:
                ops += _step(of, natural, TABLEAUS[name], start, stop)
        return Plan(tuple(ops), levels)


Natural = tuple[Callable[[float], float], Callable[[float], float]]
"""kappa(sigma) and its inverse."""


def natural_variable(name: FieldName, s: float = 1.0) -> Natural:
    """kappa(sigma) of the field of this name, and sigma(kappa)."""
    made: dict[FieldName, Natural] = {
        "eps": (lambda sigma: sigma, lambda kappa: kappa),
        "x0": (lambda sigma: 1.0 / sigma, lambda kappa: 1.0 / kappa),
        "v": (lambda sigma: sigma / (s + sigma), lambda kappa: s * kappa / (1.0 - kappa)),
        "F": (lambda sigma: -math.atan2(sigma, s), lambda kappa: -s * math.tan(kappa)),
    }
    return made[name]


def evaluate(of: Parameterisation, level: float, src: str, dst: str) -> list[Eval | Lin]:
    """dst <- m(src, D(src, level))."""
    c_x, c_denoised = of.model(level)
    if c_x == 0.0:
        return [Eval(dst, src, level)]
    return [Eval(dst, src, level), Lin(dst, ((src, c_x), (dst, c_denoised)))]


def _step(of: Parameterisation, natural: Natural, rule: Tableau, start: float, stop: float) -> list[Eval | Lin]:
    kappa, level_of = natural
    h = kappa(stop) - kappa(start)
    ends = {0.0: start, 1.0: stop}  # to the last bit, whatever the inverse of kappa rounds to
    levels = [ends[c] if c in ends else level_of(kappa(start) + c * h) for c in rule.c]
    ops = evaluate(of, start, STATE, "k0")
    for i, level in enumerate(levels[1:], start=1):
        ops.append(_advance(of, "stage", start, level, h, rule.a[i]))
        ops += evaluate(of, level, "stage", f"k{i}")
    return [*ops, _advance(of, STATE, start, stop, h, rule.b)]


def _advance(of: Parameterisation, dst: str, start: float, stop: float, h: float, weights: tuple[float, ...]) -> Lin:
    """dst <- S(stop) (z + h sum_j weights_j k_j)."""
    terms = [(f"k{j}", of.scale(stop) * h * weight) for j, weight in enumerate(weights) if weight != 0.0]
    return Lin(dst, ((STATE, of.scale(stop) / of.scale(start)), *terms))
