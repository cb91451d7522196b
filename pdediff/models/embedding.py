"""What a network is told besides the noisy field: the noise level and the position in the domain."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor, nn


class NoiseEmbedding(nn.Module):
    """Vector for a noise label (log sigma / 4 in EDM): cosines and sines at fixed frequencies, then two dense layers.

    The frequencies are a geometric sequence between 1/2 and 16 radians per unit of label, which is smooth enough
    for a calibration made at a dozen levels to be interpolated between them.
    """

    frequencies: Tensor

    def __init__(self, features: int, frequencies: int = 16) -> None:
        super().__init__()
        self.register_buffer("frequencies", torch.logspace(-1, 4, frequencies, base=2.0), persistent=False)
        self.layers = nn.Sequential(
            nn.Linear(2 * frequencies, features), nn.SiLU(), nn.Linear(features, features), nn.SiLU()
        )

    def forward(self, noise_label: Tensor) -> Tensor:
        phase = noise_label[:, None].to(self.frequencies.dtype) * self.frequencies
        # sqrt(2) gives the features unit mean square, as the dense layer expects
        return self.layers(math.sqrt(2.0) * torch.cat((phase.cos(), phase.sin()), dim=1))


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
