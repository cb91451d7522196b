"""PnP-DM: a Gibbs sampler that takes turns between the readings and the prior."""

from __future__ import annotations

import itertools
from dataclasses import dataclass, field
from typing import ClassVar

import torch
from torch import Tensor

from pdediff.diffusion import Denoiser
from pdediff.errors import ConfigError, NumericalError
from pdediff.observe import Observation
from pdediff.posterior.base import Draws
from pdediff.posterior.decoupled import Decoupled
from pdediff.posterior.guided_sampling import guided_start
from pdediff.samplers import DPMSolverPP, Sampler, run
from pdediff.types import Fraction, Positive, PositiveInt, Purpose, Seeds, derive_many, fold


@dataclass(frozen=True)
class PnPDM:
    """z ~ N(x, rho^2 N) p(y | z), then x ~ p(x0 | x0 + rho eps = z) by a stochastic sampler started at level rho.

    Wu et al. 2024, algorithm 1: Gibbs sampling of p(x) exp(-|x - z|^2 / (2 rho^2)) p(y | z). At fixed rho the law of x
    is the exact posterior of any prior with R + rho^2 H N H^T for R, if the prior step is exact and the operator
    linear; rho falls from rho_max by `decay` to rho_min, where x needs about (spread / rho)^2 iterations to forget. A
    deterministic sampler is no Gibbs step (the published image config has one) and is refused.

    Good values: rho_min half the noise of the readings seen in the field; the defaults are for a look, 100 iterations
    with decay 0.93 are published. `ConfigError` for a deterministic sampler, `NumericalError` if a draw is not finite.
    """

    sampler: Sampler = field(default_factory=lambda: DPMSolverPP(order=2, noise=1.0))
    iterations: PositiveInt = 50
    rho_max: Positive = 10.0
    rho_min: Positive = 0.1
    decay: Fraction = 0.88
    steps: PositiveInt = 10
    sigma_min: Positive = 0.02
    exact: ClassVar[bool] = False
    linear_only: ClassVar[bool] = False

    @property
    def trace(self) -> int:
        return 0

    @torch.no_grad()
    def __call__(self, prior: Denoiser, observation: Observation, n: int, seed: int) -> Draws:
        seeds, noise = derive_many(seed, Purpose.STEP, range(n)), prior.noise.covariance(prior.shape)
        inner = Decoupled.of(prior, observation, lambda rho: noise.scaled(rho**2))
        start = derive_many(seed, Purpose.START, range(n))
        x, calls = guided_start(prior, observation.whitened(), self.rho_max, start), 0
        for step, rho in enumerate(self.couplings()):
            z = inner.draw(x, rho, fold(seeds, 2 * step))
            x, cost = self.prior_draw(prior, z, rho, fold(seeds, 2 * step + 1))
            calls += cost
        if not bool(torch.isfinite(x).all()):
            raise NumericalError("PnP-DM left the numbers", hint="lower rho_max")
        return Draws.equal(x, {"denoiser_calls": float(calls), "network_vjps": 0.0})

    def couplings(self) -> list[float]:
        """rho of each iteration."""
        falling = itertools.accumulate(range(1, self.iterations), lambda rho, _: rho * self.decay, initial=self.rho_max)
        return [max(rho, self.rho_min) for rho in falling]

    def prior_draw(self, prior: Denoiser, z: Tensor, rho: float, seeds: Seeds) -> tuple[Tensor, int]:
        """x ~ p(x0 | x0 + rho eps = z), and its evaluations a row."""
        return prior_draw("PnP-DM", self.sampler, prior, z, (rho, min(self.sigma_min, rho / 10)), self.steps, seeds)


def prior_draw(
    name: str, sampler: Sampler, prior: Denoiser, z: Tensor, levels: tuple[float, float], steps: int, seeds: Seeds
) -> tuple[Tensor, int]:
    """x ~ p(x0 | x0 + rho eps = z) by steps of a stochastic sampler over levels (rho, last), and its evaluations."""
    plan = sampler.plan(sampler.grid(steps, *levels))
    if not plan.stochastic:
        raise ConfigError(f"{name} needs a stochastic sampler, {type(sampler).__name__} is not as it is set")
    return run(plan, prior, z, seeds, denoise_last=True), plan.nfe + 1
