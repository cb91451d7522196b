"""Weights drawn from a seed without touching the global random state."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import nn


def seeded(make: Callable[[], nn.Module], seed: int) -> nn.Module:
    """`make()` with every random weight drawn from `seed`; the global generator is as it was afterwards."""
    # weights are made on the CPU, so only its generator has to be forked
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(seed)
        return make()
