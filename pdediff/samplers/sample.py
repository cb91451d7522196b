"""Unconditional samples of a prior, in tiles of fixed size."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any, Protocol, runtime_checkable

import torch
from torch import Tensor

from pdediff.diffusion import Denoiser
from pdediff.errors import ConfigError
from pdediff.samplers.default import Default
from pdediff.samplers.named import named
from pdediff.samplers.plan import Plan, Sampler
from pdediff.samplers.runner import Hook, run
from pdediff.types import Purpose, Seeds, derive_many, fold


@runtime_checkable
class Conditional(Protocol):
    """A prior of fields given something else."""

    def given(self, condition: Any) -> Denoiser:
        """The denoiser under this condition."""
        ...


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
    shape: int | Sequence[int],
    sampler: Sampler | Plan | str | None = None,
    steps: int = 20,
    seed: int = 0,
    *,
    condition: Any = None,
    hooks: Sequence[Hook] = (),
    sigma_max: float = 80.0,
    sigma_min: float = 0.002,
    grid: Sequence[float] | None = None,
    tile: int = 16,
    path: bool = False,
    denoise_last: bool = False,
) -> Tensor:
    """Samples (n, channel, *space) at noise level sigma_min, on the denoiser's device; `shape` is that or n alone.

    Row i depends on (seed, i) alone: batches are tiles of `tile` rows, the last one padded, so that a network sees
    one batch size. `sampler` is one of this package, the name of a preset ("unipc"), or a compiled plan, which brings
    its own levels; without one, `Default`. `grid` replaces the sampler's own levels and with them steps, sigma_max and
    sigma_min; a pilot grid or a tuned plan is worth its cost for a prior that is used often. `condition` is what
    `denoiser.given` takes; `hooks` change the denoised state, `path` gives each row one Brownian path (see `run`).

    Good values: sigma_max at least 50 data standard deviations, sigma_min at most 0.14 times the standard deviation
    of the smallest scale of interest (1 % of its amplitude).

    `ConfigError` for a shape that is not the denoiser's, a name that is no preset, a condition that the denoiser does
    not take, or a grid beside a plan; `NumericalError` that names step and level where the state is not finite.
    """
    n = _count(denoiser, shape)
    if n < 1 or tile < 1:
        raise ConfigError(f"sample needs n >= 1 and tile >= 1, got {n=}, {tile=}")
    given = denoiser if condition is None else _conditioned(denoiser, condition)
    plan = _plan(sampler, steps, sigma_max, sigma_min, grid)
    tiles = []
    for first in range(0, n, tile):
        rows = range(first, first + tile)
        x = gaussian_start(given, plan.levels[0], _seeds(seed, Purpose.START, rows))
        seeds = _seeds(seed, Purpose.STEP, rows)
        x = run(plan, given, x, seeds, hooks=hooks, path=path, denoise_last=denoise_last)
        tiles.append(x[: n - first])
    return torch.cat(tiles)


def _count(denoiser: Denoiser, shape: int | Sequence[int]) -> int:
    if isinstance(shape, int):
        return shape
    n, *field = shape
    if tuple(field) != tuple(denoiser.shape):
        raise ConfigError(
            f"shape {tuple(shape)} is not n fields of {tuple(denoiser.shape)}",
            hint="a prior is sampled on its own grid; give n alone",
        )
    return n


def _conditioned(denoiser: Denoiser, condition: Any) -> Denoiser:
    if not isinstance(denoiser, Conditional):
        raise ConfigError(f"{type(denoiser).__name__} takes no condition", hint="a conditional prior has `given`")
    return denoiser.given(condition)


def _plan(
    sampler: Sampler | Plan | str | None,
    steps: int,
    sigma_max: float,
    sigma_min: float,
    grid: Sequence[float] | None,
) -> Plan:
    if isinstance(sampler, Plan):
        if grid is not None:
            raise ConfigError("a compiled plan has its own levels, grid cannot be given beside it")
        return sampler
    chosen: Sampler = Default() if sampler is None else named(sampler) if isinstance(sampler, str) else sampler
    return chosen.plan(chosen.grid(steps, sigma_max, sigma_min) if grid is None else grid)


def _seeds(seed: int, purpose: Purpose, rows: range) -> Seeds:
    return derive_many(seed, purpose, rows)
