"""How a data set is cut into tiles, shards and chunks: rules of the sizes alone, so that a config names one set."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TypeVar

import numpy as np

from pdediff import config as configs
from pdediff.pdes import PDE
from pdediff.pdes.accuracy import SPACE
from pdediff.stages.generation_config import SAMPLES, GenerateConfig

Key = TypeVar("Key", str, int)

CACHE = 32_768
"""Points that the states of a tile have together: in float64, with work arrays, they stay in a core's cache.

Measured best: 64 to 256 rows of 256 points, 4 to 16 rows of 64 x 64."""

LARGEST_TILE = 256
SHARDS = 16
"""Shards that a set has at least, where it has as many samples: work for several workers."""

SHARD_BYTES, TILE_BYTES, CHUNK_BYTES = 64 << 20, 256 << 20, 1 << 20
"""Bytes of a shard of a large set, most bytes of a tile, and bytes of a chunk of the largest array."""


@dataclass(frozen=True)
class Sizes:
    """Numbers of one sample: `points` of a state in space, stored `values` of all variables, of the `largest` one."""

    points: int
    values: int
    largest: int


def sizes_of(pde: PDE, grid: int) -> Sizes:
    """The sizes of one sample of `pde` on `grid` points a side."""
    sides = {name: len(values) for name, values in pde.coordinates(grid).items()}
    stored = [math.prod(sides[d] for d in v.dims) for v in pde.variables()]
    points = [math.prod(sides[d] for d in v.dims if d in SPACE) for v in pde.variables()]
    return Sizes(max(points), sum(stored), max(stored))


def resolved(config: GenerateConfig) -> GenerateConfig:
    """The config with the numbers that were left open: samples, tile and shard (with a budget the plan has them)."""
    sizes = sizes_of(configs.build("pde", config.pde), config.grid)
    samples = config.samples or (SAMPLES if config.budget is None else None)
    tile = config.tile or tile_of(sizes, samples, config.shard)
    shard = config.shard or (shard_of(sizes, tile, samples) if samples else None)
    return config.model_copy(update={"samples": samples, "tile": tile, "shard": shard})


def tile_of(sizes: Sizes, samples: int | None, shard: int | None) -> int:
    """Samples computed at a time: a power of two that fills the cache, less for small sets and large samples.

    Where `shard` is given, the largest divisor of it that is no larger.
    """
    tile = min(LARGEST_TILE, _power_of_two(CACHE / sizes.points), _power_of_two(TILE_BYTES / (4 * sizes.values)))
    if samples is not None:
        tile = min(tile, _power_of_two(samples / SHARDS))
    return tile if shard is None else _divisor(shard, tile)


def shard_of(sizes: Sizes, tile: int, samples: int) -> int:
    """Samples of a shard: whole tiles, `SHARD_BYTES` of them, less where the set would have under `SHARDS` shards."""
    tiles = min(SHARD_BYTES // (4 * sizes.values * tile), samples // (SHARDS * tile))
    return tile * max(1, min(tiles, 65_536 // tile))


def chunk_of(sizes: Sizes, shard: int) -> int:
    """Samples that are read together: a divisor of the shard with at most `CHUNK_BYTES` of the largest array."""
    return _divisor(shard, max(1, CHUNK_BYTES // (4 * sizes.largest)))


def interleaved(counts: Mapping[int, int]) -> np.ndarray:
    """Each key as often as its count says, spread evenly: the k-th of n sits at (k + 1/2) / n of the way.

    Every stretch holds every key in its share, to within one or two places.
    """
    keys = np.repeat(list(counts), list(counts.values()))
    places = np.concatenate([(np.arange(n) + 0.5) / n for n in counts.values()])
    return keys[np.argsort(places, kind="stable")]


def apportioned(total: int, shares: Mapping[Key, float]) -> dict[Key, int]:
    """`total` places by largest remainders (Hamilton's method); at least one each, where there are as many places."""
    least = int(total >= len(shares))
    exact = {name: share * total for name, share in shares.items()}
    counts = {name: max(least, int(number)) for name, number in exact.items()}
    while (left := total - sum(counts.values())) != 0:
        step = 1 if left > 0 else -1
        open_to_change = [name for name in counts if step > 0 or counts[name] > least]
        chosen = max(open_to_change, key=lambda name: step * (exact[name] - counts[name]))
        counts[chosen] += step
    return counts


def _power_of_two(number: float) -> int:
    """The power of two next below, at least 1."""
    return 1 << max(0, math.floor(math.log2(max(1.0, number))))


def _divisor(number: int, most: int) -> int:
    return next(d for d in range(min(number, most), 0, -1) if number % d == 0)
