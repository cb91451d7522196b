"""Choosing ancestors from weights."""

from __future__ import annotations

import torch
from torch import Tensor


def systematic(weights: Tensor, n: int, offset: float) -> Tensor:
    """Ancestors (n,) of systematic resampling: one uniform `offset` in [0, 1); weights (particles,) sum to one.

    Unbiased, and particle i gets floor or ceil of n w_i copies (Douc et al. 2005, section 2.4).
    """
    points = (torch.arange(n, dtype=torch.float64, device=weights.device) + offset) / n
    edges = weights.double().cumsum(0)
    return torch.searchsorted(edges / edges[-1], points, right=True).clamp(max=len(weights) - 1)


def effective_sample_size(log_weights: Tensor) -> float:
    """1 / sum of squared normalised weights, between 1 and the number of particles."""
    return float(torch.exp(-torch.logsumexp(2 * log_weights.log_softmax(0), 0)))
