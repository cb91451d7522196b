"""The sampler to use when nothing is known of the prior."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

from pdediff.samplers.ab_pc import PC
from pdediff.samplers.field import Parameterisation
from pdediff.samplers.grids import blended
from pdediff.samplers.plan import Plan, check_levels
from pdediff.types import Positive


@dataclass(frozen=True)
class Default:
    """`PC` of order 4 in the velocity field of twice the data's standard deviation, on the `blended` grid.

    The grid blends equal steps in flow time, best for rough fields, with equal steps in log sigma, without which a
    steep spectrum loses its small scales; it needs no evaluation. `tune` does better on a given prior. `s` is the
    standard deviation of the data (1 in normalised units). Any number of steps is accepted; fewer than four lower the
    order. Chosen on five closed-form priors, rough and smooth: within 3x of the best of its family on each.
    """

    source: ClassVar[str] = "ours: UniPC's corrector in flow time"

    s: Positive = 1.0

    @property
    def evaluations(self) -> float:
        """Denoiser evaluations of a step."""
        return 1.0

    @property
    def order(self) -> int:
        """Steps a grid needs at least."""
        return 1

    @property
    def slope(self) -> int:
        """Promised order of convergence, down to an error of 1e-7, where the first steps show."""
        return 5

    def method(self, steps: int) -> PC:
        """The predictor-corrector used for this number of steps."""
        return PC("v", min(steps, 4), 2.0 * self.s)

    def integrator(self, steps: int) -> tuple[Parameterisation, int]:
        """Parameterisation and predictor order used for this number of steps."""
        return self.method(steps).integrator(steps)

    def grid(self, steps: int, sigma_max: float, sigma_min: float) -> list[float]:
        """`blended`; append a 0.0 to ask for a last step to zero noise."""
        return blended(sigma_max, sigma_min, steps, 2.0 * self.s)

    def plan(self, sigmas: Sequence[float]) -> Plan:
        """The compiled steps; `ConfigError` if the levels do not decrease."""
        levels = check_levels(sigmas)
        return self.method(len(levels) - 1).plan(levels)
