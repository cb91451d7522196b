"""Fourier neural operators of the neuraloperator package, dense and factorised, told their labels at every layer."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from pdediff.models.convolution import Padding, crop, padding_of, require_dimensions
from pdediff.models.embedding import LabelEmbedding, located, modulated
from pdediff.models.fourier import extended
from pdediff.models.initialise import seeded
from pdediff.types import Fraction, PositiveInt


@dataclass(frozen=True)
class FNO:
    """Hyper-parameters of a Fourier neural operator (Li et al. 2021); `build` makes the network.

    The layers are those of neuraloperator: x <- act(norm(F^-1 R F x) + W x), then a channel MLP. The labels scale
    and shift the channels before each layer; neuraloperator's own adaptive norm takes one embedding for a whole
    batch, and a batch here mixes noise levels. `modes` counts the Fourier modes kept in each dimension, at most the
    number of cells of the coarsest grid the network will see. Best with a smooth noise field: white noise has most
    of its energy in modes that the operator drops. Works in float32 only (the package fixes complex64).

    Good values: `positions=False` on a periodic domain, where it then commutes with shifts; `padding="zero"`, one
    word or one per dimension, for a field that does not continue at the opposite wall: the layers see a quarter of
    the size in zeros behind it.
    """

    modes: PositiveInt = 12
    width: PositiveInt = 32
    layers: PositiveInt = 4
    features: PositiveInt = 128
    positions: bool = True
    padding: Padding | tuple[Padding, ...] = "circular"

    def build(self, channels: int, spatial: int, seed: int, *, inputs: int | None = None, labels: int = 1) -> nn.Module:
        """Network `(x (batch, inputs, *space), label) -> (batch, channels, *space)`, see `Network`.

        The global random state is left untouched. Raises ConfigError for more than three space dimensions.
        """
        return _build(self, (inputs or channels, channels), spatial, seed, labels)


@dataclass(frozen=True)
class TFNO:
    """Fourier neural operator with Tucker-factorised multipliers (Kossaifi et al. 2024); `build` makes the network.

    R = C x1 U1 ... : `rank` is the share of the parameters of the dense multipliers that core and factors have.
    All else is as in `FNO`. Good values: rank 0.1 in 2-D; in 1-D there is little to save.
    """

    modes: PositiveInt = 12
    width: PositiveInt = 32
    layers: PositiveInt = 4
    rank: Fraction = 0.1
    features: PositiveInt = 128
    positions: bool = True
    padding: Padding | tuple[Padding, ...] = "circular"

    def build(self, channels: int, spatial: int, seed: int, *, inputs: int | None = None, labels: int = 1) -> nn.Module:
        """Network `(x (batch, inputs, *space), label) -> (batch, channels, *space)`, see `Network`.

        The global random state is left untouched. Raises ConfigError for more than three space dimensions.
        """
        return _build(
            self, (inputs or channels, channels), spatial, seed, labels, factorization="Tucker", rank=self.rank
        )


def _build(
    config: FNO | TFNO, channels: tuple[int, int], spatial: int, seed: int, labels: int, **factors: Any
) -> nn.Module:
    require_dimensions(type(config).__name__, spatial)
    padding = padding_of(config.padding, spatial)
    # only for those who use it; and before the seed is set, as an import may draw numbers
    from pdediff.models.neuraloperator import fourier_operator

    inputs = channels[0] + (spatial if config.positions else 0)

    def make() -> nn.Module:
        operator = fourier_operator(
            config.modes, spatial, inputs, channels[1], hidden_channels=config.width, n_layers=config.layers, **factors
        )
        return _FNO(config, operator, labels, padding)

    return seeded(make, seed)


class _FNO(nn.Module):
    lifting: nn.Module
    blocks: nn.Module
    projection: nn.Module

    def __init__(self, config: FNO | TFNO, operator: Any, labels: int, padding: tuple[Padding, ...]) -> None:
        super().__init__()
        # the parts, not the model: its state_dict carries pickled constructor arguments
        self.lifting, self.blocks, self.projection = operator.lifting, operator.fno_blocks, operator.projection
        self.kind, self.modes, self.padding = type(config).__name__, config.modes, padding
        self.walls = list(range(len(padding))) if config.positions else []
        self.embedding = LabelEmbedding(config.features, labels)
        self.film = nn.ModuleList(nn.Linear(config.features, 2 * config.width) for _ in range(config.layers))
        last = operator.projection.fcs[-1]
        nn.init.zeros_(last.weight)
        nn.init.zeros_(last.bias)

    def forward(self, x: Tensor, label: Tensor) -> Tensor:
        """Network output on the grid of `x`; ValueError if a dimension has fewer cells than `modes`."""
        space = tuple(x.shape[2:])
        require_cells(self.kind, self.modes, space)
        # half precision has no Fourier transform of every size
        with torch.autocast(x.device.type, enabled=False):
            embedded = self.embedding(label)
            x = extended(self.lifting(located(x, self.walls)), self.padding)
            for index, film in enumerate(self.film):
                x = self.blocks(modulated(x, film(embedded)), index)
            return self.projection(crop(x, space))


def require_cells(kind: str, modes: int, space: tuple[int, ...]) -> None:
    """ValueError if a dimension has fewer cells than the network has modes."""
    if min(space) < modes:
        raise ValueError(f"{kind} with modes={modes} needs as many cells in each dimension; the grid is {space}")
