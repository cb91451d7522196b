"""Unconditional samples of a prior, in tiles of fixed size."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor

from pdediff.diffusion import Denoiser
from pdediff.errors import ConfigError
from pdediff.samplers.default import Default
from pdediff.samplers.plan import Sampler
from pdediff.samplers.runner import run
from pdediff.types import Purpose, Seeds, derive_many, fold


def gaussian_start(denoiser: Denoiser, sigma: float, seeds: Sequence[int]) -> Tensor:
    """Rows from N(mean, C0 + sigma^2 C): C0 the prior covariance `error(inf)`, C that of the noise field.

    The best Gaussian start: pure noise N(0, sigma^2 C) would lose the mean and damp the large scales.
    """
    # A half-precision network still has its state, and the noise added to it, in float32.
    shape, dtype = denoiser.shape, torch.promote_types(denoiser.dtype, torch.float32)
    prior = denoiser.error(math.inf).draw(fold(seeds, 0), dtype)
    noise = denoiser.noise.sample(fold(seeds, 1), shape, dtype)
    return denoiser.mean.to(dtype) + prior.to(denoiser.device, dtype) + sigma * noise.to(denoiser.device)


def sample(
    denoiser: Denoiser,
    n: int,
    *,
    sampler: Sampler | None = None,
    steps: int = 20,
    seed: int = 0,
    sigma_max: float = 80.0,
    sigma_min: float = 0.002,
    tile: int = 16,
    grid: Sequence[float] | None = None,
    denoise_last: bool = False,
) -> Tensor:
    """n samples (n, channel, *space) at noise level sigma_min, on the denoiser's device.

    Row i depends on (seed, i) alone: batches are tiles of `tile` rows, the last one padded, so that a network sees
    one batch size. `grid` replaces the sampler's own levels and with them steps, sigma_max and sigma_min; a pilot
    grid is worth its cost for a prior that is used often. Without a sampler, `Default`.

    Good values: sigma_max at least 50 data standard deviations, sigma_min at most 0.14 times the standard deviation
    of the smallest scale of interest (1 % of its amplitude).
    """
    if n < 1 or tile < 1:
        raise ConfigError(f"sample needs n >= 1 and tile >= 1, got {n=}, {tile=}")
    chosen = Default() if sampler is None else sampler
    plan = chosen.plan(chosen.grid(steps, sigma_max, sigma_min) if grid is None else grid)
    tiles = []
    for first in range(0, n, tile):
        rows = range(first, first + tile)
        x = gaussian_start(denoiser, plan.levels[0], _seeds(seed, Purpose.START, rows))
        x = run(plan, denoiser, x, _seeds(seed, Purpose.STEP, rows), denoise_last=denoise_last)
        tiles.append(x[: n - first])
    return torch.cat(tiles)


def _seeds(seed: int, purpose: Purpose, rows: range) -> Seeds:
    return derive_many(seed, purpose, rows)
