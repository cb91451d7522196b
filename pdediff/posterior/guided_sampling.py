"""A guided denoiser under any sampler: the plain way from guidance to draws."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import ClassVar

from torch import Tensor

from pdediff.diffusion import Denoiser
from pdediff.observe import GaussianNoise, Observation
from pdediff.posterior.base import Draws, Guidance, independent
from pdediff.posterior.gain import need_linear
from pdediff.posterior.keyed import Keyed
from pdediff.posterior.meter import Metered
from pdediff.posterior.seen import seen
from pdediff.samplers import Sampler, gaussian_start, run
from pdediff.types import Positive, PositiveInt, Purpose, derive_many, fold


@dataclass(frozen=True)
class GuidedSampling:
    """Draws of `sampler` run on `guidance(prior, observation)`; the biases are those of the guidance.

    Good values: 40 steps of a second-order sampler; sigma_min a tenth of the posterior spread that matters. The last
    step returns the guided estimate at sigma_min, so that no noise is left on the draws (`denoise_last`).
    """

    guidance: Guidance
    sampler: Sampler
    steps: PositiveInt = 40
    sigma_max: Positive = 80.0
    sigma_min: Positive = 0.02
    denoise_last: bool = True
    exact: ClassVar[bool] = False

    @property
    def linear_only(self) -> bool:
        """As its guidance."""
        return self.guidance.linear_only

    @property
    def trace(self) -> int:
        return 0

    def __call__(self, prior: Denoiser, observation: Observation, n: int, seed: int) -> Draws:
        observation = independent(observation)
        if self.linear_only:
            need_linear(observation, self)
        metered = Metered(prior, observation)
        guided = self.guidance(metered, observation)
        plan = self.sampler.plan(self.sampler.grid(self.steps, self.sigma_max, self.sigma_min))
        x = guided_start(prior, observation, plan.levels[0], derive_many(seed, Purpose.START, range(n)))
        seeds = derive_many(seed, Purpose.STEP, range(n))
        if isinstance(guided, Keyed):
            guided = guided.keyed(derive_many(seed, Purpose.OPTIMISER, range(n)))
        x = run(plan, guided, x, seeds, denoise_last=self.denoise_last)
        cost = metered.cost
        return Draws.equal(x, {"denoiser_calls": float(cost.calls), "network_vjps": float(cost.vjps)})


def guided_start(prior: Denoiser, observation: Observation, sigma: float, seeds: Sequence[int]) -> Tensor:
    """Rows at level sigma from the Gaussian approximation of p(x_sigma | y).

    The unconditional start N(mean, S + sigma^2 C) would leave an error of |E[x0 | y] - mean| / sigma posterior
    standard deviations, which for smooth fields is far from nothing at sigma = 80.
    """
    if not observation.operator.linear or not isinstance(observation.noise, GaussianNoise):
        return gaussian_start(prior, sigma, seeds)
    conditioning = seen(prior, observation).conditioning(prior, observation, math.inf)
    clean = replace(conditioning, observation=observation).draw(
        prior.mean.expand(len(seeds), *prior.shape), fold(seeds, 0)
    )
    return clean + sigma * prior.noise.sample(fold(seeds, 2), prior.shape, prior.dtype).to(prior.device)
