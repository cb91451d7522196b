"""Random sums of a few sine waves: the initial states of Brandstetter, Welling and Worrall (2022, section 4)."""

from __future__ import annotations

import math

import torch
from torch import Tensor

SINES = 10
NUMBERS = 3 * SINES
"""Uniform numbers that one state takes."""


def sine_waves(numbers: Tensor, grid: int) -> Tensor:
    """Ten sines of amplitude U[-0.5, 0.5], wave number 1 or 2 and random phase, `(batch, grid)`, float64.

    `numbers` `(batch, NUMBERS)` are uniform on [0, 1).
    """
    amplitude, wave, phase = numbers.unflatten(1, (3, SINES, 1)).unbind(1)
    x = torch.arange(grid, dtype=torch.float64, device=numbers.device) / grid
    angle = 2.0 * math.pi * ((1.0 + (wave >= 0.5)) * x + phase)
    return ((amplitude - 0.5) * torch.sin(angle)).sum(1)
