"""Many draws of the noise for each row: what methods that only evaluate the operator look around with."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence

import torch
from torch import Tensor

from pdediff.diffusion import Denoiser, NoiseField

VALUES = 1 << 14
"""Values of one row that are drawn at once."""


def probes(
    noise: NoiseField, seeds: Sequence[int], count: int, shape: Sequence[int], dtype: torch.dtype
) -> Iterator[Tensor]:
    """`count` draws for each row in parts (batch, k, channel, *space); row i from seeds[i] alone.

    The draws of a part are the channels of one draw, which are independent: one generator a row and part, not a draw.
    The parts depend on the shape and on count alone, never on the batch.
    """
    channels, *space = shape
    size = max(1, VALUES // math.prod(shape))
    for part, first in enumerate(range(0, count, size)):
        k = min(size, count - first)
        # Seeds of the parts lie apart from those that a caller folds himself.
        own = tuple((seed + 0x5851F42D4C957F2D * (part + 1)) & (2**63 - 1) for seed in seeds)
        yield noise.sample(own, (k * channels, *space), dtype).reshape(len(own), k, *shape)


def denoised_rows(prior: Denoiser, x: Tensor, level: float) -> Tensor:
    """E[x0 | x] of rows that share a level."""
    return prior(x, torch.full((len(x),), level, dtype=x.dtype, device=x.device))


def ddpm_kernel(x: Tensor, denoised: Tensor, level: float, after: float) -> tuple[Tensor, float]:
    """Mean and standard deviation (in units of the noise) of the ancestral step to level `after` (Ho et al. 2020)."""
    keep = (after / level) ** 2
    return keep * x + (1 - keep) * denoised, after * (1 - keep) ** 0.5
