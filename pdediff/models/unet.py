"""U-Net with residual blocks in one to three dimensions: the default network of a diffusion prior."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from pdediff.errors import ConfigError
from pdediff.models.convolution import (
    GROUP,
    POINTWISE,
    Convolution,
    GroupNorm,
    Padding,
    crop,
    pad_to_multiple,
    padding_of,
    require_dimensions,
    to_channels,
    to_space,
    walls_of,
)
from pdediff.models.embedding import LabelEmbedding, located, modulated
from pdediff.models.initialise import seeded
from pdediff.types import PositiveInt

HEAD = 32  # channels of one attention head


@dataclass(frozen=True)
class UNet:
    """Hyper-parameters of a U-Net; `build` makes the network for a number of channels and space dimensions.

    Residual blocks are GroupNorm, SiLU, convolution, GroupNorm, scale and shift by the labels, SiLU, convolution
    (zero at the start), after Karras et al. 2022, appendix F.7. `widths` has one entry per level, each at half the
    resolution of the one before: a narrow first level is cheap and keeps sharp edges. `attention` adds self-attention
    over all cells of the coarsest level. The input is cut in tiles of `patch` cells per side, which become channels
    of a coarser grid: with `patch=2` a step costs less, and discontinuous fields come out worse for the same time.

    Good values: the defaults for 32x32 on a CPU; `widths=(64, 128, 256), blocks=2` on a GPU. `padding` is one word,
    or one per dimension in array order; a dimension padded with zeros has walls, and its coordinate becomes an
    input channel when `positions` is set.
    """

    widths: tuple[PositiveInt, ...] = (32, 64, 64)
    blocks: PositiveInt = 1
    patch: PositiveInt = 1
    features: PositiveInt = 128
    padding: Padding | tuple[Padding, ...] = "zero"
    positions: bool = True
    attention: bool = False

    def build(self, channels: int, spatial: int, seed: int, *, inputs: int | None = None, labels: int = 1) -> nn.Module:
        """Network `(x (batch, inputs, *space), label) -> (batch, channels, *space)`, see `Network`.

        The global random state is left untouched. Raises ConfigError if the options do not fit the dimensions.
        """
        require_dimensions("UNet", spatial)
        if not self.widths or any(width % GROUP for width in self.widths):
            raise ConfigError(f"network.widths={list(self.widths)} must be multiples of {GROUP}, one for each level")
        padding = padding_of(self.padding, spatial)
        network = seeded(lambda: _UNet(self, (inputs or channels, channels), labels, padding), seed)
        # oneDNN convolutions are 15 to 30 % faster with channels last; the layout spreads from the weights
        if spatial == 2:
            network.to(memory_format=torch.channels_last)  # pyright: ignore[reportCallIssue]
        return network


class _UNet(nn.Module):
    def __init__(self, config: UNet, channels: tuple[int, int], labels: int, padding: tuple[Padding, ...]) -> None:
        super().__init__()
        self.patch = config.patch
        self.padding = padding
        self.walls = walls_of(padding, config.positions)
        cells = config.patch ** len(padding)
        self.embedding = LabelEmbedding(config.features, labels)
        self.enter = Convolution((channels[0] + len(self.walls)) * cells, config.widths[0], padding)
        self.down, self.up = nn.ModuleList(), nn.ModuleList()
        width = config.widths[0]
        for level in config.widths:
            self.down.append(_Level(width, level, config, padding))
            width = level
        for level in reversed(config.widths):
            self.up.append(_Level(width + level, level, config, padding))
            width = level
        self.norm = GroupNorm(width)
        self.leave = Convolution(width, channels[1] * cells, padding, zero=True)
        # last, so that the other weights are the same with and without
        self.attention = Attention(config.widths[-1]) if config.attention else nn.Identity()

    def forward(self, x: Tensor, label: Tensor) -> Tensor:
        """Network output `(batch, channel, *space)` for any grid size; sizes that do not divide are padded, cropped."""
        space = x.shape[2:]
        embedded = self.embedding(label)
        x = located(x, self.walls)
        x = self.enter(to_channels(pad_to_multiple(x, self.patch, self.padding), self.patch))
        skips: list[Tensor] = []
        for k, level in enumerate(self.down):
            x = _halve(x) if k else x
            x = level(x, embedded)
            skips.append(x)
        x = self.attention(x)
        for k, level in enumerate(self.up):
            skip = skips.pop()
            x = level(torch.cat((_double(x, skip.shape[2:]) if k else x, skip), dim=1), embedded)
        x = to_space(self.leave(F.silu(self.norm(x))), self.patch)
        return crop(x, space).contiguous()


class _Level(nn.Module):
    def __init__(self, inputs: int, outputs: int, config: UNet, padding: tuple[Padding, ...]) -> None:
        super().__init__()
        widths = (inputs, *(outputs,) * config.blocks)
        self.blocks = nn.ModuleList(_Block(a, b, config.features, padding) for a, b in pairwise(widths))

    def forward(self, x: Tensor, embedded: Tensor) -> Tensor:
        for block in self.blocks:
            x = block(x, embedded)
        return x


class _Block(nn.Module):
    def __init__(self, inputs: int, outputs: int, features: int, padding: tuple[Padding, ...]) -> None:
        super().__init__()
        self.norm_in = GroupNorm(inputs)
        self.conv_in = Convolution(inputs, outputs, padding)
        self.film = nn.Linear(features, 2 * outputs)
        self.conv_out = Convolution(outputs, outputs, padding, zero=True)
        kind = POINTWISE[len(padding) - 1]
        self.skip = nn.Identity() if inputs == outputs else kind(inputs, outputs, 1)

    def forward(self, x: Tensor, embedded: Tensor) -> Tensor:
        h = self.conv_in(F.silu(self.norm_in(x)))
        h = F.group_norm(h, h.shape[1] // GROUP)
        return self.skip(x) + self.conv_out(F.silu(modulated(h, self.film(embedded))))


class Attention(nn.Module):
    """Residual self-attention over all cells, without positions: it commutes with any permutation of the cells."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.heads = 1 if width % HEAD else width // HEAD
        self.norm = GroupNorm(width)
        self.enter, self.leave = nn.Linear(width, 3 * width), nn.Linear(width, width)
        nn.init.zeros_(self.leave.weight)
        nn.init.zeros_(self.leave.bias)

    def forward(self, x: Tensor) -> Tensor:
        cells = self.norm(x).flatten(2).transpose(1, 2)  # (batch, cell, channel)
        query, key, value = self.enter(cells).unflatten(2, (3, self.heads, -1)).permute(2, 0, 3, 1, 4)
        weights = (query @ key.transpose(-2, -1) * query.shape[-1] ** -0.5).softmax(dim=-1)
        out = self.leave((weights @ value).transpose(1, 2).flatten(2))
        return x + out.transpose(1, 2).unflatten(2, x.shape[2:])


def _halve(x: Tensor) -> Tensor:
    # ceil_mode keeps the last cell of an odd grid; a window that is cut averages over the cells it has
    return (F.avg_pool1d, F.avg_pool2d, F.avg_pool3d)[x.ndim - 3](x, 2, ceil_mode=True)


def _double(x: Tensor, space: Sequence[int]) -> Tensor:
    return crop(F.interpolate(x, scale_factor=2.0, mode="nearest"), space)
