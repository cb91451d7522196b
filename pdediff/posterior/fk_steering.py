"""Feynman-Kac steering: any reward at the denoised state as potential, unguided moves, no gradient of anything."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import ClassVar, Literal

import torch
from torch import Tensor

from pdediff.diffusion import Denoiser
from pdediff.observe import Observation
from pdediff.posterior.base import Draws
from pdediff.posterior.collectors import State
from pdediff.posterior.island import Island
from pdediff.samplers import edm_grid, gaussian_start
from pdediff.types import Positive, PositiveInt, Seeds

Reward = Callable[[Tensor], Tensor]
"""From fields (batch, channel, *space) to rewards (batch,)."""
PotentialName = Literal["difference", "max", "sum"]


@dataclass(frozen=True)
class FKSteering:
    """Particles of the DDPM chain weighed by exp(strength (r(D_s) - r(D_t))) every `every` steps, r = log p(y | .).

    "difference" as above; "max" exp(strength max of r so far) and "sum" exp(strength sum of r so far) instead; the
    last potential makes the product exp(strength r(x0)), x0 = D. Singhal et al. 2025, algorithm 1 and table 1. The
    increment is kept when the particles are not resampled, so any threshold gives the same law (the published class
    moves its reference on and loses it). Nothing guides the moves: with precise readings all particles miss and the
    weights collapse. Good values: strength 1 for the posterior, potential "difference", every fifth of the steps,
    readings with noise of the order of the prior's spread.
    """

    potential: PotentialName = "difference"
    strength: Positive = 1.0
    every: PositiveInt = 8
    island: Island = field(default_factory=Island)
    steps: PositiveInt = 64
    sigma_max: Positive = 80.0
    sigma_min: Positive = 0.02
    exact: ClassVar[bool] = True
    linear_only: ClassVar[bool] = False

    @property
    def trace(self) -> int:
        return self.steps + 1

    def chain(self, prior: Denoiser, reward: Reward) -> SteeredChain:
        """The Feynman-Kac model for any reward, for runs of its own."""
        levels = (*edm_grid(self.sigma_max, self.sigma_min, self.steps - 1), 0.0)
        return SteeredChain(prior, reward, levels, self.potential, self.strength, self.every)

    @torch.no_grad()
    def __call__(self, prior: Denoiser, observation: Observation, n: int, seed: int) -> Draws:
        return self.island.draws(self.chain(prior, observation.log_prob), n, seed, calls=self.steps)


@dataclass(frozen=True, eq=False)
class SteeredChain:
    """The model of `FKSteering`; state (x, D, reward statistic, log of all potentials so far)."""

    prior: Denoiser
    reward: Reward
    levels: tuple[float, ...]
    potential: PotentialName
    strength: float
    every: int

    @property
    def steps(self) -> int:
        return len(self.levels) - 1

    def start(self, seeds: Seeds) -> tuple[State, Tensor]:
        x = gaussian_start(self.prior, self.levels[0], seeds)
        denoised = self._denoised(x, self.levels[0])
        reward = self.strength * self.reward(denoised).double()
        return (x, denoised, reward, reward), reward

    def move(self, state: State, step: int, seeds: Seeds) -> tuple[State, Tensor]:
        x, denoised, statistic, paid = state
        sigma, target = self.levels[step], self.levels[step + 1]
        if target == 0.0:
            # Whatever was paid on the way, in all it is exp(strength r(x0)).
            last = self.strength * self.reward(denoised).double() - paid
            return (denoised, denoised, statistic, paid + last), last
        keep = (target / sigma) ** 2
        noise = self.prior.noise.sample(seeds, self.prior.shape, x.dtype).to(x)
        moved = keep * x + (1 - keep) * denoised + target * (1 - keep) ** 0.5 * noise
        after = self._denoised(moved, target)
        if (step + 1) % self.every:
            return (moved, after, statistic, paid), torch.zeros_like(paid)
        reward = self.strength * self.reward(after).double()
        if self.potential == "difference":
            return (moved, after, reward, paid + reward - statistic), reward - statistic
        statistic = torch.maximum(statistic, reward) if self.potential == "max" else statistic + reward
        return (moved, after, statistic, paid + statistic), statistic

    def _denoised(self, x: Tensor, sigma: float) -> Tensor:
        return self.prior(x, torch.full((len(x),), sigma, dtype=x.dtype, device=x.device))
