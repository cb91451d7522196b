"""U-Net with residual blocks in one or two dimensions: the default network of a diffusion prior."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from pdediff.errors import ConfigError
from pdediff.models.embedding import NoiseEmbedding, positions
from pdediff.models.initialise import seeded
from pdediff.types import PositiveInt

Padding = Literal["zero", "circular"]
GROUP = 8  # channels are normalised in groups of this size


@dataclass(frozen=True)
class UNet:
    """Hyper-parameters of a U-Net; `build` makes the network for a number of channels and space dimensions.

    Residual blocks are GroupNorm, SiLU, convolution, GroupNorm, scale and shift by the noise level, SiLU,
    convolution (zero at the start), after Karras et al. 2022, appendix F.7, without attention. `widths` has one
    entry per level, each at half the resolution of the one before: a narrow first level is cheap and keeps sharp
    edges. The input is cut in tiles of `patch` cells per side, which become channels of a coarser grid: with
    `patch=2` a step costs less, and discontinuous fields come out worse for the same time.

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

    def build(self, channels: int, spatial: int, seed: int) -> nn.Module:
        """Network `(x (batch, channels, *space), noise_label (batch,)) -> like x` with weights drawn from `seed`.

        The global random state is left untouched. Raises ConfigError if the options do not fit the dimensions.
        """
        if spatial not in (1, 2):
            raise ConfigError(f"UNet works in 1 or 2 space dimensions; the fields have {spatial}")
        if not self.widths or any(width % GROUP for width in self.widths):
            raise ConfigError(f"network.widths={list(self.widths)} must be multiples of {GROUP}, one for each level")
        padding = (self.padding,) * spatial if isinstance(self.padding, str) else tuple(self.padding)
        if len(padding) != spatial:
            raise ConfigError(f"network.padding={list(padding)} must have one word for each of {spatial} dimensions")
        network = seeded(lambda: _UNet(self, channels, padding), seed)
        # oneDNN convolutions are 15 to 30 % faster with channels last; the layout spreads from the weights
        if spatial == 2:
            network.to(memory_format=torch.channels_last)  # pyright: ignore[reportCallIssue]
        return network


