"""The residual of an equation as a second observation beside the readings."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from pdediff.observe import Composed, GaussianNoise, Observation, Operator, Stack
from pdediff.types import Field


@dataclass(frozen=True, eq=False)
class WithResidual(Stack):
    """Readings, then the residual of an equation; `residuals` is how many of the values belong to the equation."""

    residuals: int = 0


def with_residual(observation: Observation, residual: Operator, count: int, std: float) -> Observation:
    """`observation` and 0 = residual(x) + e, e ~ N(0, std^2): one Gaussian likelihood for readings and equation.

    residual: fields to `count` values (batch, count), in physical units with the grid spacing in its differences; std
    is the accuracy to which the equation holds. Every method takes the result; for a linear equation and a Gaussian
    prior the posterior is closed form, and std to 0 gives the constrained one.
    """
    zeros = torch.zeros(count).to(observation.y)
    noise = GaussianNoise(torch.cat([observation.noise.std, torch.full_like(zeros, std)]))
    operator = WithResidual((observation.operator, residual), count)
    return Observation(torch.cat([observation.y, zeros]), operator, noise)  # type: ignore[arg-type]


def residual_count(operator: Operator) -> int:
    """How many of the last readings are the residual of an equation."""
    while isinstance(operator, Composed):
        operator = operator.outer
    return operator.residuals if isinstance(operator, WithResidual) else 0


def parts(observation: Observation, denoised: Field) -> tuple[Tensor, Tensor]:
    """Whitened residuals of the readings (batch, m) and of the equation (batch, k), k = 0 without one."""
    white, count = observation.white_residual(denoised), residual_count(observation.operator)
    return white[:, : white.shape[1] - count], white[:, white.shape[1] - count :]
