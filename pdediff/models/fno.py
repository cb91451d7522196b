"""Fourier neural operator of the neuraloperator package, told the noise level before every layer."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from pdediff.errors import ConfigError
from pdediff.models.embedding import NoiseEmbedding, positions
from pdediff.models.initialise import seeded
from pdediff.types import PositiveInt


@dataclass(frozen=True)
class FNO:
    """Hyper-parameters of a Fourier neural operator (Li et al. 2021); `build` makes the network.

    The layers are those of neuraloperator: x <- act(norm(F^-1 R F x) + W x), then a channel MLP. The noise level
    scales and shifts the channels before each layer; neuraloperator's own adaptive norm takes one embedding for a
    whole batch, and a batch here mixes noise levels. `modes` counts the Fourier modes kept in each dimension, at
    most the number of cells of the coarsest grid the network will see. Best with a smooth noise field: white noise
    has most of its energy in modes that the operator drops. Works in float32 only (the package fixes complex64).
    """

    modes: PositiveInt = 12
    width: PositiveInt = 32
    layers: PositiveInt = 4
    features: PositiveInt = 128
    positions: bool = True

    def build(self, channels: int, spatial: int, seed: int) -> nn.Module:
        """Network `(x (batch, channels, *space), noise_label (batch,)) -> like x` with weights drawn from `seed`.

        The global random state is left untouched. Raises ConfigError for more than three space dimensions.
        """
        if spatial not in (1, 2, 3):
            raise ConfigError(f"FNO works in 1, 2 or 3 space dimensions; the fields have {spatial}")
        # 1.5 s of imports, only for those who use it; and before the seed is set, as an import may draw numbers
        from neuralop import models

        def make() -> nn.Module:
            operator = models.FNO(
                n_modes=(self.modes,) * spatial,
                in_channels=channels + (spatial if self.positions else 0),
                out_channels=channels,
                hidden_channels=self.width,
                n_layers=self.layers,
                positional_embedding=None,  # pyright: ignore[reportArgumentType]
                norm="group_norm",
            )
            return _FNO(self, operator, spatial)

        return seeded(make, seed)


class _FNO(nn.Module):
    lifting: nn.Module
    blocks: nn.Module
    projection: nn.Module

    def __init__(self, config: FNO, operator: Any, spatial: int) -> None:
        super().__init__()
        # the parts, not the model: its state_dict carries pickled constructor arguments
        self.lifting, self.blocks, self.projection = operator.lifting, operator.fno_blocks, operator.projection
        self.modes = config.modes
        self.walls = list(range(spatial)) if config.positions else []
        self.embedding = NoiseEmbedding(config.features)
        self.film = nn.ModuleList(nn.Linear(config.features, 2 * config.width) for _ in range(config.layers))
        last = operator.projection.fcs[-1]
        nn.init.zeros_(last.weight)
        nn.init.zeros_(last.bias)

    def forward(self, x: Tensor, noise_label: Tensor) -> Tensor:
        """Network output like `x`; ValueError if a dimension has fewer cells than `modes`."""
        space = tuple(x.shape[2:])
        if min(space) < self.modes:
            raise ValueError(f"FNO with modes={self.modes} needs as many cells in each dimension; the grid is {space}")
        # half precision has no Fourier transform of every size
        with torch.autocast(x.device.type, enabled=False):
            embedded = self.embedding(noise_label)
            if self.walls:
                where = positions(space, self.walls, x.device, x.dtype)
                x = torch.cat((x, where.expand(x.shape[0], *where.shape)), dim=1)
            x = self.lifting(x)
            for index, film in enumerate(self.film):
                scale, shift = film(embedded).reshape(x.shape[0], -1, *(1,) * len(space)).chunk(2, dim=1)
                x = self.blocks(torch.addcmul(shift, x, 1 + scale), index)
            return self.projection(x)
