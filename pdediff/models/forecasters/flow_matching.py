"""The next frame by flow matching: a velocity along straight lines from noise to the difference."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from pdediff.diffusion import broadcast
from pdediff.models.forecasters.base import Dynamics, Frames, labels, stacked
from pdediff.models.forecasters.conditional import Conditional
from pdediff.types import Purpose, derive, generator, normal


@dataclass(frozen=True)
class FlowMatching(Conditional):
    """v(x_s, s | past) = E[d - eps | x_s], x_s = s d + (1 - s) eps; d the scaled difference (Lipman et al. 2023).

    In the frame of this package x_s / s is d + sigma eps with sigma = (1 - s) / s, and D = x_s + (1 - s) v, so that
    every sampler applies; its flow is the same as that of v. Training times: s = 1 / (1 + sigma), log sigma normal
    with mean `level_mean` and `level_std` (Esser et al. 2024, section 3.1, the logit-normal law).
    Good values: as `ResidualDiffusion`; level_std 1.5 or more where the dynamics are deterministic.
    """

    level_mean: float = -1.0

    def loss(self, dynamics: Dynamics, window: Frames, conditions: Tensor, seed: int) -> Tensor:
        """mean (v - (d - eps))^2, (batch,)."""
        seen, coming = window[:, : self.history], window[:, self.history]
        d = dynamics.target(seen[:, -1], coming)
        drawn = torch.randn(len(d), generator=generator(derive(seed, Purpose.LEVEL)), dtype=torch.float64)
        sigma = (self.level_mean + self.level_std * drawn).exp().clamp(self.sigma_min, self.sigma_max).to(d)
        eps = normal((derive(seed, Purpose.STEP),), d.shape, dtype=d.dtype)[0].to(d.device)
        s = broadcast(1.0 / (1.0 + sigma), d)
        velocity = self._velocity(dynamics, stacked(seen), conditions, s * d + (1 - s) * eps, sigma)
        return (velocity - (d - eps)).flatten(1).square().mean(1)

    def denoised(self, dynamics: Dynamics, past: Tensor, conditions: Tensor, x: Tensor, sigma: Tensor) -> Tensor:
        """E[d | x = d + sigma eps, past] = x_s + (1 - s) v."""
        s = broadcast(1.0 / (1.0 + sigma), x)
        return s * x + (1 - s) * self._velocity(dynamics, past, conditions, s * x, sigma)

    def _velocity(self, dynamics: Dynamics, past: Tensor, conditions: Tensor, x: Tensor, sigma: Tensor) -> Tensor:
        return dynamics((past, x), labels(sigma.to(x).log() / 4, conditions))
