"""DPG: the gradient of an expected reward from draws around the estimate; no derivative of the operator."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import ClassVar

import torch
from torch import Tensor

from pdediff.diffusion import Denoiser, broadcast
from pdediff.observe import Observation
from pdediff.posterior.base import GuidedDenoiser
from pdediff.posterior.gain import Tangent
from pdediff.posterior.keyed import row_seeds
from pdediff.posterior.probes import probes
from pdediff.types import Field, Levels, Positive, PositiveInt, Seeds


@dataclass(frozen=True)
class DPG:
    """D_y = D + strength sqrt(d) sigma^2 / sqrt(1 + sigma^2) v / |v|, v = N J^T N^-1 g.

    Diffusion policy gradient, Tang et al. 2024: x_i = D + r eps_i, eps_i ~ N(0, N), are actions with the rewards w_i =
    exp(-(l(x_i) - l(D)) / l(D)), l = |R^-1/2 (y - H .)|^2, g = mean_i (w_i - b_i) eps_i / r, and N^-1 g is the policy
    gradient of E w in D with the leave-one-out baseline b_i, the mean of the other rewards, which takes variance out
    and no mean. The unit step is the published one in our frame (|v| by N^-1, d points). r = s sigma / sqrt(s^2 +
    sigma^2), the spread of x0 | x for a white prior; the published code takes half the root mean square residual, which
    has the units of the readings, and averages l and the gradient over steps, which no function of (x, sigma) can.
    Exact for no prior: a step of fixed length, no weight of the readings against the prior.

    Good values: published are 5000 draws and strength 1.4, which is 180 / 128, with 1000 steps; strength 0.1 to 0.5
    for tens of steps, tuned on held-out cases. The network is differentiated, the operator only evaluated.
    """

    draws: PositiveInt = 128
    strength: Positive = 0.2
    s: Positive = 1.0
    exact: ClassVar[bool] = False
    linear_only: ClassVar[bool] = False
    needs_vjp: ClassVar[bool] = True

    def __call__(self, prior: Denoiser, observation: Observation) -> Denoiser:
        return _Guided(prior, observation, self)


@dataclass(frozen=True, eq=False)
class _Guided(GuidedDenoiser):
    method: DPG
    seeds: Seeds | None = None

    def keyed(self, seeds: Sequence[int]) -> Denoiser:
        """Row i draws its actions from seeds[i]."""
        return replace(self, seeds=tuple(seeds))

    def __call__(self, x: Field, sigma: Levels) -> Field:
        tangent, covariance = Tangent.of(self.prior, x, sigma), self.noise.covariance(self.shape)
        s, level = self.method.s, sigma.double()
        radius = s * level / (s**2 + level**2).sqrt()
        gradient = self.policy_gradient(tangent.denoised.double(), radius, row_seeds(self.seeds, sigma))
        v = tangent.pull(covariance.solve(gradient)).double()
        length = (v * covariance.solve(v)).flatten(1).sum(1).sqrt().clamp(min=1e-300)
        step = self.method.strength * math.sqrt(math.prod(self.shape)) * level**2 / (1 + level**2).sqrt()
        return tangent.denoised + (broadcast(step / length, v) * v).to(x)

    @torch.no_grad()
    def policy_gradient(self, denoised: Field, radius: Tensor, seeds: Seeds) -> Field:
        """g of each row for draws of spread `radius` (batch,), float64."""
        count = self.method.draws
        here = self.loss(denoised).clamp(min=1e-300)
        # sum (w_i - b_i) eps_i = (count / (count - 1)) sum (w_i - mean w) eps_i: sums are enough, no draw is kept.
        weights, weighted, plain = torch.zeros_like(here), torch.zeros_like(denoised), torch.zeros_like(denoised)
        for drawn in probes(self.noise, seeds, count, self.shape, torch.float64):
            eps = drawn.to(denoised)
            points = (denoised[:, None] + radius.reshape(-1, *[1] * (eps.dim() - 1)) * eps).flatten(0, 1)
            loss = self.loss(points).reshape(eps.shape[:2])
            w = torch.exp(1 - loss / here[:, None])
            weights = weights + w.sum(1)
            weighted = weighted + torch.einsum("bk,bk...->b...", w, eps)
            plain = plain + eps.sum(1)
        g = (weighted - broadcast(weights / count, plain) * plain) / max(count - 1, 1)
        return g / broadcast(radius, g)

    def loss(self, points: Field) -> Tensor:
        """l of each row."""
        return self.observation.white_residual(points).square().sum(1)
