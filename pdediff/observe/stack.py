"""Readings of several operators side by side, and fields read point by point."""

from __future__ import annotations

from dataclasses import dataclass, field

import torch
from torch import Tensor

from pdediff.errors import DataError
from pdediff.observe.operator import Differentiable, Linear, Operator
from pdediff.types import Field


@dataclass(frozen=True)
class Flatten(Linear):
    """Every value of a field as a reading, (batch, m) in array order: the outermost map where another gives a field."""

    def __call__(self, x: Field) -> Tensor:
        return x.flatten(1)

    def vjp(self, x: Field, w: Tensor) -> Field:
        return w.reshape(len(w), *x.shape[1:])


@dataclass(frozen=True, eq=False)
class Stack(Differentiable):
    """The readings of all `members` of the same field, one after the other, (batch, m); fields are flattened.

    Their noise is stacked likewise: one std for each reading. Raises DataError without members.
    """

    members: tuple[Operator, ...]
    _shapes: dict[tuple[int, ...], list[torch.Size]] = field(default_factory=dict, init=False, repr=False)

    def __post_init__(self) -> None:
        if not self.members:
            raise DataError("a stack needs at least one operator")

    @property
    def linear(self) -> bool:  # type: ignore[override]
        return all(member.linear for member in self.members)

    @property
    def differentiable(self) -> bool:  # type: ignore[override]
        return all(member.differentiable for member in self.members)

    def __call__(self, x: Field) -> Tensor:
        return torch.cat([member(x).flatten(1) for member in self.members], 1)

    def jvp(self, x: Field, v: Field) -> Tensor:
        return torch.cat([member.jvp(x, v).flatten(1) for member in self.members], 1)

    def vjp(self, x: Field, w: Tensor) -> Field:
        shapes = self._reading_shapes(x)
        parts = w.split([shape.numel() for shape in shapes], 1)
        pulled = [
            member.vjp(x, part.reshape(len(w), *shape))
            for member, part, shape in zip(self.members, parts, shapes, strict=True)
        ]
        return torch.stack(pulled).sum(0)

    def _reading_shapes(self, x: Field) -> list[torch.Size]:
        """Shapes of the members' readings, found once for each shape of field: a member may be a costly solve."""
        key = tuple(x.shape[1:])
        if key not in self._shapes:
            with torch.no_grad():
                self._shapes[key] = [member(x[:1]).shape[1:] for member in self.members]
        return self._shapes[key]
