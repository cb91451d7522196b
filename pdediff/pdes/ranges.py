"""Numbers of the samples that lie between a smallest and a largest value."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from pdediff.errors import ConfigError

Range = tuple[float, float]


def require_order(**ranges: Range) -> None:
    """Raises ConfigError, naming the argument, where the first number of a range is above the second."""
    for name, (low, high) in ranges.items():
        if not low <= high:
            raise ConfigError(f"{name}=[{low:g}, {high:g}] must be the smallest value, then the largest")


def require_positive(**ranges: Range) -> None:
    """As `require_order`; raises ConfigError also where the smallest value is not above zero."""
    require_order(**ranges)
    for name, (low, high) in ranges.items():
        if low <= 0.0:
            raise ConfigError(f"{name}=[{low:g}, {high:g}] must be above zero")


def linear(numbers: Tensor, between: Range) -> Tensor:
    """Values of a range for uniform `numbers` of [0, 1)."""
    low, high = between
    return low + (high - low) * numbers


def logarithmic(numbers: Tensor, between: Range) -> Tensor:
    """Values of a positive range, evenly spread over its logarithm, for uniform `numbers` of [0, 1)."""
    low, high = between
    return low * torch.exp(math.log(high / low) * numbers)
