"""Rollover budget forcing: search along a flow made stochastic, for one good field; and that conversion."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import pairwise
from typing import ClassVar

import torch
from torch import Tensor

from pdediff.diffusion import Denoiser, broadcast
from pdediff.errors import ConfigError
from pdediff.observe import Observation
from pdediff.posterior.base import Draws
from pdediff.samplers import gaussian_start
from pdediff.types import NonNegative, Positive, PositiveInt, Purpose, Seeds, derive_many, fold


def score_from_velocity(x: Tensor, velocity: Tensor, alpha: float, sigma: float, rates: tuple[float, float]) -> Tensor:
    """Score of x = alpha x0 + sigma eps from u = E[alpha' x0 + sigma' eps | x], rates = (alpha', sigma').

    s = (alpha u - alpha' x) / (sigma (alpha' sigma - alpha sigma')); Kim et al. 2025, equation 7, for white noise.
    """
    return (alpha * velocity - rates[0] * x) / (sigma * (rates[0] * sigma - alpha * rates[1]))


def flow_velocity(prior: Denoiser, x: Tensor, t: Tensor) -> Tensor:
    """u = (x - D) / t of the rectified flow x = (1 - t) x0 + t eps, from the denoiser at sigma = t / (1 - t)."""
    time = broadcast(t, x)
    return (x - prior(x / (1 - time), t / (1 - t))) / time


def stochastic_flow_step(prior: Denoiser, x: Tensor, times: tuple[float, float], g: float, noise: Tensor) -> Tensor:
    """x + (u - g^2 / 2 N s)(t' - t) + g sqrt(t - t') noise for times t > t': Euler and Maruyama.

    Any g(t) >= 0 has the marginals of the flow, g = 0, as the steps grow (Kim et al. 2025, equation 6).
    """
    t, target = times
    velocity = flow_velocity(prior, x, torch.full((len(x),), t, dtype=x.dtype, device=x.device))
    # In the metric of the noise field: N s, which is the score for white noise.
    score = score_from_velocity(x, velocity, 1 - t, t, (-1.0, 1.0))
    return x + (velocity - 0.5 * g**2 * score) * (target - t) + g * (t - target) ** 0.5 * noise


@dataclass(frozen=True)
class RolloverBudget:
    """The best of many next states by the reward log p(y | D), with an unused quota handed on to the next step.

    From each level draw next states one by one and take the first whose reward beats the best so far; what is left of
    the quota budget / steps goes to the next level; when none beats it, the best drawn is taken. Kim et al. 2025,
    algorithm 1, on the stochastic flow with g = diffusion t^2. An optimiser and no posterior: its spread says nothing,
    and among modes it takes the one that is found first. For draws from the posterior, convert the flow and take
    `TDS`. Good values: budget 100 to 500 denoiser calls, 10 steps, diffusion 3. Rows search on their own. Raises
    ConfigError for a budget below one call a step.
    """

    budget: PositiveInt = 200
    steps: PositiveInt = 10
    diffusion: NonNegative = 3.0
    sigma_max: Positive = 80.0
    sigma_min: Positive = 0.02
    exact: ClassVar[bool] = False
    linear_only: ClassVar[bool] = False

    def __post_init__(self) -> None:
        if self.budget < self.steps:
            raise ConfigError(f"budget={self.budget} is less than one call for each of {self.steps} steps")

    @property
    def trace(self) -> int:
        return 0

    @torch.no_grad()
    def __call__(self, prior: Denoiser, observation: Observation, n: int, seed: int) -> Draws:
        times = torch.linspace(
            self.sigma_max / (1 + self.sigma_max), self.sigma_min / (1 + self.sigma_min), self.steps + 1
        ).tolist()
        x = gaussian_start(prior, self.sigma_max, derive_many(seed, Purpose.START, range(n))) * (1 - times[0])
        seeds, calls = derive_many(seed, Purpose.STEP, range(n)), 0
        best = torch.full((n,), -torch.inf, dtype=torch.float64, device=x.device)
        denoised, spare = x, torch.zeros(n, dtype=torch.long)
        for step, pair in enumerate(pairwise(times)):
            quota = spare + self.budget // self.steps
            keys = fold(seeds, step)
            x, denoised, best, used = self._search(prior, observation, x, pair, best, quota, keys)
            spare, calls = quota - used, calls + int(used.sum())
        # A search step costs the candidate's estimate; the drift from the accepted state is one call a level.
        return Draws.equal(denoised, {"denoiser_calls": calls / n + self.steps, "network_vjps": 0.0})

    def _search(
        self,
        prior: Denoiser,
        observation: Observation,
        x: Tensor,
        times: tuple[float, float],
        best: Tensor,
        quota: Tensor,
        seeds: Seeds,
    ) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """Next states, their denoised states, best rewards so far, and how many were drawn for each row."""
        zero = torch.zeros_like(x)
        g = self.diffusion * times[0] ** 2
        centre = stochastic_flow_step(prior, x, times, g, zero)
        spread = g * (times[0] - times[1]) ** 0.5
        taken, estimate, reward = centre.clone(), zero.clone(), torch.full_like(best, -torch.inf)
        used, trial = torch.zeros_like(quota), 0
        rows = torch.arange(len(x))
        while len(rows):
            keys = fold([seeds[i] for i in rows.tolist()], trial)
            drawn = centre[rows] + spread * prior.noise.sample(keys, prior.shape, x.dtype).to(x)
            level = torch.full((len(rows),), times[1] / (1 - times[1]), dtype=x.dtype, device=x.device)
            found = prior(drawn / (1 - times[1]), level)
            value = observation.log_prob(found).double()
            better = value > reward[rows]
            win = rows[better.cpu()]
            taken[win], estimate[win], reward[win] = drawn[better], found[better], value[better]
            used[rows] += 1
            trial += 1
            rows = rows[((reward[rows] <= best[rows]).cpu()) & (used[rows] < quota[rows])]
        return taken, estimate, torch.maximum(best, reward), used
