"""SuperDiff: several diffusion models in one run, combined by their densities, which are tracked along the path."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Literal

import torch
from torch import Tensor

from pdediff.diffusion import Denoiser
from pdediff.errors import ConfigError
from pdediff.samplers import uniform_lambda
from pdediff.types import Positive, PositiveInt, Purpose, derive_many, fold


@dataclass(frozen=True, eq=False)
class Superposed:
    """Fields (n, channel, *space) and the tracked log densities (n, models), for coloured noise up to one constant."""

    x: Tensor
    log_densities: Tensor


@dataclass(frozen=True)
class SuperDiff:
    """dx = N sum kappa_i s_i dv + sqrt(dv) N^1/2 dW, v = sigma^2 falling, with the log densities along the path

        d log q_i = <s_i, dx> - |s_i|^2 dv / 2     (no divergence; Skreta et al. 2024, theorem 1)

    "or": kappa = softmax(temperature log q_i + log share), whose law is the mixture of the models with those shares at
    temperature 1, exactly as steps grow. "and": the kappa that makes all d log q_i equal, noise included, which for
    two models is the average score with the noise projected off their difference. "and" is a heuristic: its law is
    not the product of the models (take `WeightedSDE` with powers (1, 1)), and because kappa depends on the noise its
    log densities miss the curvature along the projected direction, some nats that no number of steps takes away;
    that they are equal is all they say. Good values: 1000 steps for densities to 0.3 nats in two dimensions (the error
    falls like 1 / sqrt(steps)). Raises ConfigError for fewer than two models or shares that do not fit.
    """

    mode: Literal["or", "and"] = "or"
    temperature: Positive = 1.0
    steps: PositiveInt = 500
    sigma_max: Positive = 80.0
    sigma_min: Positive = 0.02

    @torch.no_grad()
    def __call__(
        self, priors: Sequence[Denoiser], n: int, seed: int, shares: Sequence[float] | None = None
    ) -> Superposed:
        share = torch.tensor([1.0] * len(priors) if shares is None else list(shares), dtype=torch.float64)
        if len(priors) < 2 or len(share) != len(priors) or not bool((share > 0).all()):
            raise ConfigError(f"SuperDiff needs two models or more and a positive share for each, got {len(priors)}")
        first = priors[0]
        levels = uniform_lambda(self.sigma_max, self.sigma_min, self.steps)
        seeds = derive_many(seed, Purpose.STEP, range(n))
        x, log_q = self._start(priors, share, seeds)
        for step, (sigma, target) in enumerate(pairwise(levels)):
            fall = sigma**2 - target**2
            offsets = self._offsets(priors, x, sigma)
            noise = first.noise.sample(fold(seeds, step + 1), first.shape, x.dtype).to(x)
            change = self._change(priors, offsets / sigma**2, log_q + share.log().to(log_q), fall, noise)
            # s_i = N^-1 offset_i / sigma^2: the products need one solve for all models.
            white = self._white(priors, offsets) / sigma**2
            log_q = log_q + _products(white, change[None]) - 0.5 * fall * _products(white, offsets / sigma**2)
            x = x + change
        offsets = self._offsets(priors, x, levels[-1])
        kappa = (self.temperature * (log_q + share.log().to(log_q))).softmax(1)
        last = _weighted(kappa, offsets) if self.mode == "or" else offsets.mean(0)
        return Superposed(x + last, log_q)

    def _start(self, priors: Sequence[Denoiser], share: Tensor, seeds: Sequence[int]) -> tuple[Tensor, Tensor]:
        """Noise around the models' mean, which at sigma_max is nearly a draw from each, and its log densities."""
        first = priors[0]
        mean = torch.tensordot((share / share.sum()).to(first.mean), torch.stack([p.mean for p in priors]), dims=1)
        x = mean + self.sigma_max * first.noise.sample(fold(seeds, 0), first.shape, first.dtype).to(mean)
        away = torch.stack([x - p.mean for p in priors])
        constant = 0.5 * x[0].numel() * math.log(2 * math.pi * self.sigma_max**2)
        return x, -0.5 * _products(self._white(priors, away), away) / self.sigma_max**2 - constant

    def _offsets(self, priors: Sequence[Denoiser], x: Tensor, sigma: float) -> Tensor:
        """D_i - x (models, n, ...)."""
        levels = torch.full((len(x),), sigma, dtype=x.dtype, device=x.device)
        return torch.stack([prior(x, levels) - x for prior in priors])

    def _white(self, priors: Sequence[Denoiser], v: Tensor) -> Tensor:
        noise = priors[0].noise.covariance(priors[0].shape)
        return noise.solve(v.flatten(0, 1)).reshape(v.shape)

    def _change(self, priors: Sequence[Denoiser], scores: Tensor, log_q: Tensor, fall: float, noise: Tensor) -> Tensor:
        """dx of one step; scores are N s_i (models, n, ...)."""
        if self.mode == "or":
            return fall * _weighted((self.temperature * log_q).softmax(1), scores) + fall**0.5 * noise
        white = self._white(priors, scores)
        free = fall * scores.mean(0) + fall**0.5 * noise
        # In the span of the differences the step is what makes all d log q_i equal: a small system a row.
        apart, white_apart = scores[1:] - scores[:1], white[1:] - white[:1]
        gram = torch.einsum("anx,bnx->nab", white_apart.flatten(2), apart.flatten(2)).double()
        squares = _products(white, scores)
        wanted = 0.5 * fall * (squares[:, 1:] - squares[:, :1]) - _products(white_apart, free[None])
        a = (torch.linalg.pinv(gram, hermitian=True) @ wanted[..., None])[..., 0]
        return free + _weighted(a, apart)


def _products(a: Tensor, b: Tensor) -> Tensor:
    """Inner products (n, models) of fields (models, n, ...), float64."""
    return (a.double() * b.double()).flatten(2).sum(2).T


def _weighted(weights: Tensor, fields: Tensor) -> Tensor:
    """sum_i weights[:, i] fields[i]."""
    return torch.einsum("na,anx->nx", weights.to(fields), fields.flatten(2)).reshape(fields.shape[1:])
