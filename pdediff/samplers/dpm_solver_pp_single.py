"""DPM-Solver++ with intermediate stages instead of a history: 2S and 3S."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from pdediff.samplers.dpm_solver import Singlestep, Stages
from pdediff.samplers.field import DataPrediction


@dataclass(frozen=True)
class DPMSolverPPSingle(Singlestep):
    """DPM-Solver++(2S), and 3S, in the data prediction (Lu et al. 2022, alg. 1), with exact weights.

    With t the next level, h = log(sigma / t), I(c) = 1 - exp(-c h), J(c) = c h - 1 + exp(-c h) and stages D_i at
    level t_i = sigma exp(-r_i h),

        stages 2:  x' = (t / sigma) x + I(1) D + J(1) (D_1 - D) / (r1 h),   x_1 = (t_1 / sigma) x + I(r1) D,
        stages 3:  x' = (t / sigma) x + I(1) D + J(1) (D_2 - D) / (r2 h),
                   x_2 = (t_2 / sigma) x + I(r2) D + J(r2) (D_1 - D) / (r1 h),

    the mirror of `DPMSolver`, which tells more. The paper writes (1 - e^-h) / 2 for J(1) / h, which differs by O(h^3)
    in x'. As many evaluations a step as stages, order of the same number; the step to sigma = 0 is of order 1.

    Good values: 2 stages, r1 = 1/2; 3 stages, r1, r2 = 1/3, 2/3 (None means these). `ConfigError` as in `DPMSolver`.
    """

    source: ClassVar[str] = "Lu et al. 2022 (DPM-Solver++), alg. 1"
    prediction: ClassVar[type[DataPrediction]] = DataPrediction

    stages: Stages = 2
