"""One Brownian path for each seed, seen alike by any number of steps: a virtual Brownian tree.

The path lives on a clock q in [e^-64, e^64] and is bisected in log q, where the steps of a sampler are even. The
midpoint of a cell is drawn from the Brownian bridge between its ends by the seed of that node, so any time can be asked
for in any order without memory of the path. Source: Li et al. 2020 (scalable gradients for SDEs), sec. 4; Jelincic
et al. 2024 (single-seed generation of Brownian paths).
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor

from pdediff.diffusion import NoiseField
from pdediff.errors import ConfigError
from pdediff.types import fold

_HALF = 64.0
_DEPTH = 24
_NODES = 1 << _DEPTH
# Above every number of a step's own noise.
_FIRST_KEY = 1 << 32


class BrownianPath:
    """The paths of the given rows; increments are exact in law and independent over disjoint spans.

    Times are rounded to 2^-17 in log q (8e-6 of the time), so two spans shorter than that cannot be told apart. Asked
    for in the order of the clock, a span costs about 24 - log2(number of spans) noise fields.
    """

    def __init__(self, noise: NoiseField, seeds: Sequence[int], shape: Sequence[int]) -> None:
        self._noise, self._seeds, self._shape = noise, tuple(seeds), tuple(shape)
        start = torch.zeros(len(self._seeds), *self._shape, dtype=torch.float64)
        end = math.sqrt(_clock(_NODES) - _clock(0)) * self._normal(_NODES)
        # Cells around the last time asked for, the widest first: (left, right, path at left, path at right).
        self._cells: list[tuple[int, int, Tensor, Tensor]] = [(0, _NODES, start, end)]

    def increment(self, start: float, stop: float) -> Tensor:
        """(W(stop) - W(start)) / sqrt(stop - start) in float64, rows by fields; `ConfigError` outside the clock."""
        first, last = _node(start), _node(stop)
        if first == last:
            raise ConfigError(
                f"a Brownian path cannot tell clock {start:g} from {stop:g}",
                hint="take fewer steps, or fresh noise (path=False)",
            )
        before = self._at(first)
        return (self._at(last) - before) / math.sqrt(_clock(last) - _clock(first))

    def _at(self, node: int) -> Tensor:
        while not self._cells[-1][0] <= node <= self._cells[-1][1]:
            self._cells.pop()
        while True:
            left, right, at_left, at_right = self._cells[-1]
            if node in (left, right):
                return at_left if node == left else at_right
            middle = (left + right) // 2
            q_left, q, q_right = _clock(left), _clock(middle), _clock(right)
            share = (q - q_left) / (q_right - q_left)
            bridge = torch.lerp(at_left, at_right, share)
            value = bridge.add_(self._normal(middle), alpha=math.sqrt(share * (q_right - q)))
            inside = (left, middle, at_left, value) if node <= middle else (middle, right, value, at_right)
            self._cells.append(inside)

    def _normal(self, node: int) -> Tensor:
        return self._noise.sample(fold(self._seeds, _FIRST_KEY + node), self._shape, torch.float64)


def _clock(node: int) -> float:
    return math.exp(_HALF * (2.0 * node / _NODES - 1.0))


def _node(q: float) -> int:
    if not math.exp(-_HALF) <= q <= math.exp(_HALF):
        raise ConfigError(f"the clock of a Brownian path runs from e^-64 to e^64, got {q:g}")
    return round((math.log(q) / _HALF + 1.0) / 2.0 * _NODES)
