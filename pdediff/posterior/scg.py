"""SCG: at each step several next states, of which the one whose estimate fits best goes on; forward calls only."""

from __future__ import annotations

import itertools
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from pdediff.diffusion import Denoiser
from pdediff.errors import NumericalError
from pdediff.observe import Observation
from pdediff.posterior.base import Draws
from pdediff.posterior.probes import ddpm_kernel, denoised_rows, probes
from pdediff.samplers import edm_grid, gaussian_start
from pdediff.types import Fraction, Positive, PositiveInt, Purpose, Seeds, derive_many, fold


@dataclass(frozen=True)
class SCG:
    """x_s = argmax_i log p(y | D(x_i)) over `candidates` draws x_i of the DDPM kernel from x_t.

    Stochastic control guidance, Huang et al. 2024 (rule-guided music), algorithm 1. The first `unguided` part of the
    steps takes one draw; the end is D at sigma_min. No derivative of anything: black boxes, and any law of noise. One
    candidate is the prior, many are a greedy search: no number of them gives the posterior, and the best of n
    candidates is closer to the readings than the kernel allows. The published benchmark code jumps to D at the step
    between its two phases; here there is no such step.

    Good values: 16 candidates for tens of readings; published are 512 with 1000 steps. `NumericalError` where the
    forward model gives no number for any candidate.
    """

    candidates: PositiveInt = 16
    unguided: Fraction = 0.25
    steps: PositiveInt = 40
    sigma_max: Positive = 80.0
    sigma_min: Positive = 0.02
    exact: ClassVar[bool] = False
    linear_only: ClassVar[bool] = False

    @property
    def trace(self) -> int:
        return 0

    @torch.no_grad()
    def __call__(self, prior: Denoiser, observation: Observation, n: int, seed: int) -> Draws:
        seeds = derive_many(seed, Purpose.STEP, range(n))
        levels = edm_grid(self.sigma_max, self.sigma_min, self.steps - 1) if self.steps > 1 else [self.sigma_max]
        x = gaussian_start(prior, levels[0], derive_many(seed, Purpose.START, range(n)))
        denoised, calls, forward = denoised_rows(prior, x, levels[0]), 1, 0
        for step, (level, after) in enumerate(itertools.pairwise(levels)):
            count = 1 if step < int(self.unguided * self.steps) else self.candidates
            x, denoised = best_next(prior, observation, (x, denoised), (level, after), count, fold(seeds, step))
            calls, forward = calls + count, forward + (count if count > 1 else 0)
        if not bool(torch.isfinite(denoised).all()):
            raise NumericalError("SCG left the numbers", hint="check the forward model on prior draws")
        told = {"denoiser_calls": float(calls), "network_vjps": 0.0, "forward_calls": float(forward)}
        return Draws.equal(denoised, told)


def best_next(
    prior: Denoiser,
    observation: Observation,
    now: tuple[Tensor, Tensor],
    levels: tuple[float, float],
    count: int,
    seeds: Seeds,
) -> tuple[Tensor, Tensor]:
    """The likeliest of `count` next states of each row, with its D; `now` is the state with its D."""
    mean, spread = ddpm_kernel(*now, *levels)
    x, denoised = mean, now[1]
    best = torch.full((len(mean),), -torch.inf, dtype=torch.float64, device=mean.device)
    row = torch.arange(len(mean), device=mean.device)
    for z in probes(prior.noise, seeds, count, prior.shape, mean.dtype):
        moved = mean[:, None] + spread * z.to(mean)
        found = denoised_rows(prior, moved.flatten(0, 1), levels[1]).reshape(moved.shape)
        if count == 1:
            return moved[:, 0], found[:, 0]
        fit = observation.log_prob(found.flatten(0, 1)).double().reshape(moved.shape[:2])
        fit = fit.where(torch.isfinite(fit), torch.full_like(fit, -torch.inf))
        top, index = fit.max(1)
        better = (top > best).reshape(-1, *[1] * (mean.dim() - 1))
        x, denoised = x.where(~better, moved[row, index]), denoised.where(~better, found[row, index])
        best = torch.maximum(best, top)
    if bool(torch.isneginf(best).any()):
        raise NumericalError(
            "the forward model gave no number for any candidate", hint="check the forward model on prior draws"
        )
    return x, denoised
