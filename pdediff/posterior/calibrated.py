"""Guidance by the calibrated covariance of the denoiser's error: the default; no gradient of the network."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import ClassVar

import torch
from torch import Tensor

from pdediff.diffusion import Denoiser, conjugate_gradients
from pdediff.observe import Observation
from pdediff.posterior.anchor import Anchor, Local, descend, posterior_anchor
from pdediff.posterior.base import GuidedDenoiser, levels_of
from pdediff.posterior.conditioning import Conditioning, local_update
from pdediff.posterior.seen import Seen, seen
from pdediff.types import Field, Levels, Positive, PositiveInt


@dataclass(frozen=True)
class CalibratedGuidance:
    """D_y = D + C H^T (R + H C H^T)^-1 (y - H D), C = E (x0 - D)(x0 - D)^T measured at each noise level.

    With `local`, C is diag(s) C diag(s), s the prior's measured `error_scale` at D, which moves the correction to
    where the denoiser is undecided (fronts, phase borders). Exact for a Gaussian prior with any sampler; biased where
    the prior has modes: compare with `TwistedSMC`. Linear operators with up to `dense_limit` readings use a gain
    matrix. For others D_y is the mode, argmin over z of |y - H(z)|^2_R + |z - D|^2_C, found by Newton steps that share
    one J = H'(z*) of all rows and levels, z* the mode of the posterior of the prior's two moments: one forward call
    and one VJP a step, most often one step a level, at most `newton`, until a step is below `accuracy` posterior
    standard deviations a reading. With more readings than `dense_limit`, systems are solved by conjugate gradients to
    `tolerance`, with H linearised at D. Draws from modes are those of randomised maximum likelihood where the prior is
    Gaussian and C small: close where H is nearly linear within the posterior.
    Covariance-guided denoising: Rozet et al. 2024, equation 9, with the measured error for their V.

    Good values: newton 6, accuracy 0.3. Raises NumericalError where a forward model that is not linear has no finite
    derivative at the likeliest field.
    """

    local: bool = True
    dense_limit: PositiveInt = 2048
    tolerance: Positive = 1e-6
    newton: PositiveInt = 6
    accuracy: Positive = 0.3
    exact: ClassVar[bool] = False
    linear_only: ClassVar[bool] = False
    needs_vjp: ClassVar[bool] = False

    def __call__(self, prior: Denoiser, observation: Observation) -> Denoiser:
        if len(observation.y) > self.dense_limit:
            return _IterativeGain(prior, observation, self.local, self.tolerance)
        if observation.operator.linear:
            return _DenseGain(prior, observation, self.local, seen(prior, observation))
        return _AnchoredGain(prior, observation, self.local, posterior_anchor(prior, observation)[0], self)


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
    seen: Seen

    def corrected(self, denoised: Tensor, level: float) -> Tensor:
        conditioning = self.seen.conditioning(self.prior, self.observation, level)
        scale = self.scale(denoised, level)
        residual = self.observation.residual(denoised)
        if scale is None:
            return conditioning.update(denoised, residual)
        return local_update(conditioning, denoised, residual, scale)


@dataclass(frozen=True, eq=False)
class _AnchoredGain(_Gain):
    anchor: Anchor
    method: CalibratedGuidance
    known: dict[float, Conditioning] = field(default_factory=dict)

    def conditioning(self, level: float) -> Conditioning:
        """That of the affine model at the anchor, built at first use."""
        if level not in self.known:
            self.known[level] = self.anchor.conditioning(self.observation, self.prior.error(level))
        return self.known[level]

    def corrected(self, denoised: Tensor, level: float) -> Tensor:
        at, scale = denoised.double(), self.scale(denoised, level)
        local = Local.of(self.observation, self.conditioning(level), at, None if scale is None else scale.double())
        start = local.lifted(local.weights(self.anchor.residual(self.observation.y, at)))
        found = descend(local, start, iterations=self.method.newton, tolerance=self.method.accuracy)
        return found.z.to(denoised)


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