class _UNet(nn.Module):
    def __init__(self, config: UNet, channels: int, padding: tuple[Padding, ...]) -> None:
        super().__init__()
        self.patch = config.patch
        self.padding = padding
        self.walls = [axis for axis, p in enumerate(padding) if p == "zero"] if config.positions else []
        cells = config.patch ** len(padding)
        self.embedding = NoiseEmbedding(config.features)
        self.enter = Convolution((channels + len(self.walls)) * cells, config.widths[0], padding)
        self.down, self.up = nn.ModuleList(), nn.ModuleList()
        width = config.widths[0]
        for level in config.widths:
            self.down.append(_Level(width, level, config, padding))
            width = level
        for level in reversed(config.widths):
            self.up.append(_Level(width + level, level, config, padding))
            width = level
        self.norm = GroupNorm(width)
        self.leave = Convolution(width, channels * cells, padding, zero=True)

    def forward(self, x: Tensor, noise_label: Tensor) -> Tensor:
        """Network output `(batch, channel, *space)` for any grid size; sizes that do not divide are padded, cropped."""
        space = x.shape[2:]
        embedded = self.embedding(noise_label)
        if self.walls:
            where = positions(space, self.walls, x.device, x.dtype)
            x = torch.cat((x, where.expand(x.shape[0], *where.shape)), dim=1)
        x = self.enter(_to_channels(_pad_to_multiple(x, self.patch, self.padding), self.patch))
        skips: list[Tensor] = []
        for k, level in enumerate(self.down):
            x = _halve(x) if k else x
            x = level(x, embedded)
            skips.append(x)
        for k, level in enumerate(self.up):
            skip = skips.pop()
            x = level(torch.cat((_double(x, skip.shape[2:]) if k else x, skip), dim=1), embedded)
        x = _to_space(self.leave(F.silu(self.norm(x))), self.patch)
        return _crop(x, space).contiguous()


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
        kind = nn.Conv1d if len(padding) == 1 else nn.Conv2d
        self.skip = nn.Identity() if inputs == outputs else kind(inputs, outputs, 1)

    def forward(self, x: Tensor, embedded: Tensor) -> Tensor:
        h = self.conv_in(F.silu(self.norm_in(x)))
        h = F.group_norm(h, h.shape[1] // GROUP)
        scale, shift = self.film(embedded).reshape(x.shape[0], -1, *(1,) * (x.ndim - 2)).chunk(2, dim=1)
        return self.skip(x) + self.conv_out(F.silu(torch.addcmul(shift, h, 1 + scale)))


class GroupNorm(nn.Module):
    """Normalisation of groups of channels, then gain and shift.

    The gain and shift are outside of torch's kernel: with channels last, its backward pass on a CPU (torch 2.13)
    crashes when the gradient is asked for them but not for `x`.
    """

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(channels))
        self.bias = nn.Parameter(torch.zeros(channels))

    def forward(self, x: Tensor) -> Tensor:
        """Normalised `x`."""
        shape = (1, -1, *(1,) * (x.ndim - 2))
        normal = F.group_norm(x, x.shape[1] // GROUP)
        return torch.addcmul(self.bias.reshape(shape), normal, self.weight.reshape(shape))


class Convolution(nn.Module):
    """3-point convolution that pads each dimension with zeros (walls) or periodically."""

    def __init__(self, inputs: int, outputs: int, padding: Sequence[Padding], *, zero: bool = False) -> None:
        super().__init__()
        walls = [int(p == "zero") for p in padding]
        if len(walls) == 1:
            self.conv = nn.Conv1d(inputs, outputs, 3, padding=walls[0])
        else:
            self.conv = nn.Conv2d(inputs, outputs, 3, padding=(walls[0], walls[1]))
        # F.pad counts from the last dimension
        self.wrap = [side for wall in reversed(walls) for side in 2 * (1 - wall,)]
        if zero:
            nn.init.zeros_(self.conv.weight)
        if self.conv.bias is not None:
            nn.init.zeros_(self.conv.bias)

    def forward(self, x: Tensor) -> Tensor:
        """Convolved `x` of the same size."""
        return self.conv(F.pad(x, self.wrap, mode="circular") if any(self.wrap) else x)


def _halve(x: Tensor) -> Tensor:
    # ceil_mode keeps the last cell of an odd grid; a window that is cut averages over the cells it has
    return F.avg_pool1d(x, 2, ceil_mode=True) if x.ndim == 3 else F.avg_pool2d(x, 2, ceil_mode=True)


def _double(x: Tensor, space: Sequence[int]) -> Tensor:
    return _crop(F.interpolate(x, scale_factor=2.0, mode="nearest"), space)


def _crop(x: Tensor, space: Sequence[int]) -> Tensor:
    for axis, size in enumerate(space, start=2):
        if x.shape[axis] != size:
            x = x.narrow(axis, 0, size)
    return x


def _pad_to_multiple(x: Tensor, patch: int, padding: Sequence[Padding]) -> Tensor:
    for axis, kind in enumerate(padding, start=2):
        n = -x.shape[axis] % patch
        if n:
            edge = x.narrow(axis, 0, n) if kind == "circular" else x.narrow(axis, x.shape[axis] - n, n)
            x = torch.cat((x, edge), dim=axis)
    return x


def _to_channels(x: Tensor, patch: int) -> Tensor:
    """Tiles of `patch` cells per side become channels of a coarser grid."""
    if patch == 1:
        return x
    if x.ndim == 4:
        return F.pixel_unshuffle(x, patch)
    b, c, n = x.shape
    return x.reshape(b, c, n // patch, patch).transpose(2, 3).reshape(b, c * patch, n // patch)


def _to_space(x: Tensor, patch: int) -> Tensor:
    """Inverse of `_to_channels`."""
    if patch == 1:
        return x
    if x.ndim == 4:
        return F.pixel_shuffle(x, patch)
    b, c, n = x.shape
    return x.reshape(b, c // patch, patch, n).transpose(2, 3).reshape(b, c // patch, n * patch)
