"""Tiles, shards, chunks and the order of levels: rules of numbers alone, checked as numbers."""

from __future__ import annotations

import numpy as np
import pytest
import stage_recipe as recipe
from hypothesis import given
from hypothesis import strategies as st

from pdediff.stages.generation_layout import (
    SHARD_BYTES,
    TILE_BYTES,
    Sizes,
    apportioned,
    chunk_of,
    interleaved,
    resolved,
    shard_of,
    sizes_of,
    tile_of,
)

ODE, RING, FLAT, LARGE = (Sizes(n, v, v) for n, v in ((1, 300), (256, 35_840), (4096, 266_240), (65_536, 4_200_000)))


@pytest.mark.parametrize(
    ("sizes", "samples", "shard", "tile"),
    [
        (ODE, 100_000, None, 256),  # the largest
        (RING, 100_000, None, 128),  # card: 64 to 256 rows of 256 points
        (FLAT, 100_000, None, 8),  # card: 4 to 16 rows of 64 x 64
        (LARGE, 100_000, None, 1),
        (RING, 1024, None, 64),  # sixteen tiles at least
        (RING, 100, None, 4),
        (RING, 15, None, 1),
        (RING, None, None, 128),  # a budget: as many as it takes
        (RING, 100_000, 96, 96),
        (RING, 100_000, 100, 100),
        (RING, 100_000, 1000, 125),
        (RING, 100_000, 131, 1),  # a prime
        (Sizes(16, 40_000_000, 40_000_000), 100_000, None, 1),  # few points, but 160 MB a sample
    ],
)
def test_tiles_fill_the_cache_and_fit_the_shard(
    sizes: Sizes, samples: int | None, shard: int | None, tile: int
) -> None:
    assert tile_of(sizes, samples, shard) == tile
    assert tile * 4 * sizes.values <= TILE_BYTES


@pytest.mark.parametrize(
    ("sizes", "tile", "samples", "shard"),
    [
        (RING, 128, 100_000, 384),  # 55 MB
        (FLAT, 8, 100_000, 56),  # 60 MB
        (LARGE, 1, 100_000, 3),  # 50 MB
        (RING, 64, 1024, 64),
        (RING, 4, 100, 4),
        (RING, 1, 5, 1),
        (ODE, 256, 10_000_000, 55_808),
        (Sizes(1, 3, 3), 256, 10_000_000, 65_536),  # as large as a config may ask for
    ],
)
def test_shards_are_large_files_unless_the_set_is_small(sizes: Sizes, tile: int, samples: int, shard: int) -> None:
    assert shard_of(sizes, tile, samples) == shard
    assert shard % tile == 0
    assert shard == tile or shard * 4 * sizes.values <= SHARD_BYTES


def test_chunks_divide_the_shard_and_hold_a_megabyte() -> None:
    assert chunk_of(Sizes(4096, 8192, 4096), 128) == 64
    assert chunk_of(Sizes(4096, 8192, 4096), 96) == 48
    assert chunk_of(RING, 384) == 6
    assert chunk_of(LARGE, 3) == 1
    assert chunk_of(ODE, 7) == 7


def test_what_is_left_open_is_filled_in() -> None:
    words = ("pde=darcy", "grid=64")
    found = resolved(recipe.config("generate", *words))
    assert (found.samples, found.tile, found.shard) == (1024, 8, 64)
    found = resolved(recipe.config("generate", *words, "samples=100000"))
    assert (found.samples, found.tile, found.shard) == (100_000, 8, 2048)  # 64 MiB
    found = resolved(recipe.config("generate", *words, "tile=12"))
    assert (found.tile, found.shard) == (12, 60)
    found = resolved(recipe.config("generate", *words, "shard=20"))
    assert (found.tile, found.shard) == (5, 20)
    found = resolved(recipe.config("generate", *words, "tile=5", "shard=20", "samples=7"))
    assert (found.samples, found.tile, found.shard) == (7, 5, 20)
    found = resolved(recipe.config("generate", *words, "budget=1h"))
    assert (found.samples, found.tile, found.shard) == (None, 8, None)
    sizes = sizes_of(recipe.built("ks1d"), 64)
    assert sizes.points == 64
    assert sizes.largest == 140 * 64


COUNTS = st.dictionaries(st.integers(0, 5), st.integers(1, 60), min_size=1, max_size=4)


@given(COUNTS)
def test_levels_are_spread_evenly(counts: dict[int, int]) -> None:
    order = interleaved(counts)
    assert {key: int((order == key).sum()) for key in counts} == counts
    total = len(order)
    for key, count in counts.items():
        share = count / total * np.arange(total + 1)
        running = np.concatenate([[0], np.cumsum(order == key)])
        assert np.abs(running - share).max() <= len(counts) / 2 + 0.5


def test_three_levels_in_order() -> None:
    order = interleaved({0: 7, 1: 2, 2: 1})
    assert order.tolist() == [0, 0, 1, 0, 0, 2, 0, 1, 0, 0]


@given(st.integers(1, 500), st.lists(st.floats(0.01, 1.0), min_size=1, max_size=5))
def test_places_are_shared_out_fairly(total: int, weights: list[float]) -> None:
    shares = {str(i): w / sum(weights) for i, w in enumerate(weights)}
    total = max(total, len(shares))
    counts = apportioned(total, shares)
    assert sum(counts.values()) == total
    assert min(counts.values()) >= 1
    if all(share * total >= 1 for share in shares.values()):
        assert all(abs(counts[name] - share * total) < 1 for name, share in shares.items())


def test_a_small_share_is_still_there() -> None:
    assert apportioned(10, {"low": 0.7, "medium": 0.2, "high": 0.1}) == {"low": 7, "medium": 2, "high": 1}
    assert apportioned(8, {"low": 0.98, "high": 0.02}) == {"low": 7, "high": 1}
    assert apportioned(3, {"a": 0.98, "b": 0.01, "c": 0.01}) == {"a": 1, "b": 1, "c": 1}
    assert apportioned(7, {"a": 0.5, "b": 0.5}) in ({"a": 4, "b": 3}, {"a": 3, "b": 4})
    assert apportioned(10, {0: 0.9, 1: 0.05, 2: 0.05}) == {0: 8, 1: 1, 2: 1}
    assert apportioned(1024, {0: 0.9, 1: 0.05, 2: 0.05}) == {0: 922, 1: 51, 2: 51}
    assert apportioned(2, {0: 0.9, 1: 0.05, 2: 0.05}) == {0: 2, 1: 0, 2: 0}
    assert apportioned(2, {"a": 0.1, "b": 0.5, "c": 0.4}) == {"a": 0, "b": 1, "c": 1}
