"""Exact posteriors of priors in closed form under linear operators: the references of everything else."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from pdediff.diffusion import (
    CosineFieldPrior,
    Denoiser,
    GaussianFieldMixturePrior,
    GaussianFieldPrior,
    GaussianMixturePrior,
    GaussianPrior,
    conjugate_gradients,
)
from pdediff.errors import ConfigError
from pdediff.observe import Observation
from pdediff.posterior.base import Draws
from pdediff.posterior.conditioning import Conditioning
from pdediff.posterior.field_mixture import FieldMixturePosterior
from pdediff.posterior.gain import need_linear
from pdediff.types import Positive, PositiveInt, Purpose, derive_many, fold


@dataclass(frozen=True)
class ExactGaussian:
    """x = x' + S H^T (R + H S H^T)^-1 (y - H x' - n'), x' ~ N(m, S), n' ~ N(0, R): Matheron draws, and log p(y).

    For `GaussianPrior`, `GaussianFieldPrior` and `CosineFieldPrior`, Gaussian errors (correlated too) and linear
    operators. Up to `dense_limit` readings by a gain matrix, which also gives the evidence; more by conjugate gradients
    in the space of the readings, where only products with H, H^T and S are formed. Source: Chiles and Delfiner 2012,
    section 7.3.

    Good values: tolerance 1e-8. `ConfigError` for any other prior, operator or law of errors.
    """

    dense_limit: PositiveInt = 2048
    tolerance: Positive = 1e-8
    exact: ClassVar[bool] = True
    linear_only: ClassVar[bool] = True

    @property
    def trace(self) -> int:
        return 0

    @torch.no_grad()
    def __call__(self, prior: Denoiser, observation: Observation, n: int, seed: int) -> Draws:
        need_linear(observation, self)
        if not isinstance(prior, GaussianPrior | GaussianFieldPrior | CosineFieldPrior):
            raise _not_closed(self, prior, "a Gaussian prior")
        white, seeds = observation.whitened(), derive_many(seed, Purpose.START, range(n))
        mean, told = prior.mean.double().expand(n, *prior.shape), {"denoiser_calls": 0.0, "network_vjps": 0.0}
        if len(observation.y) > self.dense_limit:
            covariance = prior.error(math.inf)
            free = mean + covariance.draw(fold(seeds, 0), torch.float64)
            innovation = white.residual(free) - white.noise.sample(fold(seeds, 1)).to(free)
            return Draws.equal(free + self.gain(prior, white, innovation), told)
        c = Conditioning.of(white, prior.error(math.inf), white.rows(prior.mean.double()))
        evidence = float(c.log_evidence(white.residual(mean[:1]))[0]) + log_volume(observation)
        return Draws.equal(c.draw(mean, seeds), {**told, "log_evidence": evidence})

    def gain(self, prior: Denoiser, white: Observation, residual: Tensor) -> Tensor:
        """S A^T (I + A S A^T)^-1 residual for rows residual (k, m), matrix-free; A the whitened operator."""
        at, covariance = prior.mean.double().expand(len(residual), *prior.shape), prior.error(math.inf)

        def spread(q: Tensor) -> Tensor:
            return covariance.matvec(white.operator.vjp(at, q))

        q = conjugate_gradients(
            lambda q: q + white.operator.jvp(at, spread(q)), residual, tolerance=self.tolerance, iterations=10_000
        )
        return spread(q)

    def mean(self, prior: Denoiser, observation: Observation) -> Tensor:
        """The posterior mean (channel, *space), matrix-free for any number of readings."""
        need_linear(observation, self)
        white, mean = observation.whitened(), prior.mean.double()
        return mean + self.gain(prior, white, white.residual(mean[None]))[0]


@dataclass(frozen=True)
class ExactMixture:
    """Draws of sum_k w_k N(m_k, S_k) conditioned: each component as a Gaussian, w_k times its own evidence N(y; H m_k,
    R + H S_k H^T); and log p(y), the log of the sum.

    For `GaussianMixturePrior` and `GaussianFieldMixturePrior`, linear operators and Gaussian errors. `ConfigError` for
    anything else.
    """

    exact: ClassVar[bool] = True
    linear_only: ClassVar[bool] = True

    @property
    def trace(self) -> int:
        return 0

    def posterior(self, prior: Denoiser, observation: Observation) -> tuple[GaussianMixturePrior, float]:
        """The posterior as a mixture again, and log p(y)."""
        need_linear(observation, self)
        if not isinstance(prior, GaussianMixturePrior):
            raise _not_closed(self, prior, "a Gaussian mixture prior")
        white, zero = observation.whitened(), torch.zeros_like(prior.mean)[None]
        # Against the reading of a zero field: a linear operator may have an offset.
        found, evidence = prior.condition(
            white.rows(prior.mean).flatten(1), white.residual(zero)[0], torch.eye(len(white.y)).to(prior.mean)
        )
        return found, evidence + log_volume(observation)

    @torch.no_grad()
    def __call__(self, prior: Denoiser, observation: Observation, n: int, seed: int) -> Draws:
        seeds = derive_many(seed, Purpose.START, range(n))
        if isinstance(prior, GaussianFieldMixturePrior):
            need_linear(observation, self)
            white = observation.whitened()
            components = FieldMixturePosterior.of(prior, white)
            x, evidence = components.draws(white, seeds), components.weights(white)[1] + log_volume(observation)
        else:
            found, evidence = self.posterior(prior, observation)
            x = found.sample(seeds)
        return Draws.equal(x, {"denoiser_calls": 0.0, "network_vjps": 0.0, "log_evidence": evidence})


def log_volume(observation: Observation) -> float:
    """log |det L^-1| of the whitening: what turns a density of whitened readings into one of readings."""
    m = len(observation.y)
    white = observation.noise.whitening()(torch.eye(m, dtype=torch.float64, device=observation.y.device))
    return float(torch.linalg.slogdet(white).logabsdet)


def _not_closed(method: object, prior: Denoiser, wanted: str) -> ConfigError:
    return ConfigError(
        f"{type(method).__name__} needs {wanted}, not {type(prior).__name__}",
        hint="posterior=kriging takes the Gaussian of any prior's first two moments",
    )
