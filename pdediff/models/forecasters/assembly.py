"""What a forecaster makes of a network config, and what it learns in closed form before training begins."""

from __future__ import annotations

from functools import singledispatch

from torch import Tensor, nn

from pdediff.models.network import Network


@singledispatch
def assembled(
    forecaster: object, network: Network, channels: int, spatial: int, seed: int, *, inputs: int, labels: int
) -> nn.Module:
    """The module that a forecaster trains: one network, unless its kind is registered with parts of its own."""
    return network.build(channels, spatial, seed, inputs=inputs, labels=labels)


@singledispatch
def prepare(forecaster: object, module: nn.Module, frames: Tensor) -> None:
    """Set what frames (n, time, channel, *space), one model step apart, tell in closed form: mostly nothing."""
