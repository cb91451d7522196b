"""Some of the channels of a field."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor

from pdediff.errors import DataError
from pdediff.observe.operator import Linear
from pdediff.types import Field


@dataclass(frozen=True)
class Selection(Linear):
    """The channels `channels`, in that order, each at most once. Raises DataError for channels that are not there."""

    channels: tuple[int, ...]

    def __post_init__(self) -> None:
        if not self.channels or len(set(self.channels)) < len(self.channels):
            raise DataError(f"a selection names each channel at most once, and one at least; got {self.channels}")

    def __call__(self, x: Field) -> Field:
        for channel in self.channels:
            if not 0 <= channel < x.shape[1]:
                raise DataError(f"the selection reads channel {channel} of a field with {x.shape[1]}")
        return x[:, list(self.channels)]

    def vjp(self, x: Field, w: Tensor) -> Field:
        out = w.new_zeros(len(w), *x.shape[1:])
        out[:, list(self.channels)] = w
        return out
