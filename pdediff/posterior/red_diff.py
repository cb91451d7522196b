"""RED-Diff: a mode of the posterior by stochastic optimisation against the denoiser."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import ClassVar

import torch

from pdediff.diffusion import Denoiser
from pdediff.errors import NumericalError
from pdediff.observe import Observation
from pdediff.posterior.base import Draws
from pdediff.types import Positive, PositiveInt, Purpose, derive_many, fold


@dataclass(frozen=True)
class REDDiff:
    """Adam on mu with gradient -H^T R^-1 (y - H mu) scale^2 + weight (mu - D(mu + sigma eps)), sigma falling.

    The variational objective of Mardani et al. 2023 (equation 9) with their weighting by the inverse signal-to-noise
    ratio, which in the frame x0 + sigma eps is weight * (mu - D). `scale` is the standard deviation of the readings'
    noise in units of the normalised field that makes the two terms comparable. A mode finder: the spread over seeds
    is optimiser noise and must not be read as uncertainty.
    """

    steps: PositiveInt = 300
    learning_rate: Positive = 0.1
    weight: Positive = 0.25
    scale: Positive = 0.05
    sigma_max: Positive = 80.0
    sigma_min: Positive = 0.02
    exact: ClassVar[bool] = False
    linear_only: ClassVar[bool] = False

    @property
    def trace(self) -> int:
        return 0

    @torch.no_grad()
    def __call__(self, prior: Denoiser, observation: Observation, n: int, seed: int) -> Draws:
        seeds = derive_many(seed, Purpose.OPTIMISER, range(n))
        start = prior.noise.sample(fold(seeds, 0), prior.shape, prior.dtype).to(prior.device)
        mu = (prior.mean + 0.1 * start).contiguous()
        optimiser = torch.optim.Adam([mu], lr=self.learning_rate, betas=(0.9, 0.99))
        ratio = math.log(self.sigma_min / self.sigma_max)
        for step in range(self.steps):
            sigma = self.sigma_max * math.exp(ratio * step / max(self.steps - 1, 1))
            eps = prior.noise.sample(fold(seeds, step + 1), prior.shape, prior.dtype).to(mu)
            denoised = prior(mu + sigma * eps, torch.full((n,), sigma, dtype=mu.dtype, device=mu.device))
            mu.grad = self.gradient(mu, denoised, observation)
            optimiser.step()
        if not bool(torch.isfinite(mu).all()):
            raise NumericalError(f"RED-Diff diverged within {self.steps} steps", hint="lower learning_rate")
        return Draws.equal(mu, {"denoiser_calls": float(self.steps), "network_vjps": 0.0})

    def gradient(self, mu: torch.Tensor, denoised: torch.Tensor, observation: Observation) -> torch.Tensor:
        """The descent direction at mu for one denoised noisy copy of it."""
        white = observation.residual(mu) / observation.noise.std.to(mu) ** 2
        return self.weight * (mu - denoised) - self.scale**2 * observation.operator.vjp(mu, white)
