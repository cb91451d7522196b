"""The operator as a forecaster: one call, one frame; trained on one step or on an unrolled few."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from pdediff.models.forecasters.base import Dynamics, Frames, labels, stacked
from pdediff.types import NonNegative, PositiveInt, Purpose, Seeds, derive, normal


@dataclass(frozen=True)
class OneStep:
    """u_{t+1} = u_t + d F(u_t), d the size of differences; mean squared error of F over `unroll` steps.

    With `pushforward` all steps but the last are taken without gradient and only the last is scored, so that the
    network sees inputs as wrong as its own (Brandstetter, Worrall and Welling 2022, section 3.1); without it the
    gradient runs through all steps. `noise` perturbs the frames that are seen, in units of d (Sanchez-Gonzalez et
    al. 2020, section 3.2).
    Good values: history 1; unroll 1 first, then 2 to 4 for stability over long rollouts.
    """

    history: PositiveInt = 1
    unroll: PositiveInt = 1
    pushforward: bool = False
    noise: NonNegative = 0.0

    stochastic: ClassVar[bool] = False

    @property
    def horizon(self) -> int:
        """Frames of a training window behind its history."""
        return self.unroll

    @property
    def calls(self) -> float:
        """Network calls for one frame."""
        return 1.0

    def inputs(self, channels: int) -> int:
        """Input channels of the network."""
        return self.history * channels

    def loss(self, dynamics: Dynamics, window: Frames, conditions: Tensor, seed: int) -> Tensor:
        """Mean squared error of the scaled difference, (batch,)."""
        seen, coming = window[:, : self.history], window[:, self.history :]
        if self.noise > 0:
            eps = normal((derive(seed, Purpose.STEP),), seen.shape, dtype=seen.dtype)[0].to(seen.device)
            seen = seen + self.noise * dynamics.difference.to(seen) * eps
        errors = []
        for number in range(self.unroll):
            scored = number == self.unroll - 1 or not self.pushforward
            with torch.set_grad_enabled(torch.is_grad_enabled() and scored):
                new = self._next(dynamics, seen, conditions)
            if scored:
                error = (new - coming[:, number]) / dynamics.difference.to(new)
                errors.append(error.flatten(1).square().mean(1))
            seen = torch.cat((seen[:, 1:], new[:, None]), 1)
        return torch.stack(errors).mean(0)

    def step(
        self, dynamics: Dynamics, history: Frames, conditions: Tensor, seeds: Seeds, progress: float = 0.0
    ) -> Tensor:
        """The next frame, the same for all seeds."""
        return self._next(dynamics, history, conditions)

    def _next(self, dynamics: Dynamics, history: Frames, conditions: Tensor) -> Tensor:
        given = labels(conditions.new_zeros(len(conditions)), conditions)
        return dynamics.advanced(history[:, -1], dynamics((stacked(history),), given))
