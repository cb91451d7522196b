"""DC-Solver: UniPC whose stored evaluations are moved along the levels by tuned ratios."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Annotated, ClassVar

import numpy as np
from annotated_types import Interval

from pdediff.samplers.field import DataPrediction, Parameterisation, lagrange
from pdediff.samplers.grids import uniform_lambda
from pdediff.samplers.plan import Plan, check_levels
from pdediff.samplers.steps import Lin, Step
from pdediff.samplers.unipc import UniPC, Variant


@dataclass(frozen=True)
class DCSolver:
    """Dynamic compensation (Zhao et al. 2024) of UniPC with corrector.

    The evaluation D_i belongs to the predicted state, not to the corrected one. Before step i uses it, it is replaced
    by the parabola through D_i, D_(i-1), D_(i-2) at

        lambda~ = r_i lambda_i + (1 - r_i) lambda_(i-1).

    `ratios` holds r_2, r_3, ...: one number for each step from the third on, 1 for the steps behind its end; without
    any it is UniPC, step for step. A tuner finds them on pilot noises. The paper extrapolates in the time of the
    training process; in lambda the numbers mean the same for every process. Ratios that stay away from 1 as
    the steps become many leave an error of first order.

    Good values: ratios between 0.8 and 1.2, tuned for 5 to 10 steps.
    """

    source: ClassVar[str] = "Zhao et al. 2024 (DC-Solver)"

    ratios: tuple[float, ...] = ()
    order: Annotated[int, Interval(ge=2, le=3)] = 3
    variant: Variant = "bh2"

    @property
    def evaluations(self) -> float:
        """Denoiser evaluations of a step."""
        return 1.0

    @property
    def slope(self) -> int:
        """Promised order of convergence of the steps without a ratio."""
        return self.order + 1

    def integrator(self, steps: int) -> tuple[Parameterisation, int]:
        """Data prediction and the order of the predictor."""
        return DataPrediction(), self.order

    def grid(self, steps: int, sigma_max: float, sigma_min: float) -> list[float]:
        """Uniform in log sigma."""
        return uniform_lambda(sigma_max, sigma_min, steps)

    def plan(self, sigmas: Sequence[float]) -> Plan:
        """The compiled steps; `ConfigError` if the levels do not decrease or are too few for the order."""
        levels = check_levels(sigmas, self.order)
        first, *base = UniPC(self.order, self.variant).plan(levels).steps
        ops: list[Step] = [first]
        for i in range(len(levels) - 1):
            ratio = self.ratios[i - 2] if 2 <= i < 2 + len(self.ratios) else 1.0
            if ratio != 1.0:
                ops.append(self._compensate(levels, i, ratio))
            # Three steps of the base plan each: predict, evaluate, correct.
            ops += base[3 * i : 3 * i + 3]
        return Plan(tuple(ops), levels)

    def _compensate(self, levels: Sequence[float], i: int, ratio: float) -> Lin:
        nodes = [-math.log(levels[i - j]) for j in range(3)]
        moved = ratio * nodes[0] + (1.0 - ratio) * nodes[1]
        values = [float(value) for value in lagrange(nodes, np.array(moved))]
        slots = [f"m{(i - j) % (self.order + 1)}" for j in range(3)]
        return Lin(slots[0], tuple(zip(slots, values, strict=True)))
