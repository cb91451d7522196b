"""STSL: DPS with a second-order term that seeks flat places of the noised prior."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import ClassVar

import torch
from torch import Tensor

from pdediff.diffusion import Denoiser, broadcast
from pdediff.observe import Observation
from pdediff.posterior.base import GuidedDenoiser
from pdediff.posterior.gain import coloured
from pdediff.posterior.keyed import row_seeds
from pdediff.types import Field, Levels, NonNegative, Positive, PositiveInt, Seeds, fold


@dataclass(frozen=True)
class STSL:
    """D_y = D - N grad_x [strength (1 + sigma^2) |R^-1/2 (y - H D)| + curvature sigma^2 tr J / d], J = dD / dx.

    Second-order Tweedie sampling from a surrogate loss, Rout et al. 2024, with the trace by finite differences along
    `probes` random directions of each row, tr J = mean_i eps_i^T (D(x + h eps_i) - D(x)) / h, h = 0.01 sigma, from the
    row's own seed. d is the number of points. tr J is the trace of the Hessian of log p at level sigma up to constants,
    so a Gaussian prior feels nothing of the second term. Several inner updates at one level, as published, are a matter
    of the sampler (Langevin repeats). `probes` + 1 evaluations and a gradient through them.

    Good values: curvature 0 to 1 (0 is DPS, and was best on mixtures); its sign and scale need a trial.
    """

    strength: Positive = 0.3
    curvature: NonNegative = 0.1
    probes: PositiveInt = 1
    exact: ClassVar[bool] = False
    linear_only: ClassVar[bool] = False
    needs_vjp: ClassVar[bool] = True

    def __call__(self, prior: Denoiser, observation: Observation) -> Denoiser:
        return _Guided(prior, observation, self)


@dataclass(frozen=True, eq=False)
class _Guided(GuidedDenoiser):
    method: STSL
    seeds: Seeds | None = None

    def keyed(self, seeds: Sequence[int]) -> Denoiser:
        """Row i probes along directions from seeds[i]."""
        return replace(self, seeds=tuple(seeds))

    def __call__(self, x: Field, sigma: Levels) -> Field:
        square = sigma.to(x) ** 2
        with torch.enable_grad():
            at = x.detach().requires_grad_()
            denoised = self.prior(at, sigma)
            norm = self.observation.white_residual(denoised).norm(dim=1)
            trace = self.trace(at, denoised, sigma)
            loss = self.method.strength * (1 + square) * norm + self.method.curvature * square * trace / x[0].numel()
            (gradient,) = torch.autograd.grad(loss.sum(), at)
        return denoised.detach() - coloured(self.prior, gradient)

    def trace(self, at: Field, denoised: Field, sigma: Levels) -> Tensor:
        """Estimated tr J of each row, (batch,)."""
        seeds, h = row_seeds(self.seeds, sigma), 0.01 * sigma.to(at)
        total = torch.zeros_like(h)
        for probe in range(self.method.probes):
            eps = self.noise.sample(fold(seeds, probe), self.shape, self.dtype).to(at)
            moved = self.prior(at + broadcast(h, at) * eps, sigma)
            # For noise of covariance N the trace is that of J N N^-1 only if one factor is whitened again.
            probe_dual = self.noise.covariance(self.shape).solve(eps)
            total = total + (probe_dual * (moved - denoised)).flatten(1).sum(1) / h
        return total / self.method.probes
