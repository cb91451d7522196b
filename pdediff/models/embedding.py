"""What a network is told besides the fields: noise level, time step, parameters, and the position in the domain."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor, nn


class LabelEmbedding(nn.Module):
    """Vector for the labels of a row: cosines and sines of each at fixed frequencies, then two dense layers.

    Label 0 is the noise label (log sigma / 4 in EDM), the others are numbers of order one. Each has dense weights of
    its own in the first layer, whose outputs are added. The frequencies are a geometric sequence between 1/2 and 16
    radians per unit of label, which is smooth enough for a calibration made at a dozen levels to be interpolated
    between them.
    """

    frequencies: Tensor

    def __init__(self, features: int, labels: int = 1, *, frequencies: int = 16) -> None:
        super().__init__()
        self.register_buffer("frequencies", torch.logspace(-1, 4, frequencies, base=2.0), persistent=False)
        self.layers = nn.Sequential(
            nn.Linear(2 * frequencies, features), nn.SiLU(), nn.Linear(features, features), nn.SiLU()
        )
        self.others = nn.ModuleList(nn.Linear(2 * frequencies, features, bias=False) for _ in range(labels - 1))

    def forward(self, label: Tensor) -> Tensor:
        """Embedding `(batch, features)`; ValueError for another number of labels than the network was built for."""
        columns = label[:, None] if label.ndim == 1 else label
        if columns.shape[1:] != (1 + len(self.others),):
            raise ValueError(f"network takes labels (batch, {1 + len(self.others)}), not {tuple(label.shape)}")
        phase = columns.to(self.frequencies.dtype)[..., None] * self.frequencies
        # sqrt(2) gives the features unit mean square, as the dense layer expects
        waves = math.sqrt(2.0) * torch.cat((phase.cos(), phase.sin()), dim=-1)
        first, *rest = self.layers
        out = first(waves[:, 0])
        for column, layer in enumerate(self.others, start=1):
            out = out + layer(waves[:, column])
        for layer in rest:
            out = layer(out)
        return out


def modulated(x: Tensor, film: Tensor) -> Tensor:
    """Channels of `x (batch, channel, *space)` scaled and shifted by row: x (1 + scale) + shift (FiLM)."""
    scale, shift = film.reshape(x.shape[0], -1, *(1,) * (x.ndim - 2)).chunk(2, dim=1)
    return torch.addcmul(shift, x, 1 + scale)


def positions(space: Sequence[int], along: Sequence[int], device: torch.device, dtype: torch.dtype) -> Tensor:
    """Cell-centre coordinates in (-1, 1), `(len(along), *space)`: the channels that tell a network where walls are."""
    axes = []
    for axis in along:
        n = space[axis]
        line = (torch.arange(n, device=device, dtype=dtype) + 0.5) * (2.0 / n) - 1.0
        shape = [1] * len(space)
        shape[axis] = n
        axes.append(line.reshape(shape).expand(tuple(space)))
    return torch.stack(axes)


def located(x: Tensor, along: Sequence[int]) -> Tensor:
    """`x` with the coordinates of these dimensions as further channels."""
    if not along:
        return x
    where = positions(x.shape[2:], along, x.device, x.dtype)
    return torch.cat((x, where.expand(x.shape[0], *where.shape)), dim=1)
