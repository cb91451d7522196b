"""DPM-Solver++ (multistep), deterministic and stochastic."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Annotated, ClassVar

from annotated_types import Interval

from pdediff.samplers.ab_pc import multistep
from pdediff.samplers.field import DataPrediction, Parameterisation
from pdediff.samplers.grids import uniform_lambda
from pdediff.samplers.plan import Plan, check_levels
from pdediff.types import NonNegative


@dataclass(frozen=True)
class DPMSolverPP:
    """Multistep DPM-Solver++ (Lu et al. 2022, alg. 2) with exact exponential weights, and its SDE form.

    With h = log(sigma / t), a = 1 + noise^2, D' the backward difference of D in lambda (order 2),

        x' = (t / sigma)^a x + (1 - e^(-a h)) D + (h - (1 - e^(-a h)) / a) D' + t sqrt(1 - e^(-2 noise^2 h)) z,

    the SA-Solver predictor with constant noise strength (Xue et al. 2023, eq. 11). noise = 0 is the
    probability-flow ODE, noise = 1 the reverse SDE of Song et al. (2021). One evaluation per step; the step to
    sigma = 0 is of order 1. Weak order is 2 at most for noise > 0: the history shares the noise of its steps.

    Good values: order 2 guided, 3 unguided; noise 0.
    """

    source: ClassVar[str] = "Lu et al. 2022 (DPM-Solver++), alg. 2"

    order: Annotated[int, Interval(ge=1, le=3)] = 2
    noise: NonNegative = 0.0

    @property
    def evaluations(self) -> float:
        """Denoiser evaluations of a step."""
        return 1.0

    @property
    def slope(self) -> int:
        """Promised order of convergence."""
        return self.order if self.noise == 0.0 else min(self.order, 2)

    def integrator(self, steps: int) -> tuple[Parameterisation, int]:
        """Data prediction and the order."""
        return DataPrediction(1.0 + self.noise**2), self.order

    def grid(self, steps: int, sigma_max: float, sigma_min: float) -> list[float]:
        """Uniform in log sigma."""
        return uniform_lambda(sigma_max, sigma_min, steps)

    def plan(self, sigmas: Sequence[float]) -> Plan:
        """The compiled steps; `ConfigError` if the levels do not decrease or are too few for the order."""
        levels = check_levels(sigmas, self.order)
        of = DataPrediction(1.0 + self.noise**2)
        return multistep(levels, of, self.order, noise=of if self.noise > 0.0 else None)
