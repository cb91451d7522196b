"""The next frame by a stochastic interpolant: a diffusion that starts at the present state, not at noise."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from pdediff.diffusion import broadcast
from pdediff.models.forecasters.base import Dynamics, Frames, labels, stacked
from pdediff.types import Positive, PositiveInt, Purpose, Seeds, derive, fold, generator, normal


@dataclass(frozen=True)
class StochasticInterpolant:
    """dX = b(X, s | past) ds + epsilon (1 - s) dW from the present frame at s = 0 to the next one at s = 1.

    I_s = s d + epsilon (1 - s) W_s, with d the scaled difference and X counted from the present frame (Chen et al.
    2024, definition 2.1, alpha = 1 - s, beta = s); b = E[d - epsilon W_s | I_s] is learned by least squares. With the
    exact b the next frame has its law for any epsilon. As b = (E[d | I_s] - I_s) / (1 - s), a step with E[d | I_s]
    held is solved exactly: one step suffices where d is certain, and the last step adds no noise.
    Good values: epsilon 0.1 to 1, less where the dynamics are nearly deterministic; steps 10 to 25.
    """

    epsilon: Positive = 0.2
    steps: PositiveInt = 10
    history: PositiveInt = 1

    stochastic: ClassVar[bool] = True

    @property
    def horizon(self) -> int:
        """Frames of a training window behind its history."""
        return 1

    @property
    def calls(self) -> float:
        """Network calls for one frame."""
        return float(self.steps)

    def inputs(self, channels: int) -> int:
        """Past frames and the state on its way."""
        return (self.history + 1) * channels

    def loss(self, dynamics: Dynamics, window: Frames, conditions: Tensor, seed: int) -> Tensor:
        """mean (b - (d - epsilon W_s))^2, (batch,); times stratified over the batch."""
        seen, coming = window[:, : self.history], window[:, self.history]
        d = dynamics.target(seen[:, -1], coming)
        draw, n = generator(derive(seed, Purpose.LEVEL)), len(d)
        share = (torch.randperm(n, generator=draw) + torch.rand(n, generator=draw, dtype=torch.float64)) / n
        eps = normal((derive(seed, Purpose.STEP),), d.shape, dtype=d.dtype)[0].to(d.device)
        s = broadcast(share, d)
        path = s.sqrt() * eps
        state = s * d + self.epsilon * (1 - s) * path
        drift = self.drift(dynamics, stacked(seen), conditions, state, share.to(d))
        return (drift - (d - self.epsilon * path)).flatten(1).square().mean(1)

    def drift(self, dynamics: Dynamics, past: Tensor, conditions: Tensor, x: Tensor, s: Tensor) -> Tensor:
        """b(x, s | past), (batch, channel, *space); s (batch,)."""
        return dynamics((past, x), labels(2 * s - 1, conditions))

    def step(
        self, dynamics: Dynamics, history: Frames, conditions: Tensor, seeds: Seeds, progress: float = 0.0
    ) -> Tensor:
        """One draw of the next frame."""
        last, past = history[:, -1], stacked(history)
        x, h = torch.zeros_like(last), 1.0 / self.steps
        for number in range(self.steps):
            left, after = 1.0 - number * h, (self.steps - 1 - number) * h
            s = last.new_full((len(last),), number * h)
            denoised = x + left * self.drift(dynamics, past, conditions, x, s)
            noise = normal(fold(seeds, number), last.shape[1:], dtype=last.dtype, device=last.device)
            x = denoised + after / left * (x - denoised) + self.epsilon * after * math.sqrt(h) * noise
        return dynamics.advanced(last, x)
