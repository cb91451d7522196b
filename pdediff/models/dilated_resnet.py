"""Dilated residual network: convolutions at the full resolution whose reach grows and shrinks again."""

from __future__ import annotations

from dataclasses import dataclass

import torch.nn.functional as F
from torch import Tensor, nn

from pdediff.errors import ConfigError
from pdediff.models.convolution import GROUP, Convolution, GroupNorm, Padding, padding_of, require_dimensions, walls_of
from pdediff.models.embedding import LabelEmbedding, located, modulated
from pdediff.models.initialise import seeded
from pdediff.types import PositiveInt


@dataclass(frozen=True)
class DilatedResNet:
    """Hyper-parameters of a dilated residual network (Stachenfeld et al. 2022); `build` makes the network.

    Each of `blocks` normalises, scales and shifts by the labels, and adds convolutions of 3 points at the spacings
    `dilations`, one after the other: x <- x + C_d(SiLU(x)). Nothing is coarsened, so sharp fields keep their edges
    and a grid of any size will do.

    Good values: the defaults have 75 thousand parameters in 1-D and reach over 180 cells; `width=64` on a GPU.
    `padding` and `positions` are as in `UNet`.
    """

    width: PositiveInt = 32
    blocks: PositiveInt = 3
    dilations: tuple[PositiveInt, ...] = (1, 2, 4, 8, 4, 2, 1)
    features: PositiveInt = 32
    padding: Padding | tuple[Padding, ...] = "zero"
    positions: bool = True

    def build(self, channels: int, spatial: int, seed: int, *, inputs: int | None = None, labels: int = 1) -> nn.Module:
        """Network `(x (batch, inputs, *space), label) -> (batch, channels, *space)`, see `Network`.

        The global random state is left untouched. Raises ConfigError if the options do not fit the dimensions.
        """
        require_dimensions("DilatedResNet", spatial)
        if self.width % GROUP:
            raise ConfigError(f"network.width={self.width} must be a multiple of {GROUP}")
        padding = padding_of(self.padding, spatial)
        return seeded(lambda: _DilatedResNet(self, (inputs or channels, channels), labels, padding), seed)


class _DilatedResNet(nn.Module):
    def __init__(
        self, config: DilatedResNet, channels: tuple[int, int], labels: int, padding: tuple[Padding, ...]
    ) -> None:
        super().__init__()
        self.walls = walls_of(padding, config.positions)
        self.embedding = LabelEmbedding(config.features, labels)
        self.enter = Convolution(channels[0] + len(self.walls), config.width, padding)
        self.blocks = nn.ModuleList(_Block(config, padding) for _ in range(config.blocks))
        self.norm = GroupNorm(config.width)
        self.leave = Convolution(config.width, channels[1], padding, zero=True)

    def forward(self, x: Tensor, label: Tensor) -> Tensor:
        """Network output on the grid of `x`."""
        embedded = self.embedding(label)
        x = self.enter(located(x, self.walls))
        for block in self.blocks:
            x = block(x, embedded)
        return self.leave(F.silu(self.norm(x)))


class _Block(nn.Module):
    def __init__(self, config: DilatedResNet, padding: tuple[Padding, ...]) -> None:
        super().__init__()
        self.norm = GroupNorm(config.width)
        self.film = nn.Linear(config.features, 2 * config.width)
        self.convolutions = nn.ModuleList(
            Convolution(config.width, config.width, padding, dilation=d) for d in config.dilations
        )

    def forward(self, x: Tensor, embedded: Tensor) -> Tensor:
        h = modulated(self.norm(x), self.film(embedded))
        for convolution in self.convolutions:
            h = h + convolution(F.silu(h))
        return x + h
