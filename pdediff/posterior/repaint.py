"""RePaint: what is known is overwritten at every level, and levels are repeated until the rest fits it."""

from __future__ import annotations

import itertools
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from pdediff.diffusion import Denoiser
from pdediff.observe import Observation
from pdediff.posterior.base import Draws
from pdediff.posterior.gain import need_linear
from pdediff.samplers import DDIM, KERNELS, STATE, Eval, Kick, Lin, Plan, gaussian_start, run, uniform_lambda
from pdediff.types import Positive, PositiveInt, Purpose, derive_many


@dataclass(frozen=True)
class RePaint:
    """x <- x + H^+ (y + sigma H z - H x) at each level, a DDPM step down, and `repeats` - 1 times up again.

    Lugmayr et al. 2022, algorithm 1, with the mask generalised to the pseudo-inverse of a linear H. The readings are
    taken as free of noise and are met exactly at the end. The overwriting treats what is seen and what is not as
    independent given the level; the repeats (re-noising from the next level to this one) repair that, slowly.

    Good values: 40 steps, 10 repeats. Raises ConfigError for nonlinear operators.
    """

    steps: PositiveInt = 40
    repeats: PositiveInt = 10
    sigma_max: Positive = 80.0
    sigma_min: Positive = 0.02
    exact: ClassVar[bool] = False
    linear_only: ClassVar[bool] = True

    @property
    def trace(self) -> int:
        return 0

    def plan(self) -> Plan:
        """Overwrite, evaluate, step down, and up again for all but the last visit of a level."""
        levels = uniform_lambda(self.sigma_max, self.sigma_min, self.steps)
        step, ops, key = DDIM(eta=1.0), [], 0
        for sigma, after in itertools.pairwise(levels):
            c_x, c_denoised, variance = step.coefficients(sigma, after)
            for visit in range(self.repeats):
                ops.append(Kick(STATE, sigma, "overwrite", (), 0, key))
                ops.append(Eval("denoised", STATE, sigma))
                ops.append(Lin(STATE, ((STATE, c_x), ("denoised", c_denoised)), variance, key + 1))
                if visit + 1 < self.repeats:
                    ops.append(Lin(STATE, ((STATE, 1.0),), (sigma - after) * (sigma + after), key + 2))
                key += 3
        return Plan(tuple(ops), tuple(levels))

    @torch.no_grad()
    def __call__(self, prior: Denoiser, observation: Observation, n: int, seed: int) -> Draws:
        need_linear(observation, self)
        known = _Known.of(observation, prior)

        def overwrite(x: Tensor, step: Kick, denoise: object, noise: object) -> Tensor:
            return known(x, step.level * noise(step.key))  # type: ignore[operator]

        plan = self.plan()
        x = gaussian_start(prior, plan.levels[0], derive_many(seed, Purpose.START, range(n)))
        seeds = derive_many(seed, Purpose.STEP, range(n))
        x = run(plan, prior, x, seeds, kernels={**KERNELS, "overwrite": overwrite}, denoise_last=True)
        calls = self.steps * self.repeats + 1
        return Draws.equal(known(x, torch.zeros_like(x)), {"denoiser_calls": float(calls), "network_vjps": 0.0})


@dataclass(frozen=True, eq=False)
class _Known:
    """H^+ by an orthonormal basis of what H sees: directions (k, d) and the values that y gives them (k,)."""

    directions: Tensor
    values: Tensor
    mean: Tensor

    @staticmethod
    def of(observation: Observation, prior: Denoiser) -> _Known:
        white, mean = observation.whitened(), prior.mean.double()
        u, s, vt = torch.linalg.svd(white.rows(mean).flatten(1), full_matrices=False)
        kept = s > 1e-10 * s[0]
        values = (white.residual(mean[None])[0] @ u[:, kept]) / s[kept]
        return _Known(vt[kept], values, mean)

    def __call__(self, x: Tensor, noise: Tensor) -> Tensor:
        """x with what is known replaced by its value plus noise."""
        offset = (x - noise - self.mean.to(x)).flatten(1).double()
        change = (self.values - offset @ self.directions.T) @ self.directions
        return x + change.reshape(x.shape).to(x)
