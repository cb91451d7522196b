"""MMPS: the covariance of the estimate's error from the network's own Jacobian."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch

from pdediff.diffusion import Denoiser, conjugate_gradients
from pdediff.observe import Observation
from pdediff.posterior.base import GuidedDenoiser
from pdediff.posterior.gain import Tangent
from pdediff.types import Field, Levels, Positive, PositiveInt


@dataclass(frozen=True)
class MMPS:
    """D_y = D + V H^T (R + H V H^T)^-1 (y - H D), V = sigma^2 N J^T the covariance of x0 given x.

    Moment-matching posterior sampling, Rozet et al. 2024, algorithm 3. The system is solved by conjugate gradients,
    each row with step sizes of its own, in float64 around the network's own precision: `iterations` of them, or with
    null until `tolerance` is met. A network's Jacobian is not symmetric; `symmetric` takes (V + V^T) / 2 in the
    brackets, for one more backward pass an iteration. A row whose curvature is not positive keeps what it has.
    Exact for a Gaussian prior when solved to tolerance; a nonlinear H is linearised at D (Gauss-Newton).

    Good values: 1 to 5 iterations, which also regularise, with a second-order sampler; at few ancestral steps the
    spread is too narrow. `NumericalError` if `tolerance` is not met in 1000 iterations.
    """

    iterations: PositiveInt | None = 3
    tolerance: Positive = 1e-6
    symmetric: bool = False
    exact: ClassVar[bool] = False
    linear_only: ClassVar[bool] = False
    needs_vjp: ClassVar[bool] = True

    def __call__(self, prior: Denoiser, observation: Observation) -> Denoiser:
        return _Guided(prior, observation.whitened(), self)


@dataclass(frozen=True, eq=False)
class _Guided(GuidedDenoiser):
    method: MMPS

    def __call__(self, x: Field, sigma: Levels) -> Field:
        tangent, operator = Tangent.of(self.prior, x, sigma), self.observation.operator
        at = tangent.denoised.double()

        def innovation(q: torch.Tensor) -> torch.Tensor:
            lifted = operator.vjp(at, q)
            spread = tangent.spread(lifted)
            if self.method.symmetric:
                spread = 0.5 * (spread + tangent.push(lifted))
            return q + operator.jvp(at, spread.double())

        residual = self.observation.residual(at)
        if self.method.iterations is None:
            q = conjugate_gradients(innovation, residual, tolerance=self.method.tolerance)
        else:
            q = some_conjugate_gradients(innovation, residual, self.method.iterations)
        return tangent.denoised + tangent.spread(operator.vjp(at, q).to(x))


def some_conjugate_gradients(matvec, rhs: torch.Tensor, iterations: int) -> torch.Tensor:
    """That many steps towards A q = b from q = 0, for each row on its own; rows stop at negative curvature."""
    q, residual = torch.zeros_like(rhs), rhs.clone()
    direction, rho = residual.clone(), residual.square().sum(1)
    for _ in range(iterations):
        product = matvec(direction)
        curvature = (direction * product).sum(1)
        going = (curvature > 0) & (rho > 0)
        step = torch.where(going, rho / curvature.where(going, torch.ones_like(rho)), torch.zeros_like(rho))
        q = q + step[:, None] * direction
        residual = residual - step[:, None] * product
        fresh = residual.square().sum(1)
        beta = torch.where(going, fresh / rho.where(going, torch.ones_like(rho)), torch.zeros_like(rho))
        direction = torch.where(going[:, None], residual + beta[:, None] * direction, torch.zeros_like(direction))
        rho = torch.where(going, fresh, torch.zeros_like(rho))
    return q
