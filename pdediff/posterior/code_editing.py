"""CODE: a corrupted field is taken up the flow, made likelier there, and brought down again."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from pdediff.diffusion import Denoiser
from pdediff.observe import Observation
from pdediff.posterior.base import Draws
from pdediff.posterior.gain import need_linear
from pdediff.samplers import STATE, DPMSolverPP, Eval, Lin, Plan, inverse_plan, run
from pdediff.types import NonNegativeInt, Positive, PositiveInt, Purpose, derive_many


@dataclass(frozen=True)
class CODE:
    """Up the probability flow to `level`, `langevin` steps there, a clamp, and down again.

    Confident ordinary differential editing, van Delft et al. 2024: blind restoration of a field that a surrogate or a
    bad instrument gave; how deep to go (`level`) and how much to change (`langevin`) are apart. A Langevin step is
    x + r (D - x) + sqrt(2 r) level z; the clamp keeps x within `confidence` standard deviations of its Gaussian law,
    point by point. The field is what the readings say and the prior mean where they say nothing, so H should see
    nearly everything. No posterior is defined: without Langevin steps and clamp the input comes back, with many it is
    forgotten. The noise of the readings is not used.

    Good values: level 0.2 to 1 field standard deviations, 0 to 10 Langevin steps of r = 0.1. Raises ConfigError for
    nonlinear operators.
    """

    level: Positive = 0.5
    langevin: NonNegativeInt = 5
    r: Positive = 0.1
    confidence: Positive = 4.0
    steps: PositiveInt = 20
    sigma_min: Positive = 0.02
    exact: ClassVar[bool] = False
    linear_only: ClassVar[bool] = True

    @property
    def trace(self) -> int:
        return 0

    @torch.no_grad()
    def __call__(self, prior: Denoiser, observation: Observation, n: int, seed: int) -> Draws:
        need_linear(observation, self)
        sampler = DPMSolverPP()
        levels = sampler.grid(max(self.steps, sampler.order), self.level, self.sigma_min)
        up, down = inverse_plan(sampler, levels), sampler.plan(levels)
        seeds = derive_many(seed, Purpose.STEP, range(n))
        x = _seen(prior, observation).to(prior.dtype).expand(n, *prior.shape)
        x = run(up, prior, x, seeds)
        if self.langevin:
            x = run(self.corrections(), prior, x, seeds)
        x = run(down, prior, self.clamped(prior, x), seeds)
        calls = up.nfe + self.langevin + down.nfe
        return Draws.equal(x, {"denoiser_calls": float(calls), "network_vjps": 0.0})

    def corrections(self) -> Plan:
        """The Langevin steps."""
        ops: list[Eval | Lin] = []
        for key in range(self.langevin):
            ops.append(Eval("denoised", STATE, self.level))
            ops.append(Lin(STATE, ((STATE, 1 - self.r), ("denoised", self.r)), 2 * self.r * self.level**2, key))
        return Plan(tuple(ops), (self.level,))

    def clamped(self, prior: Denoiser, x: Tensor) -> Tensor:
        """x within `confidence` standard deviations of the Gaussian that the prior is at this level."""
        variance = prior.error(math.inf).diagonal().to(x) + self.level**2 * prior.noise.covariance(
            prior.shape
        ).diagonal().to(x)
        spread, mean = self.confidence * variance.sqrt().reshape(prior.shape), prior.mean.to(x)
        return torch.minimum(torch.maximum(x, mean - spread), mean + spread)


def _seen(prior: Denoiser, observation: Observation) -> Tensor:
    """The field nearest to the prior mean that explains the readings, (1, channel, *space), float64."""
    mean = prior.mean.double()[None]
    rows = observation.rows(prior.mean.double()).flatten(1)
    change = observation.residual(mean) @ torch.linalg.pinv(rows).T
    return mean + change.reshape(mean.shape)
