"""Attention among the cells of a window, on a grid with walls or periods (Liu et al. 2022, Swin V2)."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from pdediff.models.convolution import Padding

HEAD = 16  # channels of one head
SHARPEST = math.log(100.0)  # bound on the log of the inverse temperature (Liu et al. 2022, section 3.2)
LARGEST_BIAS = 16.0
PAD = 2  # region of the cells that fill up the last window


@dataclass(frozen=True)
class Axis:
    """How one dimension of `cells` cells is cut: windows of `window` cells, moved by `shift`, filled up by `fill`."""

    cells: int
    window: int
    shift: int
    periodic: bool

    @property
    def fill(self) -> int:
        """Cells without content at the end."""
        return -self.cells % self.window

    def regions(self, device: torch.device) -> Tensor:
        """Number of the region of each cell: cells attend to cells of their own region only."""
        full = self.cells + self.fill
        at = torch.arange(full, device=device)
        if self.periodic:
            return PAD * (at >= self.cells).long()
        at = (at + self.shift) % full
        # the cells before the shift come from the other side of the walls
        return torch.where(at >= self.cells, PAD, (at < self.shift).long())

    def distances(self, device: torch.device) -> Tensor:
        """Signed distance of the cells of a window `(window, window)`, the shorter way around where it is a period."""
        at = torch.arange(self.window, device=device)
        apart = at[:, None] - at
        if self.periodic:
            apart = (apart + self.cells // 2) % self.cells - self.cells // 2
        return apart


def cut(cells: Sequence[int], window: int, shifted: bool, padding: Sequence[Padding]) -> list[Axis]:
    """How each dimension is cut; one that fits in a window is a window, which has nowhere to shift to."""
    return [
        Axis(n, min(n, window), window // 2 if shifted and n > window else 0, p == "circular")
        for n, p in zip(cells, padding, strict=True)
    ]


class WindowAttention(nn.Module):
    """softmax(cos(q, k) / temperature + bias(distance)) v among the cells of each window.

    The bias is a small network of the log-spaced distance, so that windows at the edge of a small grid can have
    another size (Liu et al. 2022, equations 2 to 4).
    """

    def __init__(self, width: int, window: int, padding: Sequence[Padding], *, shifted: bool) -> None:
        super().__init__()
        self.window, self.padding, self.shifted = window, tuple(padding), shifted
        self.heads = width // HEAD
        self.enter, self.leave = nn.Linear(width, 3 * width), nn.Linear(width, width)
        self.log_scale = nn.Parameter(torch.full((self.heads, 1, 1), math.log(10.0)))
        self.bias = nn.Sequential(nn.Linear(len(padding), 64), nn.SiLU(), nn.Linear(64, self.heads, bias=False))

    def forward(self, x: Tensor) -> Tensor:
        """`x (batch, *space, channel)` mixed within windows."""
        space = x.shape[1:-1]
        axes = cut(space, self.window, self.shifted, self.padding)
        # a period is closed before the last window is filled up, walls are not
        around, inside = ([a.shift * (a.periodic == kind) for a in axes] for kind in (True, False))
        filled = fill_up(rolled(x, [-s for s in around]), axes)
        cells = to_windows(rolled(filled, [-s for s in inside]), axes)  # (batch, window, cell, channel)
        query, key, value = self.enter(cells).unflatten(-1, (3, self.heads, HEAD)).movedim((-3, -2), (0, -3))
        scores = F.normalize(query, dim=-1) @ F.normalize(key, dim=-1).transpose(-2, -1)
        scores = scores * self.log_scale.clamp(max=SHARPEST).exp() + self.biases(axes, x)
        if any(a.fill or (a.shift and not a.periodic) for a in axes):
            scores = scores.masked_fill(strangers(axes, x.device)[:, None], -torch.inf)
        mixed = (scores.softmax(dim=-1) @ value).movedim(-3, -2).flatten(-2)
        out = rolled(from_windows(self.leave(mixed), axes), inside)
        for dim, n in enumerate(space, start=1):
            out = out.narrow(dim, 0, n)
        return rolled(out, around)

    def biases(self, axes: Sequence[Axis], like: Tensor) -> Tensor:
        """Bias for each head and pair of cells of a window `(head, cell, cell)`."""
        # per axis and pair of positions; sign(d) log2(1 + |8 d / window|) / log2(8)
        scaled = [a.distances(like.device).to(self.log_scale.dtype) * (8.0 / self.window) for a in axes]
        spaced = [d.sign() * torch.log2(1 + d.abs()) / 3.0 for d in scaled]
        n = len(axes)
        pairs = [
            d.reshape(*(s if k == j else 1 for k in range(n)), *(s if k == j else 1 for k in range(n))).expand(
                *(a.window for a in axes), *(a.window for a in axes)
            )
            for j, (d, s) in enumerate(zip(spaced, (a.window for a in axes), strict=True))
        ]
        cells = math.prod(a.window for a in axes)
        offsets = torch.stack(pairs, dim=-1).reshape(cells, cells, n)
        return LARGEST_BIAS * torch.sigmoid(self.bias(offsets)).movedim(-1, 0)


def rolled(x: Tensor, shifts: Sequence[int]) -> Tensor:
    """`x (batch, *space, channel)` moved around by whole cells."""
    return torch.roll(x, tuple(shifts), tuple(range(1, x.ndim - 1))) if any(shifts) else x


def fill_up(x: Tensor, axes: Sequence[Axis]) -> Tensor:
    """`x (batch, *space, channel)` with zeros at the end, to whole windows."""
    if not any(a.fill for a in axes):
        return x
    return F.pad(x, (0, 0, *(side for a in reversed(axes) for side in (0, a.fill))))


def to_windows(x: Tensor, axes: Sequence[Axis]) -> Tensor:
    """`(batch, *space, channel)` to `(batch, window, cell, channel)`."""
    d = len(axes)
    sides = [side for a in axes for side in ((a.cells + a.fill) // a.window, a.window)]
    order = (0, *range(1, 1 + 2 * d, 2), *range(2, 2 + 2 * d, 2), 1 + 2 * d)
    return x.reshape(x.shape[0], *sides, x.shape[-1]).permute(order).flatten(1 + d, 2 * d).flatten(1, d)


def from_windows(x: Tensor, axes: Sequence[Axis]) -> Tensor:
    """Inverse of `to_windows`."""
    d = len(axes)
    counts, windows = [(a.cells + a.fill) // a.window for a in axes], [a.window for a in axes]
    order = (0, *(axis for k in range(d) for axis in (1 + k, 1 + d + k)), 1 + 2 * d)
    full = (a.cells + a.fill for a in axes)
    return x.reshape(x.shape[0], *counts, *windows, x.shape[-1]).permute(order).reshape(x.shape[0], *full, x.shape[-1])


def strangers(axes: Sequence[Axis], device: torch.device) -> Tensor:
    """Which cells of a window must not attend to each other `(window, cell, cell)`."""
    region = torch.zeros((), dtype=torch.long, device=device)
    for axis in axes:
        region = region[..., None] * (PAD + 1) + axis.regions(device)
    cells = to_windows(region[None, ..., None], axes)[0, ..., 0]
    return cells[:, :, None] != cells[:, None, :]
