"""Local-global mixing: products of a Fourier layer and a convolution, stepped like a dynamical system."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

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
    padding_of,
    require_dimensions,
    walls_of,
)
from pdediff.models.embedding import LabelEmbedding, located, modulated
from pdediff.models.fno import require_cells
from pdediff.models.fourier import SpectralConvolution, extended
from pdediff.models.initialise import seeded
from pdediff.types import PositiveInt


@dataclass(frozen=True)
class DyMixOp:
    """Hyper-parameters of a dynamics-informed mixing operator (Lai et al. 2025, arXiv 2508.13490); `build` makes it.

    Lifted to c, the field takes `layers` steps c <- c + g_i(labels) F_i(c), and the result is c_0 + sum_i w_i F_i.
    F(c) = GELU(L c + D c + A(G c * M c)): L and M are 3-point convolutions, D one whose weights sum to zero (a
    difference), G a Fourier layer of `modes` modes, A two pointwise layers; * is the product at each cell, as in
    u grad u. The gates g are between 0 and 1 and take the time step from the labels. The input of each F is
    normalised, scaled and shifted by the labels: products of products would grow without bound.

    Good values: the defaults; `modes` up to the number of cells of the coarsest grid. L, D and M have the cell as
    their scale, so train at the resolution of use. `padding` and `positions` are as in `UNet`; walls get a quarter of
    the size in zeros behind them, which the Fourier layers see.
    """

    width: PositiveInt = 32
    layers: PositiveInt = 4
    modes: PositiveInt = 12
    features: PositiveInt = 128
    padding: Padding | tuple[Padding, ...] = "zero"
    positions: bool = True

    def build(self, channels: int, spatial: int, seed: int, *, inputs: int | None = None, labels: int = 1) -> nn.Module:
        """Network `(x (batch, inputs, *space), label) -> (batch, channels, *space)`, see `Network`.

        The global random state is left untouched. Raises ConfigError if the options do not fit the dimensions.
        """
        require_dimensions("DyMixOp", spatial)
        if self.width % GROUP:
            raise ConfigError(f"network.width={self.width} must be a multiple of {GROUP}")
        padding = padding_of(self.padding, spatial)
        return seeded(lambda: _DyMixOp(self, (inputs or channels, channels), labels, padding), seed)


class _DyMixOp(nn.Module):
    def __init__(self, config: DyMixOp, channels: tuple[int, int], labels: int, padding: tuple[Padding, ...]) -> None:
        super().__init__()
        self.modes, self.padding = config.modes, padding
        self.walls = walls_of(padding, config.positions)
        pointwise = POINTWISE[len(padding) - 1]
        self.embedding = LabelEmbedding(config.features, labels)
        self.lift = Convolution(channels[0] + len(self.walls), 2 * config.width, padding)
        self.reduce = pointwise(2 * config.width, config.width, 1)
        self.layers = nn.ModuleList(_Mixing(config, padding) for _ in range(config.layers))
        # the last layer only adds to the sum
        self.gates = nn.ModuleList(nn.Linear(config.features, 1) for _ in range(config.layers - 1))
        self.weights = nn.Parameter(torch.full((config.layers,), 1.0 / config.layers))
        self.expand = pointwise(config.width, 2 * config.width, 1)
        self.leave = Convolution(2 * config.width, channels[1], padding, zero=True)

    def forward(self, x: Tensor, label: Tensor) -> Tensor:
        """Network output on the grid of `x`; ValueError if a dimension has fewer cells than `modes`."""
        space = tuple(x.shape[2:])
        require_cells("DyMixOp", self.modes, space)
        # half precision has no Fourier transform of every size
        with torch.autocast(x.device.type, enabled=False):
            embedded = self.embedding(label)
            start = state = self.reduce(F.gelu(self.lift(located(x, self.walls))))
            out = start
            for k, layer in enumerate(self.layers):
                change = layer(state, embedded)
                out = out + self.weights[k] * change
                if k < len(self.gates):
                    gate = torch.sigmoid(self.gates[k](embedded)).reshape(-1, *(1,) * (x.ndim - 1))
                    state = state + gate * change
            return crop(self.leave(F.gelu(self.expand(out))), space)


class _Mixing(nn.Module):
    def __init__(self, config: DyMixOp, padding: Sequence[Padding]) -> None:
        super().__init__()
        self.padding, width = tuple(padding), config.width
        pointwise = POINTWISE[len(self.padding) - 1]
        self.norm = GroupNorm(width)
        self.film = nn.Linear(config.features, 2 * width)
        self.everywhere = SpectralConvolution(width, width, config.modes, len(self.padding))
        self.nearby = Convolution(width, width, padding)
        self.linear = Convolution(width, width, padding)
        self.difference = Convolution(width, width, padding)
        self.dense = nn.Sequential(pointwise(width, 2 * width, 1), nn.GELU(), pointwise(2 * width, width, 1))

    def forward(self, c: Tensor, embedded: Tensor) -> Tensor:
        c = modulated(self.norm(c), self.film(embedded))
        mixed = crop(self.everywhere(extended(c, self.padding)), c.shape[2:]) * self.nearby(c)
        sums = self.difference.conv.weight.flatten(2).sum(dim=-1)  # what the difference of a constant must lose
        constant = torch.einsum("oi,bi...->bo...", sums, c)
        return F.gelu(self.linear(c) + self.difference(c) - constant + self.dense(mixed))
