"""PDE-Refiner: a prediction, then a few denoising passes at ever smaller noise that repair the weak scales."""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import cached_property
from itertools import pairwise
from typing import Annotated, ClassVar, Literal, NamedTuple

import torch
from annotated_types import Interval
from torch import Tensor

from pdediff.models.forecasters.base import Dynamics, Frames, labels, stacked
from pdediff.types import NonNegativeInt, PositiveInt, Purpose, Seeds, derive, fold, generator, normal


class Level(NamedTuple):
    """A pass sees a d + s eps; `fresh` is the share of new noise with which the pass is entered."""

    a: float
    s: float
    fresh: float

    @property
    def label(self) -> float:
        """Noise label of the network, 0 at pure noise."""
        return 0.25 * math.log(self.s)


@dataclass(frozen=True)
class PDERefiner:
    """d_0 = F(0), d_k = denoise(d_{k-1} + s_k eps), k = 1 ... K: one forward pass and `refinements` repairs.

    Lippe et al. 2023, section 3.1 and algorithm 1; d is the scaled difference to the last frame. Schedule `explicit`:
    s_k = minimum^(k/K), minimum the standard deviation of the last level, first input zero, all noise fresh.
    `published`: the DDPM of the released code with K + 1 levels and *variances* minimum^(2 k/K) as betas, first input
    pure noise; its last standard deviation is `minimum`. `prediction`: of the noise eps, or of v = a eps - s d
    (Salimans and Ho 2022); the first pass predicts d in both.
    Every member has its own noise: the spread of members is the refiner's own uncertainty.
    Good values: 3 refinements; minimum 2e-3 of a difference with little training, 6.3e-4 (released code) with much.
    """

    refinements: NonNegativeInt = 3
    minimum: Annotated[float, Interval(gt=0.0, lt=1.0)] = 2e-3
    schedule: Literal["explicit", "published"] = "explicit"
    prediction: Literal["eps", "v"] = "eps"
    history: PositiveInt = 1

    stochastic: ClassVar[bool] = True

    @property
    def horizon(self) -> int:
        """Frames of a training window behind its history."""
        return 1

    @property
    def calls(self) -> float:
        """Network calls for one frame."""
        return 1.0 + self.refinements

    def inputs(self, channels: int) -> int:
        """Past frames and the noised difference."""
        return (self.history + 1) * channels

    @cached_property
    def levels(self) -> tuple[Level, ...]:
        """The passes in the order in which they are made."""
        K = self.refinements
        if self.schedule == "explicit":
            return (Level(0.0, 1.0, 1.0), *(Level(1.0, self.minimum ** (k / K), 1.0) for k in range(1, K + 1)))
        betas = [self.minimum ** (2 * k / K) if K else 1.0 for k in range(K, -1, -1)]
        kept, pairs = 1.0, []
        for beta in betas:
            kept *= 1.0 - beta
            pairs.append((math.sqrt(kept), math.sqrt(1.0 - kept)))
        pairs.reverse()
        fresh = [1.0] + [1.0 - (a * s_ / (a_ * s)) ** 2 for (a, s), (a_, s_) in pairwise(pairs)]
        return tuple(Level(a, s, share) for (a, s), share in zip(pairs, fresh, strict=True))

    def loss(self, dynamics: Dynamics, window: Frames, conditions: Tensor, seed: int) -> Tensor:
        """Mean squared error of what the pass predicts, at a level drawn for each row."""
        seen, coming = window[:, : self.history], window[:, self.history]
        d = dynamics.target(seen[:, -1], coming)
        draw = generator(derive(seed, Purpose.LEVEL))
        k = torch.randint(len(self.levels), (len(d),), generator=draw)
        a, s, label = (self._table(k, d, column) for column in ("a", "s", "label"))
        eps = normal((derive(seed, Purpose.STEP),), d.shape, dtype=d.dtype)[0].to(d.device)
        noised = self._entered(a * d + s * eps, a)
        output = dynamics((stacked(seen), noised), labels(label.flatten(), conditions))
        norm = (a**2 + s**2).sqrt()
        target = eps if self.prediction == "eps" else (a * eps - s * d) / norm
        target = torch.where(a > 0, target, d)
        return (output - target).flatten(1).square().mean(1)

    def step(
        self, dynamics: Dynamics, history: Frames, conditions: Tensor, seeds: Seeds, progress: float = 0.0
    ) -> Tensor:
        """One prediction and all refinements."""
        last = history[:, -1]
        d, eps = torch.zeros_like(last), torch.zeros_like(last)
        for number, level in enumerate(self.levels):
            noise = normal(fold(seeds, number), last.shape[1:], dtype=last.dtype, device=last.device)
            y = level.a * d + level.s * (math.sqrt(1 - level.fresh) * eps + math.sqrt(level.fresh) * noise)
            y = self._entered(y, last.new_tensor(level.a))
            label = labels(last.new_full((len(last),), level.label), conditions)
            d = self._difference(dynamics((stacked(history), y), label), y, level)
            eps = (y - level.a * d) / level.s
        return dynamics.advanced(last, d)

    def _difference(self, output: Tensor, y: Tensor, level: Level) -> Tensor:
        """The difference that an output of the network stands for."""
        if level.a == 0:
            return output
        if self.prediction == "eps":
            return (y - level.s * output) / level.a
        square = level.a**2 + level.s**2
        return (level.a * y - level.s * math.sqrt(square) * output) / square

    def _entered(self, y: Tensor, a: Tensor) -> Tensor:
        """The noised difference as a pass sees it: the first pass of the explicit schedule sees nothing."""
        return y * (a > 0) if self.schedule == "explicit" else y

    def _table(self, k: Tensor, like: Tensor, column: str) -> Tensor:
        values = torch.tensor([getattr(level, column) for level in self.levels])[k]
        return values.to(like).reshape(-1, *(1,) * (like.dim() - 1))
