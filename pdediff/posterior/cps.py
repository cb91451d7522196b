"""CPS: candidates say which way the readings lie, and the next state goes there on the kernel's sphere."""

from __future__ import annotations

import itertools
import math
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
from pdediff.types import Positive, PositiveInt, Purpose, derive_many, fold


@dataclass(frozen=True)
class CPS:
    """x_s = m + s sqrt(d) u / |u|, u = mean_i (r . (H(D_i) - mean of H)) eps_i, r = y - mean of H.

    Constrained particle seeking, Dou et al. 2026: `candidates` draws m + s eps_i of the DDPM kernel give a linear
    surrogate of H(D(x_s)) in units of the noise, u = N (its transpose) r, and the next state is the point that it
    likes best to first order in s on the sphere where draws of the kernel lie (d points; norms by N^-1).
    `repeats` > 1 re-noises it to the level before and seeks again (restarts). No derivative of anything. A search:
    the move has the length of a draw however little is left to explain, so the readings are not weighed against
    the prior, and the spread is that of the start and of the candidates. Exact for no prior.

    Good values: 32 candidates; `repeats` 1 to 5. `NumericalError` where the forward model gives no number.
    """

    candidates: PositiveInt = 32
    repeats: PositiveInt = 1
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
        x, key = gaussian_start(prior, levels[0], derive_many(seed, Purpose.START, range(n))), 0
        for level, after in itertools.pairwise(levels):
            for visit in range(self.repeats):
                if visit:
                    z = prior.noise.sample(fold(seeds, key), prior.shape, x.dtype).to(x)
                    x = x + (level**2 - after**2) ** 0.5 * z
                mean, spread = ddpm_kernel(x, denoised_rows(prior, x, level), level, after)
                eps = torch.cat(
                    list(probes(prior.noise, fold(seeds, key + 1), self.candidates, prior.shape, x.dtype)), 1
                ).to(x)
                x = mean + spread * self.direction(prior, observation, mean, spread * eps, after)
                key += 2
        x = denoised_rows(prior, x, levels[-1])
        if not bool(torch.isfinite(x).all()):
            raise NumericalError("CPS left the numbers", hint="check the forward model on prior draws")
        visits = (self.steps - 1) * self.repeats
        told = {"denoiser_calls": visits * (1.0 + self.candidates) + 1, "network_vjps": 0.0}
        return Draws.equal(x, {**told, "forward_calls": float(visits * self.candidates)})

    def direction(self, prior: Denoiser, observation: Observation, mean: Tensor, moves: Tensor, after: float) -> Tensor:
        """sqrt(d) u / |u| of each row, from what H says of D at mean + moves (batch, candidates, channel, *space)."""
        points = (mean[:, None] + moves).flatten(0, 1)
        residual = observation.white_residual(denoised_rows(prior, points, after)).double()
        residual = residual.reshape(*moves.shape[:2], -1)
        middle = residual.mean(1, keepdim=True)
        # What a candidate explains of the mean residual, H(D_i) - mean of H = middle - residual_i.
        weight = ((middle - residual) * middle).sum(2)
        u = (weight[..., None] * moves.flatten(2).double()).mean(1).reshape(mean.shape)
        norm = (u * prior.noise.covariance(prior.shape).solve(u)).flatten(1).sum(1).sqrt()
        scale = math.sqrt(math.prod(prior.shape)) / norm.clamp(min=1e-300)
        return (u * scale.reshape(-1, *[1] * (mean.dim() - 1))).to(mean)
