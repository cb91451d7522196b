"""Guidance by the calibrated covariance of the denoiser's error: the default; no gradient of the network."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import ClassVar

import torch
from torch import Tensor

from pdediff.diffusion import Denoiser, conjugate_gradients
from pdediff.observe import Observation
from pdediff.posterior.base import GuidedDenoiser, levels_of
from pdediff.posterior.conditioning import Conditioning
from pdediff.types import Field, Levels, Positive, PositiveInt


@dataclass(frozen=True)
class CalibratedGuidance:
    """D_y = D + C H^T (R + H C H^T)^-1 (y - H D), C = E (x0 - D)(x0 - D)^T measured at each noise level.

    Exact for a Gaussian prior with any sampler; biased where the prior has modes, because one covariance serves the
    whole level: use `TwistedSMC` there. Linear operators with up to `dense_limit` readings use a gain that is built
    once per level; others are linearised at D (Gauss-Newton) and solved by conjugate gradients to `tolerance`.
    Covariance-guided denoising: Rozet et al. 2024, equation 9, with the measured error for their V.
    """

    dense_limit: PositiveInt = 2048
    tolerance: Positive = 1e-6
    exact: ClassVar[bool] = False
    linear_only: ClassVar[bool] = False
    needs_vjp: ClassVar[bool] = False

    def __call__(self, prior: Denoiser, observation: Observation) -> Denoiser:
        if observation.operator.linear and len(observation.y) <= self.dense_limit:
            rows = observation.rows(prior.mean.double())
            return _DenseGain(prior, observation, rows)
        return _IterativeGain(prior, observation, self.tolerance)


@dataclass(frozen=True, eq=False)
class _DenseGain(GuidedDenoiser):
    rows: Tensor
    gains: dict[float, Conditioning] = field(default_factory=dict)

    def conditioning(self, level: float) -> Conditioning:
        """The conditioning of one level, built at first use."""
        if level not in self.gains:
            self.gains[level] = Conditioning.of(self.observation, self.prior.error(level), self.rows)
        return self.gains[level]

    def __call__(self, x: Field, sigma: Levels) -> Field:
        denoised = self.prior(x, sigma)
        residual = self.observation.residual(denoised)
        level = levels_of(sigma)
        if level is not None:
            return self.conditioning(level).update(denoised, residual)
        parts = [
            self.conditioning(float(s)).update(d[None], r[None])
            for s, d, r in zip(sigma, denoised, residual, strict=True)
        ]
        return torch.cat(parts)


@dataclass(frozen=True, eq=False)
class _IterativeGain(GuidedDenoiser):
    tolerance: float

    def __call__(self, x: Field, sigma: Levels) -> Field:
        denoised = self.prior(x, sigma)
        level = levels_of(sigma)
        if level is None:
            pairs = zip(sigma, denoised, strict=True)
            return torch.cat([self._update(d[None], float(s)) for s, d in pairs])
        return self._update(denoised, level)

    def _update(self, denoised: Tensor, level: float) -> Tensor:
        # The solve runs in float64: in float32 its residual stalls above the tolerance when the noise is small.
        at, covariance, operator = denoised.double(), self.prior.error(level), self.observation.operator
        variance = self.observation.noise.std.to(at) ** 2

        def innovation(q: Tensor) -> Tensor:
            return variance * q + operator.jvp(at, covariance.matvec(operator.vjp(at, q)))

        q = conjugate_gradients(innovation, self.observation.residual(at), tolerance=self.tolerance)
        return denoised + covariance.matvec(operator.vjp(at, q)).to(denoised)
