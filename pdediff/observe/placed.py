"""Copies of an operator's constants where the fields are."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

import torch
from torch import Tensor


@dataclass(frozen=True)
class Placed:
    """Base of operators with large constants: each is made, moved and rounded once for a device and precision."""

    _copies: dict[tuple[object, ...], Tensor] = field(default_factory=dict, init=False, repr=False, compare=False)

    def placed(self, key: tuple[object, ...], make: Callable[[], Tensor]) -> Tensor:
        """The constant of this key, made at first use; fit for autograd even if that is in inference mode."""
        if key not in self._copies:
            with torch.inference_mode(False):
                self._copies[key] = make()
        return self._copies[key]
