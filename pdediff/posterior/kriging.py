"""Gaussian-process conditioning on the prior's mean and covariance: the best linear estimator, with its draws."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import ClassVar

from pdediff.diffusion import Denoiser
from pdediff.errors import ConfigError
from pdediff.observe import Observation
from pdediff.posterior.base import Draws, independent
from pdediff.posterior.conditioning import Conditioning
from pdediff.types import Purpose, derive_many


@dataclass(frozen=True)
class Kriging:
    """x = x' + C H^T (R + H C H^T)^-1 (y - H x' - n'), x' ~ N(mean, C): Matheron draws of the conditioned Gaussian.

    C is the prior covariance, `prior.error(inf)`, over all fields together (co-kriging). The exact posterior for a
    Gaussian prior; for any other the best linear estimate of the mean with a spread that knows nothing of modes.
    Source: Chiles and Delfiner 2012, sections 3.3 and 7.3.
    """

    exact: ClassVar[bool] = False
    linear_only: ClassVar[bool] = True

    @property
    def trace(self) -> int:
        return 0

    def __call__(self, prior: Denoiser, observation: Observation, n: int, seed: int) -> Draws:
        if not observation.operator.linear:
            raise ConfigError("Kriging needs a linear observation operator", hint="use posterior=calibrated")
        observation = independent(observation)
        c = Conditioning.of(observation, prior.error(math.inf), observation.rows(prior.mean.double()))
        mean = prior.mean.expand(n, *prior.shape)
        x = c.draw(mean, derive_many(seed, Purpose.START, range(n)))
        evidence = float(c.log_evidence(observation.residual(prior.mean[None]))[0])
        return Draws.equal(x, {"log_evidence": evidence, "denoiser_calls": 0.0, "network_vjps": 0.0})
