"""Metropolis-adjusted Langevin: a kernel that keeps the law of a level exactly, where the density is known."""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from torch import Tensor

from pdediff.errors import ConfigError
from pdediff.samplers.kernels import Kernel, Noise
from pdediff.samplers.steps import Kick


def mala(log_prob: Callable[[Tensor, Tensor], Tensor]) -> Kernel:
    """Kernel for `run(kernels={"mala": mala(prior.log_prob)})`; `log_prob(x, sigma)` is the log density of a level.

    `numbers` is (r,). Proposes x' = x + r (D - x) + sqrt(2 r) sigma z and accepts each row with probability
    min(1, p(x') q(x | x') / (p(x) q(x' | x))) (Roberts & Tweedie 1996): the Langevin corrector of `ScoreSDE` without
    its bias. A transition takes two evaluations and two noises, so `evaluations` of the `Kick` is twice their number.
    White noise only: the score is (D - x) / sigma^2.

    Good values: r = 1 in few dimensions, falling as d^(-1/3) (r = 0.5 accepts 79 % of the rows of a 64-dimensional
    mixture of width 1 at sigma = 0.5; half is enough).
    `ConfigError` for r <= 0 or an odd number of evaluations.
    """

    def kernel(x: Tensor, step: Kick, denoise: Callable[[Tensor], Tensor], noise: Noise) -> Tensor:
        (r,) = step.numbers
        if r <= 0.0 or step.evaluations % 2:
            raise ConfigError(
                f"mala needs a step r > 0 and two evaluations for each transition, got {r=}, {step.evaluations}"
            )
        level = torch.full((len(x),), step.level, dtype=x.dtype, device=x.device)
        for repeat in range(0, step.evaluations, 2):
            mean = x + r * (denoise(x) - x)
            proposed = mean + math.sqrt(2.0 * r) * step.level * noise(step.key + repeat)
            mean_back = proposed + r * (denoise(proposed) - proposed)
            there = (proposed - mean).flatten(1).square().sum(1)
            back = (x - mean_back).flatten(1).square().sum(1)
            ratio = log_prob(proposed, level) - log_prob(x, level) + (there - back) / (4.0 * r * step.level**2)
            # The distribution function of a normal at its own draw is uniform; its log keeps small numbers.
            log_uniform = torch.special.log_ndtr(noise(step.key + repeat + 1).flatten(1)[:, 0])
            accepted = (log_uniform < ratio).reshape(-1, *[1] * (x.dim() - 1))
            x = torch.where(accepted, proposed, x)
        return x

    return kernel
