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
    """`PC` in the velocity field, of order 2 up to 10 steps and 3 above.

    Its own grid blends equal steps in flow time, best for rough fields, with equal steps in log sigma, without which
    a steep spectrum loses its small scales; it needs no evaluation. `pilot_grid` does better on a given prior.
    `s` is the standard deviation of the data (1 in normalised units). Any number of steps is accepted.
    """

    source: ClassVar[str] = "ours: UniPC's corrector in flow time"
    evaluations: ClassVar[float] = 1.0

    s: Positive = 1.0

    @property
    def order(self) -> int:
        """Steps a grid needs at least."""
        return 1

    @property
    def slope(self) -> int:
        """Promised order of convergence, for more than 10 steps."""
        return 4

    def method(self, steps: int) -> PC:
        """The predictor-corrector used for this number of steps."""
        return PC("v", min(steps, 2 if steps <= 10 else 3), self.s)

    def integrator(self, steps: int) -> tuple[Parameterisation, int]:
        """Parameterisation and predictor order used for this number of steps."""
        return self.method(steps).integrator(steps)

    def grid(self, steps: int, sigma_max: float, sigma_min: float) -> list[float]:
        """`blended`; append a 0.0 to ask for a last step to zero noise."""
        return blended(sigma_max, sigma_min, steps, self.s)

    def plan(self, sigmas: Sequence[float]) -> Plan:
        """The compiled steps; `ConfigError` if the levels do not decrease."""
        levels = check_levels(sigmas)
        return self.method(len(levels) - 1).plan(levels)
