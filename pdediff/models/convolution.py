"""Layers on grids with walls or periods: convolution, normalisation, tiles, and sizes that do not divide."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from pdediff.errors import ConfigError

Padding = Literal["zero", "circular"]
GROUP = 8  # channels are normalised in groups of this size
POINTWISE = (nn.Conv1d, nn.Conv2d, nn.Conv3d)
"""Convolution classes by number of space dimensions."""


def require_dimensions(kind: str, spatial: int) -> None:
    """ConfigError unless the fields have one to three space dimensions."""
    if spatial not in (1, 2, 3):
        raise ConfigError(f"{kind} works in 1, 2 or 3 space dimensions; the fields have {spatial}")


def padding_of(padding: Padding | tuple[Padding, ...], spatial: int) -> tuple[Padding, ...]:
    """One word for each dimension; ConfigError for another number of words."""
    words: tuple[Padding, ...] = (padding,) * spatial if isinstance(padding, str) else tuple(padding)
    if len(words) != spatial:
        raise ConfigError(f"network.padding={list(words)} must have one word for each of {spatial} dimensions")
    return words


def walls_of(padding: Sequence[Padding], positions: bool) -> list[int]:
    """Dimensions whose coordinate is an input: those padded with zeros, if `positions` is set."""
    return [axis for axis, p in enumerate(padding) if p == "zero"] if positions else []


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
    """Convolution of odd `kernel` that pads each dimension with zeros (walls) or periodically."""

    def __init__(
        self,
        inputs: int,
        outputs: int,
        padding: Sequence[Padding],
        *,
        kernel: int = 3,
        dilation: int = 1,
        groups: int = 1,
        zero: bool = False,
    ) -> None:
        super().__init__()
        reach = dilation * (kernel // 2)
        walls = tuple(reach * int(p == "zero") for p in padding)
        kind = POINTWISE[len(walls) - 1]
        # one of three classes, each with its own length of tuples
        sizes: Any = walls
        self.conv = kind(inputs, outputs, kernel, padding=sizes, dilation=dilation, groups=groups)
        # F.pad counts from the last dimension
        self.wrap = [side for wall in reversed(walls) for side in 2 * (reach - wall,)]
        if zero:
            nn.init.zeros_(self.conv.weight)
        if self.conv.bias is not None:
            nn.init.zeros_(self.conv.bias)

    def forward(self, x: Tensor) -> Tensor:
        """Convolved `x` of the same size."""
        return self.conv(_wrapped(x, self.wrap) if any(self.wrap) else x)


def _wrapped(x: Tensor, sides: Sequence[int]) -> Tensor:
    """`x` continued periodically, by more than a period if need be."""
    space = x.shape[2:]
    if all(reach <= n for reach, n in zip(sides[::2], reversed(space), strict=True)):
        return F.pad(x, list(sides), mode="circular")
    for axis, (reach, n) in enumerate(zip(reversed(sides[::2]), space, strict=True), start=2):
        x = x.index_select(axis, torch.arange(-reach, n + reach, device=x.device) % n)
    return x


def crop(x: Tensor, space: Sequence[int]) -> Tensor:
    """The first `space` cells of `x`."""
    for axis, size in enumerate(space, start=2):
        if x.shape[axis] != size:
            x = x.narrow(axis, 0, size)
    return x


def pad_to_multiple(x: Tensor, multiple: int, padding: Sequence[Padding]) -> Tensor:
    """`x` continued at its end, by its period or its last cells, to a multiple of cells per side."""
    for axis, kind in enumerate(padding, start=2):
        size = x.shape[axis]
        lacking = -size % multiple
        while lacking:  # more than once if the multiple is more than twice the grid
            n = min(lacking, size)
            x = torch.cat((x, x.narrow(axis, 0 if kind == "circular" else x.shape[axis] - n, n)), dim=axis)
            lacking -= n
    return x


def to_channels(x: Tensor, patch: int) -> Tensor:
    """Tiles of `patch` cells per side become channels of a coarser grid."""
    if patch == 1:
        return x
    d = x.ndim - 2
    cut = [side for n in x.shape[2:] for side in (n // patch, patch)]
    tiles = x.reshape(*x.shape[:2], *cut).permute(0, 1, *range(3, 3 + 2 * d, 2), *range(2, 2 + 2 * d, 2))
    return tiles.flatten(1, 1 + d)


def to_space(x: Tensor, patch: int) -> Tensor:
    """Inverse of `to_channels`."""
    if patch == 1:
        return x
    b, c, *coarse = x.shape
    d = len(coarse)
    tiles = x.reshape(b, c // patch**d, *(patch,) * d, *coarse)
    order = [axis for k in range(d) for axis in (2 + d + k, 2 + k)]
    return tiles.permute(0, 1, *order).reshape(b, c // patch**d, *(n * patch for n in coarse))
