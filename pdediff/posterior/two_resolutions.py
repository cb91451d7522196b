"""Two grids in one run: the large scales of a function-space prior on a coarse grid, the small ones on its own."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from pdediff.diffusion import Denoiser, FourierCovariance
from pdediff.errors import ConfigError
from pdediff.observe import Composed, CorrelatedGaussianNoise, GaussianNoise, Observation, Scaling
from pdediff.posterior.base import Draws, Guidance, independent
from pdediff.posterior.coarsening import Resampling, coarsened, noise_ratio, unseen_modes
from pdediff.posterior.gain import need_linear
from pdediff.posterior.guided_sampling import guided_start
from pdediff.posterior.keyed import Keyed
from pdediff.posterior.meter import Cost, Metered
from pdediff.samplers import Plan, Sampler, run
from pdediff.types import Fraction, Positive, PositiveInt, Purpose, Seeds, derive_many, fold

DENSE_LIMIT = 2048
"""Most readings for which the small scales are taken as correlated errors."""


@dataclass(frozen=True)
class TwoResolutions:
    """Guided sampling on a grid `factor` times coarser down to level `switch`, upsampled there, and on from that state.

    The two-resolution sampling of FunDPS (Yao et al. 2025, section 3.4) for any guidance. At the switch the modes of
    the coarse grid keep their state and the others begin as m + h + sigma eps, h ~ N(0, S) by the prior's two
    moments: for a Gaussian field the upsampled state has the law N(m, S + sigma^2 N) of the fine grid, exactly. Two
    things make the halves fit: a level s of the coarse grid is the level r s of the fine one (`noise_ratio`: 2 in two
    dimensions for white noise and factor 2), and the coarse grid takes the scales it does not see as errors of the
    readings, R + H S_small H^T (linear operators up to `dense_limit` readings of Gaussian errors; others see R, and
    the coarse half follows too closely). The published code samples the coarse grid to the end, interpolates, and
    adds fresh noise of unit spread, so the small scales start without a variance of their own. What the readings
    say of the small scales comes in below `switch` only. Levels are those of the fine grid.

    Exact where the guidance is and `switch` lies far above what the readings say of the small scales. Good values:
    switch a few times the spread of the small scales; half of the steps above. Raises ConfigError for a prior of one
    grid, and for a grid that `factor` does not divide.
    """

    guidance: Guidance
    sampler: Sampler
    factor: PositiveInt = 2
    steps: PositiveInt = 40
    coarse: Fraction = 0.5
    switch: Positive = 1.0
    sigma_max: Positive = 80.0
    sigma_min: Positive = 0.02
    exact: ClassVar[bool] = False

    @property
    def linear_only(self) -> bool:
        """As its guidance."""
        return self.guidance.linear_only

    @property
    def trace(self) -> int:
        return 0

    def __call__(self, prior: Denoiser, observation: Observation, n: int, seed: int) -> Draws:
        if self.linear_only:
            need_linear(observation, self)
        space, noise = self.space(prior), prior.noise
        small, seeds = coarsened(prior, space), derive_many(seed, Purpose.STEP, range(n))
        ratio, first = noise_ratio(noise, prior.shape, small.shape), max(1, round(self.coarse * self.steps))
        start, own = derive_many(seed, Purpose.START, range(n)), derive_many(seed, Purpose.OPTIMISER, range(n))
        coarse = Leg(small, independent(coarse_observation(prior, observation, space)), self.guidance)
        plan = self.sampler.plan(self.sampler.grid(first, self.sigma_max / ratio, self.switch / ratio))
        x = guided_start(small, coarse.observation, plan.levels[0], start)
        x, cost = coarse.run(plan, x, fold(seeds, 0), fold(own, 0), denoise_last=False)
        x = upsampled(prior, x, self.switch, fold(start, 7))
        plan = self.sampler.plan(self.sampler.grid(max(1, self.steps - first), self.switch, self.sigma_min))
        fine = Leg(prior, independent(observation), self.guidance)
        x, more = fine.run(plan, x, fold(seeds, 1), fold(own, 1), denoise_last=True)
        # A call on the coarse grid counts as one, though it costs a fraction.
        told = {"denoiser_calls": float(cost.calls + more.calls), "network_vjps": float(cost.vjps + more.vjps)}
        return Draws.equal(x, told)

    def space(self, prior: Denoiser) -> tuple[int, ...]:
        """Points of the coarse grid."""
        fine = prior.shape[1:]
        if any(points % self.factor or points < 4 * self.factor for points in fine):
            raise ConfigError(f"a grid of {fine} has no grid of at least four points {self.factor} times coarser")
        return tuple(points // self.factor for points in fine)


@dataclass(frozen=True, eq=False)
class Leg:
    """One half of the way: a guidance on one grid."""

    prior: Denoiser
    observation: Observation
    guidance: Guidance

    def run(self, plan: Plan, x: Tensor, seeds: Seeds, own: Seeds, *, denoise_last: bool) -> tuple[Tensor, Cost]:
        """The state at the end of the plan (or its estimate) and what it cost."""
        metered = Metered(self.prior, self.observation)
        guided = self.guidance(metered, self.observation)
        if isinstance(guided, Keyed):
            guided = guided.keyed(own)
        return run(plan, guided, x, seeds, denoise_last=denoise_last), metered.cost


def small_spread(prior: Denoiser, space: tuple[int, ...]) -> FourierCovariance:
    """S on the modes that the grid `space` does not have."""
    covariance = prior.error(math.inf)
    if not isinstance(covariance, FourierCovariance):
        raise ConfigError("two grids need the prior's covariance as a spectrum", hint="use posterior=fundps")
    return FourierCovariance(covariance.spectrum.double() * unseen_modes(prior.shape[1:], space))


def coarse_observation(prior: Denoiser, observation: Observation, space: tuple[int, ...]) -> Observation:
    """The observation of the coarse field: the small scales at their mean, and as errors where H is linear."""
    up, mean = Resampling((prior.shape[0], *space), prior.shape[1:]), prior.mean.double()
    offset = mean - up(Resampling(prior.shape, space)(mean[None]))[0]
    placed = Composed(Scaling(offset, torch.ones_like(offset)), up)
    operator = Composed(observation.operator, placed)  # type: ignore[arg-type]
    noise = observation.noise
    gaussian = isinstance(noise, GaussianNoise | CorrelatedGaussianNoise)
    if gaussian and observation.operator.linear and len(observation.y) <= DENSE_LIMIT:
        rows = observation.rows(mean)
        spread = rows.flatten(1) @ small_spread(prior, space).matvec(rows).flatten(1).T
        own = noise.factor @ noise.factor.T if isinstance(noise, CorrelatedGaussianNoise) else noise.std.square().diag()
        noise = CorrelatedGaussianNoise.of(own.to(spread) + 0.5 * (spread + spread.T))
    return Observation(observation.y, operator, noise)  # type: ignore[arg-type]


def upsampled(prior: Denoiser, x: Tensor, level: float, seeds: Seeds) -> Tensor:
    """The state of the fine grid at its level, from that of the coarse one: new scales as m + h + level eps."""
    space = tuple(x.shape[2:])
    down, up = Resampling(prior.shape, space), Resampling((prior.shape[0], *space), prior.shape[1:])
    drawn = small_spread(prior, space).draw(fold(seeds, 0), torch.float64).to(x)
    noise = prior.noise.sample(fold(seeds, 1), prior.shape, x.dtype).to(x)
    fresh = prior.mean.to(x) + drawn + level * noise
    return up(x) + fresh - up(down(fresh))
