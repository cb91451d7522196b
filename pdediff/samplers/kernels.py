"""Markov kernels at one noise level, for the `Kick` steps of a plan."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Protocol

import torch
from torch import Tensor

from pdediff.samplers.steps import Kick

Noise = Callable[[int], Tensor]
"""Noise of a number, as the rows of the state."""


class Kernel(Protocol):
    """A transition of the state at a fixed level; rows must not see each other."""

    def __call__(self, x: Tensor, step: Kick, denoise: Callable[[Tensor], Tensor], noise: Noise) -> Tensor:
        """The next state; `denoise(x)` is E[x0 | x] at the level of the step."""
        ...


def langevin(x: Tensor, step: Kick, denoise: Callable[[Tensor], Tensor], noise: Noise) -> Tensor:
    """Langevin corrector of Song et al. (2021), alg. 4, with the norms of each row instead of the batch mean.

    x' = x + a score + sqrt(2 a) z with a = 2 (snr |z| / |score|)^2, score = (D - x) / sigma^2; repeated
    `evaluations` times. `numbers` is (snr,). Without a Metropolis step its law is biased by O(a).
    """
    (snr,) = step.numbers
    for repeat in range(step.evaluations):
        z = noise(step.key + repeat)
        score = (denoise(x) - x) / step.level**2
        ratio = z.flatten(1).norm(dim=1) / score.flatten(1).norm(dim=1)
        a = (2.0 * (snr * ratio) ** 2).reshape(-1, *[1] * (x.dim() - 1))
        x = x + a * score + torch.sqrt(2.0 * a) * z
    return x


KERNELS: Mapping[str, Kernel] = {"langevin": langevin}
"""Kernels that a plan can name without being told more."""
