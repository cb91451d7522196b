"""DPS-GSG: DPS with the gradient of the misfit from its values around the estimate; no derivative of the operator."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import ClassVar, Literal

import torch
from torch import Tensor

from pdediff.diffusion import Denoiser, WhiteNoise, broadcast
from pdediff.observe import Observation
from pdediff.posterior.base import GuidedDenoiser
from pdediff.posterior.gain import Tangent
from pdediff.posterior.keyed import row_seeds
from pdediff.posterior.probes import probes
from pdediff.types import Field, Levels, Positive, PositiveInt, Seeds


@dataclass(frozen=True)
class DPSGSG:
    """D_y = D - strength (1 + sigma^2) N J^T g / (2 sqrt(l)), g the smoothed gradient of l = |R^-1/2 (y - H .)|^2 at D.

    Zero-order DPS by Gaussian smoothing, Zheng et al. 2024 (EnKG), baselines DPS-cGSG and DPS-fGSG: with `queries`
    directions u_i ~ N(0, I) of each row's own, g = mean_i u_i (l(D + mu u_i) - l(D - mu u_i)) / (2 mu) ("central") or
    mean_i u_i (l(D + mu u_i) - l(D)) / mu ("forward"). For a linear operator "central" is mean_i u_i u_i^T grad l,
    without bias at any mu, and its variance is (|grad l|^2 + (d l / d x_j)^2) / queries a point: the directions must
    outnumber the d points before g points anywhere. The network is differentiated, the operator only evaluated. As
    biased as `DPS`, and with more noise.

    Good values: strength as DPS; queries as many as points (published: 1000 and 2048); mu 0.01 in units of the field.
    """

    strength: Positive = 0.3
    queries: PositiveInt = 128
    mu: Positive = 0.01
    scheme: Literal["central", "forward"] = "central"
    exact: ClassVar[bool] = False
    linear_only: ClassVar[bool] = False
    needs_vjp: ClassVar[bool] = True

    def __call__(self, prior: Denoiser, observation: Observation) -> Denoiser:
        return _Guided(prior, observation, self)


@dataclass(frozen=True, eq=False)
class _Guided(GuidedDenoiser):
    method: DPSGSG
    seeds: Seeds | None = None

    def keyed(self, seeds: Sequence[int]) -> Denoiser:
        """Row i looks along directions from seeds[i]."""
        return replace(self, seeds=tuple(seeds))

    def __call__(self, x: Field, sigma: Levels) -> Field:
        tangent = Tangent.of(self.prior, x, sigma)
        denoised = tangent.denoised.double()
        here = self.loss(denoised)
        norm = here.sqrt().clamp(min=1e-300)
        gradient = self.smoothed(denoised, here, row_seeds(self.seeds, sigma)) / broadcast(2 * norm, denoised)
        scale = self.method.strength * (1 + broadcast(sigma, x) ** 2)
        return tangent.denoised - scale * tangent.pull(gradient)

    @torch.no_grad()
    def loss(self, points: Field) -> Tensor:
        """l of each row."""
        return self.observation.white_residual(points).square().sum(1)

    def smoothed(self, denoised: Field, here: Tensor, seeds: Seeds) -> Field:
        """g of each row, whose l is `here`, float64."""
        method, total = self.method, torch.zeros_like(denoised)
        for drawn in probes(WhiteNoise(), seeds, method.queries, self.shape, torch.float64):
            u = drawn.to(denoised)
            ahead = self.around(denoised, method.mu * u)
            if method.scheme == "central":
                slope = (ahead - self.around(denoised, -method.mu * u)) / (2 * method.mu)
            else:
                slope = (ahead - here[:, None]) / method.mu
            total = total + torch.einsum("bk,bk...->b...", slope, u)
        return total / method.queries

    def around(self, denoised: Field, moves: Tensor) -> Tensor:
        """l at D + moves (batch, k, channel, *space), (batch, k)."""
        return self.loss((denoised[:, None] + moves).flatten(0, 1)).reshape(moves.shape[:2])
