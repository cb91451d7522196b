"""LGD-MC: the likelihood averaged over draws around the estimate."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import ClassVar, Literal

import torch
from torch import Tensor

from pdediff.diffusion import Denoiser, broadcast
from pdediff.observe import Observation
from pdediff.posterior.base import GuidedDenoiser
from pdediff.posterior.gain import score_gradient
from pdediff.posterior.keyed import row_seeds
from pdediff.types import Field, Levels, Positive, PositiveInt, Seeds, fold


@dataclass(frozen=True)
class LGD:
    """D_y = D + sigma^2 N grad_x log mean_i exp(-l(D + r eps_i)), l = |R^-1/2 (y - H .)|^2 / 2, eps_i ~ N(0, N).

    Loss-guided diffusion, Song et al. 2023 (ICML), equation 8, r^2 = s^2 sigma^2 / (s^2 + sigma^2), with `draws` draws
    for each row from the row's own seed. `average` "log_mean_exp" is that; "mean_loss" is the common code: DPS with the
    mean of the losses in place of one, D - strength (1 + sigma^2) N grad_x sqrt(mean_i 2 l_i), which for a linear H is
    DPS with a damped step (the noise in the loss adds to the norm). The first tends to `PiGDM` ("flat") for many draws
    and a linear H, with a variance that explodes where |H r eps| is far above the noise. One gradient of the network.

    Good values: 8 to 64 draws, "mean_loss" with the strength of DPS.
    """

    draws: PositiveInt = 8
    average: Literal["log_mean_exp", "mean_loss"] = "mean_loss"
    strength: Positive = 0.3
    s: Positive = 1.0
    exact: ClassVar[bool] = False
    linear_only: ClassVar[bool] = False
    needs_vjp: ClassVar[bool] = True

    def __call__(self, prior: Denoiser, observation: Observation) -> Denoiser:
        return _Guided(prior, observation, self)


@dataclass(frozen=True, eq=False)
class _Guided(GuidedDenoiser):
    method: LGD
    seeds: Seeds | None = None

    def keyed(self, seeds: Sequence[int]) -> Denoiser:
        """Row i draws from seeds[i]."""
        return replace(self, seeds=tuple(seeds))

    def __call__(self, x: Field, sigma: Levels) -> Field:
        spread = self.scattered(sigma).to(x)
        if self.method.average == "log_mean_exp":
            denoised, gradient = score_gradient(self.prior, x, sigma, lambda d: self.log_mean(d, spread))
            return denoised + broadcast(sigma, x) ** 2 * gradient
        denoised, gradient = score_gradient(self.prior, x, sigma, lambda d: self.root_mean(d, spread))
        return denoised - self.method.strength * (1 + broadcast(sigma, x) ** 2) * gradient

    def scattered(self, sigma: Levels) -> Tensor:
        """r eps_i, (batch, draws, channel, *space): draws of its own for every row."""
        seeds, s = row_seeds(self.seeds, sigma), self.method.s
        parts = [self.noise.sample(fold(seeds, draw), self.shape, self.dtype) for draw in range(self.method.draws)]
        r = s * sigma / (s**2 + sigma**2).sqrt()
        return torch.stack(parts, 1).to(self.device) * r.to(self.dtype).reshape(-1, *[1] * (len(self.shape) + 1))

    def losses(self, denoised: Field, spread: Tensor) -> Tensor:
        """2 l_i of each draw of each row, (batch, draws)."""
        points = (denoised[:, None] + spread).flatten(0, 1)
        return self.observation.white_residual(points).square().sum(1).reshape(len(denoised), -1)

    def log_mean(self, denoised: Field, spread: Tensor) -> Tensor:
        return (-0.5 * self.losses(denoised, spread)).logsumexp(1) - math.log(self.method.draws)

    def root_mean(self, denoised: Field, spread: Tensor) -> Tensor:
        return self.losses(denoised, spread).mean(1).sqrt()
