"""RED-Diff in the metric of the measured error: a mode without tuning, or particles whose spread means something."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from pdediff.diffusion import Denoiser
from pdediff.errors import NumericalError
from pdediff.observe import Observation
from pdediff.posterior.base import Draws
from pdediff.posterior.decoupled import Decoupled
from pdediff.samplers import uniform_lambda
from pdediff.types import Fraction, Positive, PositiveInt, Purpose, Seeds, derive_many, fold


@dataclass(frozen=True)
class WhitenedREDDiff:
    """mu <- mu + r (D_y - mu) + sqrt(2 r) e, D_y = D + C H^T (R + H C H^T)^-1 (y - H D), e ~ N(0, P), sigma falling.

    D is the mean of the denoised mu + sigma eps and mu - sigma eps, C its measured error at sigma, and P = (C^-1 + H^T
    R^-1 H)^-1. The gradient of RED-Diff (Mardani et al. 2023, equation 9) with C^-1 (mu - D) for weight * (mu - D) is
    H^T R^-1 (H mu - y) + S^-1 (mu - m) for every Gaussian prior at every level, so the fixed point is the posterior
    mean and no weight is left to tune; P times it is the step, which no conditioning of H or S slows down. With
    `particles` the step is a Langevin step in the metric P and the rows are an ensemble: variance 1 / (1 - r / 2) of
    the posterior's at most. Without, e = 0: a mode finder. Two evaluations a step.

    Good values: rate 0.1, 100 steps. `NumericalError` if mu is not finite in the end.
    """

    particles: bool = True
    rate: Fraction = 0.1
    steps: PositiveInt = 100
    sigma_max: Positive = 80.0
    sigma_min: Positive = 0.02
    exact: ClassVar[bool] = False
    linear_only: ClassVar[bool] = False

    @property
    def trace(self) -> int:
        return 0

    @torch.no_grad()
    def __call__(self, prior: Denoiser, observation: Observation, n: int, seed: int) -> Draws:
        seeds, inner = derive_many(seed, Purpose.OPTIMISER, range(n)), Decoupled.of(prior, observation, prior.error)
        mu = prior.mean + prior.error(math.inf).draw(fold(seeds, 0), prior.dtype)
        for step, level in enumerate(uniform_lambda(self.sigma_max, self.sigma_min, max(self.steps - 1, 1))):
            mu = self.moved(prior, inner, mu, level, fold(seeds, step + 1))
        if not bool(torch.isfinite(mu).all()):
            raise NumericalError(f"RED-Diff diverged within {self.steps} steps", hint="lower rate")
        return Draws.equal(mu, {"denoiser_calls": 2.0 * self.steps, "network_vjps": 0.0})

    def moved(self, prior: Denoiser, inner: Decoupled, mu: Tensor, level: float, seeds: Seeds) -> Tensor:
        """One step at one level."""
        eps = level * prior.noise.sample(fold(seeds, 0), prior.shape, prior.dtype).to(mu)
        at = torch.full((len(mu),), level, dtype=mu.dtype, device=mu.device)
        # Both signs: for a Gaussian prior the noise of eps cancels, for others its first order does.
        denoised = 0.5 * (prior(mu + eps, at) + prior(mu - eps, at))
        estimate = inner.mean(denoised, level)
        moved = mu + self.rate * (estimate - mu)
        if not self.particles:
            return moved
        return moved + (2 * self.rate) ** 0.5 * (inner.draw(denoised, level, fold(seeds, 1)) - estimate)
