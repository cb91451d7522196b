"""Guidance with random draws of its own: each row draws from its own seed."""

from __future__ import annotations

import struct
from collections.abc import Sequence
from typing import Protocol, runtime_checkable

from pdediff.diffusion import Denoiser
from pdediff.errors import ConfigError
from pdediff.types import Levels, Seeds, fold


@runtime_checkable
class Keyed(Protocol):
    """A guided denoiser that draws random numbers."""

    def keyed(self, seeds: Sequence[int]) -> Denoiser:
        """The same denoiser for a batch whose row i draws from seeds[i]."""
        ...


def row_seeds(seeds: Seeds | None, sigma: Levels) -> Seeds:
    """One seed for each row at its level, the same however often the level is evaluated.

    Without seeds all rows draw alike: still no row sees another, but errors of the draws do not average out.
    `ConfigError` if the batch is not the one that the seeds were given for.
    """
    given = (0,) * len(sigma) if seeds is None else tuple(seeds)
    if len(given) != len(sigma):
        raise ConfigError(f"guidance with {len(given)} seeds was called with {len(sigma)} rows")
    # One read of the device for all rows; most batches have one level.
    levels = sigma.tolist()
    if len(set(levels)) == 1:
        return fold(given, _bits(levels[0]))
    return tuple(fold((seed,), _bits(level))[0] for seed, level in zip(given, levels, strict=True))


def _bits(level: float) -> int:
    return struct.unpack("<q", struct.pack("<d", level))[0] & (2**63 - 1)
