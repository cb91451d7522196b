"""Hard constraints: the estimate projected on the fields that meet the readings."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from pdediff.diffusion import Denoiser, conjugate_gradients
from pdediff.observe import Observation
from pdediff.posterior.base import GuidedDenoiser
from pdediff.types import Field, Levels, Positive, PositiveInt


@dataclass(frozen=True)
class HardConstraint:
    """D_y = P(D), P(z) the field nearest to z with H P(z) = y: boundary and initial values, conserved integrals.

    P(z) = z + H^T (H H^T)^-1 (y - H z), for a nonlinear H by `newton` steps of Gauss-Newton. What H says is met
    exactly by the last estimate, whatever the noise of the readings. For a linear H it is DDNM without noise (Wang et
    al. 2023, equation 13) at any number of readings: the constraint reaches the rest of the field only through the
    state, by a fraction of each step. `ECI` moves the state in full.

    Good values: 1 Newton step for linear constraints, 3 to 6 for others. `NumericalError` for constraints that
    contradict each other.
    """

    newton: PositiveInt = 1
    tolerance: Positive = 1e-10
    exact: ClassVar[bool] = False
    linear_only: ClassVar[bool] = False
    needs_vjp: ClassVar[bool] = False

    def __call__(self, prior: Denoiser, observation: Observation) -> Denoiser:
        return _Guided(prior, observation, self)


@dataclass(frozen=True, eq=False)
class _Guided(GuidedDenoiser):
    method: HardConstraint

    def __call__(self, x: Field, sigma: Levels) -> Field:
        return projected(self.observation, self.prior(x, sigma), self.method.newton, self.method.tolerance)


def projected(observation: Observation, z: Field, newton: int, tolerance: float) -> Field:
    """P(z), by so many Gauss-Newton steps; the system is solved in float64, each row on its own."""
    at, operator = z.double(), observation.operator
    for _ in range(newton):
        here = at
        q = conjugate_gradients(
            lambda w, here=here: operator.jvp(here, operator.vjp(here, w)),
            observation.residual(here),
            tolerance=tolerance,
        )
        at = here + operator.vjp(here, q)
    return at.to(z)
