"""Scalable operator transformer: a U-shaped hierarchy of shifted windows whose normalisations know the labels."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from pdediff.errors import ConfigError
from pdediff.models.convolution import (
    Convolution,
    Padding,
    crop,
    pad_to_multiple,
    padding_of,
    require_dimensions,
    to_channels,
    to_space,
    walls_of,
)
from pdediff.models.embedding import LabelEmbedding, located
from pdediff.models.initialise import seeded
from pdediff.models.windows import HEAD, WindowAttention
from pdediff.types import PositiveInt

FINE = 16  # channels at the resolution of the field, behind the last tiles
GROWTH = 4  # width of the dense layers inside a block over that of the block


@dataclass(frozen=True)
class ScOT:
    """Hyper-parameters of a scalable operator transformer (Herde et al. 2024); `build` makes the network.

    Tiles of `patch` cells per side become vectors of `width`; level k has `depths[k]` blocks of attention in windows
    of `window` vectors per side, every second one shifted by half a window, and half the resolution and twice the
    width of the level before; the way up mirrors the way down, joined by convolutional skips. Each normalisation is
    LN(v) (1 + a(labels)) + b(labels): with the time step as a label, every pair of times of a trajectory
    is a training pair. A dimension with walls has no attention across them; a periodic one has, and the network
    commutes with shifts by patch 2^(levels - 1) window cells where windows fit.

    Good values: the defaults for 64x64 on a CPU; the published sizes have `patch=4, window=16` and `width=48,
    depths=(4, 4, 4, 4)` (T) to `width=192, depths=(8, 8, 8, 8)` (L). `padding` and `positions` are as in `UNet`.
    """

    width: PositiveInt = 32
    depths: tuple[PositiveInt, ...] = (2, 2)
    window: PositiveInt = 4
    patch: PositiveInt = 2
    features: PositiveInt = 128
    padding: Padding | tuple[Padding, ...] = "zero"
    positions: bool = True

    def build(self, channels: int, spatial: int, seed: int, *, inputs: int | None = None, labels: int = 1) -> nn.Module:
        """Network `(x (batch, inputs, *space), label) -> (batch, channels, *space)`, see `Network`.

        The global random state is left untouched. Raises ConfigError if the options do not fit the dimensions.
        """
        require_dimensions("ScOT", spatial)
        if self.width % HEAD:
            raise ConfigError(f"network.width={self.width} must be a multiple of {HEAD}")
        if not self.depths:
            raise ConfigError("network.depths=[] needs a number of blocks for each level")
        padding = padding_of(self.padding, spatial)
        return seeded(lambda: _ScOT(self, (inputs or channels, channels), labels, padding), seed)


class _ScOT(nn.Module):
    def __init__(self, config: ScOT, channels: tuple[int, int], labels: int, padding: tuple[Padding, ...]) -> None:
        super().__init__()
        self.patch, self.padding = config.patch, padding
        self.walls = walls_of(padding, config.positions)
        tile, corners = config.patch ** len(padding), 2 ** len(padding)
        widths = [config.width * 2**k for k in range(len(config.depths))]
        self.coarsest = config.patch * 2 ** (len(widths) - 1)
        self.embedding = LabelEmbedding(config.features, labels)
        self.enter = nn.Linear((channels[0] + len(self.walls)) * tile, config.width)
        self.norm = LabelNorm(config.width, config.features)
        self.down = nn.ModuleList(_Level(n, d, config, padding) for n, d in zip(widths, config.depths, strict=True))
        self.up = nn.ModuleList(_Level(n, d, config, padding) for n, d in zip(widths, config.depths, strict=True))
        self.skips = nn.ModuleList(_ConvNeXt(n, config.features, padding) for n in widths[:-1])
        self.merge = nn.ModuleList(nn.Linear(n * corners, 2 * n) for n in widths[:-1])
        self.part = nn.ModuleList(nn.Linear(2 * n, n * corners) for n in widths[:-1])
        self.tiles = nn.Linear(config.width, FINE * tile)
        self.leave = Convolution(FINE, channels[1], padding, zero=True)

    def forward(self, x: Tensor, label: Tensor) -> Tensor:
        """Network output for any grid size; sizes that do not divide are padded and cropped."""
        space = x.shape[2:]
        embedded = self.embedding(label)
        x = pad_to_multiple(located(x, self.walls), self.coarsest, self.padding)
        x = self.norm(self.enter(to_channels(x, self.patch).movedim(1, -1)), embedded)
        skips: list[Tensor] = []
        for k, level in enumerate(self.down):
            x = level(x, embedded)
            if k < len(self.merge):
                skips.append(self.skips[k](x, embedded))
                x = self.merge[k](to_channels(x.movedim(-1, 1), 2).movedim(1, -1))
        for k in reversed(range(len(self.up))):
            if k < len(self.part):
                x = to_space(self.part[k](x).movedim(-1, 1), 2).movedim(1, -1) + skips[k]
            x = self.up[k](x, embedded)
        x = to_space(self.tiles(x).movedim(-1, 1), self.patch)
        return crop(self.leave(F.gelu(x)), space).contiguous()


class LabelNorm(nn.Module):
    """LN(v) (1 + a(labels)) + b(labels) over the last dimension of `(batch, *space, channel)`."""

    def __init__(self, width: int, features: int) -> None:
        super().__init__()
        self.film = nn.Linear(features, 2 * width)

    def forward(self, x: Tensor, embedded: Tensor) -> Tensor:
        """Normalised `x`."""
        film = self.film(embedded).reshape(x.shape[0], *(1,) * (x.ndim - 2), -1)
        scale, shift = film.chunk(2, dim=-1)
        return torch.addcmul(shift, F.layer_norm(x, x.shape[-1:]), 1 + scale)


class _Level(nn.Module):
    def __init__(self, width: int, depth: int, config: ScOT, padding: Sequence[Padding]) -> None:
        super().__init__()
        self.blocks = nn.ModuleList(_Block(width, config, padding, shifted=bool(k % 2)) for k in range(depth))

    def forward(self, x: Tensor, embedded: Tensor) -> Tensor:
        for block in self.blocks:
            x = block(x, embedded)
        return x


class _Block(nn.Module):
    def __init__(self, width: int, config: ScOT, padding: Sequence[Padding], *, shifted: bool) -> None:
        super().__init__()
        self.attention = WindowAttention(width, config.window, padding, shifted=shifted)
        self.dense = nn.Sequential(nn.Linear(width, GROWTH * width), nn.GELU(), nn.Linear(GROWTH * width, width))
        self.norms = nn.ModuleList(LabelNorm(width, config.features) for _ in range(2))

    def forward(self, x: Tensor, embedded: Tensor) -> Tensor:
        # normalised behind the branch, so that deep networks do not grow (Liu et al. 2022, section 3.2)
        x = x + self.norms[0](self.attention(x), embedded)
        return x + self.norms[1](self.dense(x), embedded)


class _ConvNeXt(nn.Module):
    """x + V GELU(W norm(depthwise 7-point convolution of x)) on the skips."""

    def __init__(self, width: int, features: int, padding: Sequence[Padding]) -> None:
        super().__init__()
        self.depthwise = Convolution(width, width, padding, kernel=7, groups=width)
        self.norm = LabelNorm(width, features)
        self.dense = nn.Sequential(nn.Linear(width, GROWTH * width), nn.GELU(), nn.Linear(GROWTH * width, width))

    def forward(self, x: Tensor, embedded: Tensor) -> Tensor:
        h = self.depthwise(x.movedim(-1, 1)).movedim(1, -1)
        return x + self.dense(self.norm(h, embedded))
