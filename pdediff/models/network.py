"""What every network config offers."""

from __future__ import annotations

from typing import Protocol

from torch import nn


class Network(Protocol):
    """Hyper-parameters of a network; `build` makes the `nn.Module`.

    The module maps `(x (batch, inputs, *space), label)` to `(batch, channels, *space)`. `label` is `(batch,)` or
    `(batch, labels)`: column 0 is the noise label, the others are dimensionless numbers of order one (time step,
    parameters). A fresh network gives zero.
    """

    def build(self, channels: int, spatial: int, seed: int, *, inputs: int | None = None, labels: int = 1) -> nn.Module:
        """Network with `inputs` channels in (by default `channels`) and `channels` out, weights drawn from `seed`."""
        ...
