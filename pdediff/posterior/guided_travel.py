"""Guided sampling by the published steps of image restoration: a fixed share of fresh noise, and time travel."""

from __future__ import annotations

import itertools
from dataclasses import dataclass
from typing import ClassVar

from pdediff.diffusion import Denoiser
from pdediff.observe import Observation
from pdediff.posterior.base import Draws, Guidance, independent
from pdediff.posterior.gain import need_linear
from pdediff.posterior.guided_sampling import guided_start
from pdediff.posterior.keyed import Keyed
from pdediff.posterior.meter import Metered
from pdediff.samplers import STATE, Eval, Lin, Plan, run, uniform_lambda
from pdediff.types import Fraction, Positive, PositiveInt, Purpose, derive_many


@dataclass(frozen=True)
class GuidedTravel:
    """x_s = D_y + s (sqrt(1 - share) (x_t - D_y) / t + sqrt(share) z), and and back in time.

    DiffPIR (Zhu et al. 2023, algorithm 1, share = zeta) and, with time travel (`repeats` - 1 times re-noised by the
    exact forward kernel from the end of a block of `length` steps to its start), DDNM (Wang et al. 2023, algorithm 2,
    share = eta^2), for any guidance. The share is of the whole noise of a level and not, as in `DDIM`, of what an
    ancestral step adds: where the guidance is exact for a Gaussian, many steps end with (1 + sqrt(1 - share)) / 2 of
    its covariance, few with less. share = 0 is the flow, exact where the guidance is, as steps grow, with any travel;
    travel lets a guidance that treats what is seen and unseen as independent settle, at the price of its own bias.
    DDNM's code keeps the network's noise (x_t - D) / t instead of that of D_y.

    Good values: share 0.1 to 1 with 20 to 100 steps; length 1 to 10, repeats 1 to 5.
    """

    guidance: Guidance
    steps: PositiveInt = 40
    share: Fraction = 0.7225
    length: PositiveInt = 1
    repeats: PositiveInt = 1
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

    def plan(self) -> Plan:
        """Blocks of steps down, each but its last visit followed by one jump up."""
        levels = uniform_lambda(self.sigma_max, self.sigma_min, self.steps)
        pairs, ops, key = list(itertools.pairwise(levels)), [], 0
        for first in range(0, len(pairs), self.length):
            block = pairs[first : first + self.length]
            for visit in range(self.repeats):
                for sigma, after in block:
                    c_x = (1 - self.share) ** 0.5 * after / sigma
                    ops.append(Eval("denoised", STATE, sigma))
                    terms = ((STATE, c_x), ("denoised", 1 - c_x))
                    ops.append(Lin(STATE, terms, self.share * after**2, key))
                    key += 1
                if visit + 1 < self.repeats:
                    top, bottom = block[0][0], block[-1][1]
                    ops.append(Lin(STATE, ((STATE, 1.0),), (top - bottom) * (top + bottom), key))
                    key += 1
        return Plan(tuple(ops), tuple(levels))

    def __call__(self, prior: Denoiser, observation: Observation, n: int, seed: int) -> Draws:
        observation = independent(observation)
        if self.linear_only:
            need_linear(observation, self)
        metered, plan = Metered(prior, observation), self.plan()
        guided = self.guidance(metered, observation)
        if isinstance(guided, Keyed):
            guided = guided.keyed(derive_many(seed, Purpose.OPTIMISER, range(n)))
        x = guided_start(prior, observation, plan.levels[0], derive_many(seed, Purpose.START, range(n)))
        seeds = derive_many(seed, Purpose.STEP, range(n))
        x = run(plan, guided, x, seeds, denoise_last=self.denoise_last)
        cost = metered.cost
        return Draws.equal(x, {"denoiser_calls": float(cost.calls), "network_vjps": float(cost.vjps)})
