"""The operator of the Poisson equation, learned without a solver from walks on spheres."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, ClassVar

import torch
from annotated_types import Interval
from torch import Tensor

from pdediff.models.forecasters.steady_map import Response
from pdediff.models.walk_on_spheres import GridFields, UnitSquare, nothing, walk_on_spheres
from pdediff.types import Positive, PositiveInt, Purpose, derive, generator


@dataclass(frozen=True)
class WalkOnSpheresMap:
    """u = F(f), -laplace u = f in the unit square and 0 on its edge; squared error against walks on spheres.

    Fresh walks from `points` nodes in every step, `walks` from each (`walk_on_spheres`; as WoS-NO, Viswanath et al.
    2026); the walks know nothing of the source, so that the samples of a batch share them. Half of them
    give the error, the other half the size that it is relative to, and the reverse: their spread adds a constant to
    the expected loss and nothing to its gradient but a factor.
    Good values: as many points as the grid has nodes, walks until they take as long as the network.
    """

    points: PositiveInt = 1024
    walks: Annotated[int, Interval(ge=2)] = 16
    epsilon: Positive = 1e-3
    augment: bool = True

    stochastic: ClassVar[bool] = False

    @property
    def calls(self) -> float:
        """Network calls for one sample."""
        return 1.0

    def inputs(self, channels: int) -> int:
        """Input channels of the network."""
        return channels

    def loss(self, response: Response, given: Tensor, known: Tensor, conditions: Tensor, seed: int) -> Tensor:
        """Relative squared error (batch,) against walks; `known` is the source f in normalised units of u."""
        nodes, values = self.estimates(known[:, 0], derive(seed, Purpose.STEP))
        found = response(given, conditions)[:, 0].flatten(1).gather(1, nodes)
        one, other = values[..., ::2].mean(-1), values[..., 1::2].mean(-1)
        return (_relative(found, one, other) + _relative(found, other, one)) / 2

    def estimates(self, source: Tensor, seed: int) -> tuple[Tensor, Tensor]:
        """Inner nodes (sample, point), numbered along the grid, and the walks (sample, point, walk) from them.

        All samples of a call share nodes and walks.
        """
        rows, height, width = source.shape
        number = torch.randint((height - 2) * (width - 2), (self.points,), generator=generator(seed))
        i, j = number // (width - 2) + 1, number % (width - 2) + 1
        places = torch.stack((i / (height - 1), j / (width - 1)), -1).to(source)
        fields, seed = GridFields(source.movedim(0, -1).contiguous()), derive(seed, Purpose.START)
        walks = walk_on_spheres(places[None], self.walks, fields, nothing, UnitSquare(), seed, self.epsilon)[0]
        return (i * width + j).to(source.device).expand(rows, -1), walks.movedim(-1, 0)


def _relative(found: Tensor, walks: Tensor, others: Tensor) -> Tensor:
    """Squared error against `walks` over the squared size of `others`, which are independent: no bias."""
    return (found - walks).square().mean(1) / others.square().mean(1).clamp(min=1e-12)
