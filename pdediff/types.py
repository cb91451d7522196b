"""Array aliases, constrained numbers and the key tree of random seeds; imports nothing of ours.

Every sample, particle and case owns a seed derived from (root seed, purpose, index), so a result never
depends on chunking, batch split, worker count, order or resume.
"""

from __future__ import annotations

import threading
from collections.abc import Sequence
from enum import IntEnum
from typing import Annotated, Any

import numpy as np
import torch
from annotated_types import Ge, Gt, Interval, Le
from jaxtyping import Float
from torch import Tensor

Field = Float[Tensor, "batch channel *space"]
Levels = Float[Tensor, "batch"]
Seeds = tuple[int, ...]

PositiveInt = Annotated[int, Gt(0)]
NonNegativeInt = Annotated[int, Ge(0)]
Positive = Annotated[float, Gt(0.0)]
NonNegative = Annotated[float, Ge(0.0)]
Fraction = Annotated[float, Interval(ge=0.0, le=1.0)]
Seed = Annotated[int, Ge(0), Le(2**63 - 1)]

_MASK = (1 << 64) - 1


class Purpose(IntEnum):
    """What a seed is for; a fixed table, because its numbers are part of every stored key."""

    PROBLEM = 0
    SENSORS = 1
    MEASUREMENT = 2
    START = 3
    STEP = 4
    RESAMPLE = 5
    WEIGHTS = 6
    BATCH = 7
    LEVEL = 8
    CALIBRATION = 9
    OPTIMISER = 10
    SPLIT = 11
    PILOT = 12


def derive(root: int, purpose: Purpose, *index: int) -> int:
    """Seed of one (purpose, index) under `root`: 63 bits, independent of the order in which seeds are asked for."""
    state = np.random.SeedSequence(entropy=root, spawn_key=(int(purpose), *index)).generate_state(1, np.uint64)
    return int(state[0]) >> 1


def derive_many(root: int, purpose: Purpose, indices: Sequence[int]) -> Seeds:
    """One seed for each index, as `derive` gives it."""
    return tuple(derive(root, purpose, int(i)) for i in indices)


def fold(seeds: Sequence[int], step: int) -> Seeds:
    """Seeds of step number `step` of each row (SplitMix64 of seed and step)."""
    out = []
    for seed in seeds:
        z = (seed + 0x9E3779B97F4A7C15 * (step + 1)) & _MASK
        z = ((z ^ (z >> 30)) * 0xBF58476D1CE4E5B9) & _MASK
        z = ((z ^ (z >> 27)) * 0x94D049BB133111EB) & _MASK
        out.append((z ^ (z >> 31)) >> 1)
    return tuple(out)


def generator(seed: int) -> torch.Generator:
    """CPU generator for choices (permutations, positions, levels); torch keeps 32 bits of the seed."""
    return torch.Generator().manual_seed(seed)


class _Stream(threading.local):
    """One generator a thread, set to the start of a seed's own stream; a new one costs more than 64 normals."""

    def __init__(self) -> None:
        # Counter-based, and all 63 bits of the seed count: torch's own generator keeps 32 of them, so that two of
        # 10^5 samples would be expected to share their noise.
        self.bits = np.random.Philox(key=0)
        self.generator = np.random.Generator(self.bits)
        self.key, zeros = [0, 0], [0, 0, 0, 0]
        # buffer_pos 4: no number of the block before is left.
        self.state: Any = {"bit_generator": "Philox", "state": {"counter": zeros, "key": self.key}, "buffer": zeros}
        self.state |= {"buffer_pos": 4, "has_uint32": 0, "uinteger": 0}


_STREAM = _Stream()


def _philox(seed: int) -> np.random.Generator:
    """The generator `Generator(Philox(key=seed))`, good until the next call in this thread."""
    _STREAM.key[0] = seed
    _STREAM.bits.state = _STREAM.state
    return _STREAM.generator


def normal(
    seeds: Sequence[int],
    shape: Sequence[int],
    *,
    dtype: torch.dtype = torch.float32,
    device: torch.device | str = "cpu",
) -> Tensor:
    """Standard normal rows `(len(seeds), *shape)`, row i from seed i alone; drawn on the CPU for every device."""
    kind = np.float64 if dtype == torch.float64 else np.float32
    out = np.empty((len(seeds), *shape), dtype=kind)
    for row, seed in enumerate(seeds):
        out[row] = _philox(seed).standard_normal(tuple(shape), dtype=kind)
    return torch.from_numpy(out).to(device, dtype)


def uniform(seeds: Sequence[int], shape: Sequence[int], *, dtype: torch.dtype = torch.float64) -> Tensor:
    """Uniform rows on [0, 1), `(len(seeds), *shape)`, row i from seed i alone."""
    out = np.empty((len(seeds), *shape))
    for row, seed in enumerate(seeds):
        out[row] = _philox(seed).random(tuple(shape))
    return torch.from_numpy(out).to(dtype)
