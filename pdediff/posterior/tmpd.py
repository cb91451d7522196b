"""TMPD: the diagonal of the Jacobian's covariance, by one more backward pass."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch

from pdediff.diffusion import Denoiser
from pdediff.observe import Observation
from pdediff.posterior.base import GuidedDenoiser
from pdediff.posterior.gain import Tangent
from pdediff.types import Field, Levels


@dataclass(frozen=True)
class TMPD:
    """D_y = D + V H^T diag(R + H V H^T 1)^-1 (y - H D), V = sigma^2 N J^T the covariance of x0 given x.

    Tweedie moment projected diffusion, Boys et al. 2023, equation 9: the matrix in the brackets is replaced by the
    diagonal of its row sums, two backward passes in all. Exact where H V H^T is diagonal (one reading; white fields
    seen point by point); for smooth fields the readings share their errors and the row sums overstate them. Row sums
    can be negative, for a network or for readings with opposite signs: they count as zero then.
    """

    exact: ClassVar[bool] = False
    linear_only: ClassVar[bool] = False
    needs_vjp: ClassVar[bool] = True

    def __call__(self, prior: Denoiser, observation: Observation) -> Denoiser:
        return _Guided(prior, observation.whitened())


@dataclass(frozen=True, eq=False)
class _Guided(GuidedDenoiser):
    def __call__(self, x: Field, sigma: Levels) -> Field:
        tangent, operator = Tangent.of(self.prior, x, sigma), self.observation.operator
        at = tangent.denoised
        residual = self.observation.residual(at)
        sums = operator.jvp(at, tangent.spread(operator.vjp(at, torch.ones_like(residual))))
        return at + tangent.spread(operator.vjp(at, residual / (1 + sums.clamp(min=0))))
