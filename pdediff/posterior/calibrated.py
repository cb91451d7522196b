"""Guidance by the calibrated covariance of the denoiser's error: the default; no gradient of the network."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import ClassVar

import torch
from torch import Tensor

from pdediff.diffusion import Denoiser, conjugate_gradients
from pdediff.observe import Observation
from pdediff.posterior.base import GuidedDenoiser, levels_of
from pdediff.posterior.conditioning import Conditioning, local_update
from pdediff.types import Field, Levels, Positive, PositiveInt


@dataclass(frozen=True)
class CalibratedGuidance:
    """D_y = D + C H^T (R + H C H^T)^-1 (y - H D), C = E (x0 - D)(x0 - D)^T measured at each noise level.

    With `local`, C is diag(s) C diag(s), s the prior's measured `error_scale` at D, which moves the correction to
    where the denoiser is undecided (fronts, phase borders). Exact for a Gaussian prior with any sampler; biased where
    the prior has modes: compare with `TwistedSMC`. Linear operators with up to `dense_limit` readings use a gain
    matrix; others are linearised at D (Gauss-Newton) and solved by conjugate gradients to `tolerance`.
    Covariance-guided denoising: Rozet et al. 2024, equation 9, with the measured error for their V.
    """

    local: bool = True

    dense_limit: PositiveInt = 2048
    tolerance: Positive = 1e-6
    exact: ClassVar[bool] = False
    linear_only: ClassVar[bool] = False
    needs_vjp: ClassVar[bool] = False

    def __call__(self, prior: Denoiser, observation: Observation) -> Denoiser:
        if observation.operator.linear and len(observation.y) <= self.dense_limit:
            rows = observation.rows(prior.mean.double())
            return _DenseGain(prior, observation, self.local, rows)
        return _IterativeGain(prior, observation, self.local, self.tolerance)


@dataclass(frozen=True, eq=False)
class _Gain(GuidedDenoiser):
    local: bool

    def __call__(self, x: Field, sigma: Levels) -> Field:
        denoised = self.prior(x, sigma)
        level = levels_of(sigma)
        if level is not None:
            return self.corrected(denoised, level)
        pairs = zip(denoised, sigma, strict=True)
        return torch.cat([self.corrected(d[None], float(s)) for d, s in pairs])

    def scale(self, denoised: Tensor, level: float) -> Tensor | None:
        """Pointwise factors of the error, None for those of the average."""
        return self.prior.error_scale(denoised, level) if self.local else None

    def corrected(self, denoised: Tensor, level: float) -> Tensor:
        """Denoised rows, all of one level, moved towards the readings."""
        raise TypeError("a gain defines its own correction")


@dataclass(frozen=True, eq=False)
class _DenseGain(_Gain):
    rows: Tensor
    gains: dict[float, Conditioning] = field(default_factory=dict)

    def conditioning(self, level: float) -> Conditioning:
        """The conditioning of one level, built at first use."""
        if level not in self.gains:
            self.gains[level] = Conditioning.of(self.observation, self.prior.error(level), self.rows)
        return self.gains[level]

    def corrected(self, denoised: Tensor, level: float) -> Tensor:
        conditioning, scale = self.conditioning(level), self.scale(denoised, level)
        residual = self.observation.residual(denoised)
        if scale is None:
            return conditioning.update(denoised, residual)
        return local_update(conditioning, denoised, residual, scale)


@dataclass(frozen=True, eq=False)
class _IterativeGain(_Gain):
    tolerance: float

    def corrected(self, denoised: Tensor, level: float) -> Tensor:
        # The solve runs in float64: in float32 its residual stalls above the tolerance when the noise is small.
        at, covariance, operator = denoised.double(), self.prior.error(level), self.observation.operator
        variance = self.observation.noise.std.to(at) ** 2
        given = self.scale(denoised, level)
        scale = torch.ones_like(at) if given is None else given.double()

        def spread(q: Tensor) -> Tensor:
            return scale * covariance.matvec(scale * operator.vjp(at, q))

        def innovation(q: Tensor) -> Tensor:
            return variance * q + operator.jvp(at, spread(q))

        q = conjugate_gradients(innovation, self.observation.residual(at), tolerance=self.tolerance)
        return denoised + spread(q).to(denoised)
