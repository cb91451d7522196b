"""U-shaped neural operator: neuraloperator's Fourier layers on grids that get coarser and finer again."""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from pdediff.errors import ConfigError
from pdediff.models.convolution import Padding, crop, padding_of, require_dimensions
from pdediff.models.embedding import LabelEmbedding, located, modulated
from pdediff.models.fno import require_cells
from pdediff.models.fourier import extended, resample
from pdediff.models.initialise import seeded
from pdediff.types import PositiveInt


@dataclass(frozen=True)
class UNO:
    """Hyper-parameters of a U-shaped neural operator (Rahman et al. 2023); `build` makes the network.

    A Fourier layer per entry of `widths` on the way down and one on the way up, each level at half the resolution
    and with half the `modes` of the one before, joined by skip connections. The resolution is changed by Fourier
    interpolation between the layers: the change inside neuraloperator's layers puts negative modes in wrong places
    in all dimensions but the last, and interpolates the skips with fixed ends, which no periodic field has.
    Labels, `positions`, `padding` and float32 are as in `FNO`.

    Good values: `modes` up to the number of cells of the coarsest grid the network will see.
    """

    modes: PositiveInt = 12
    widths: tuple[PositiveInt, ...] = (32, 48, 64)
    features: PositiveInt = 128
    positions: bool = True
    padding: Padding | tuple[Padding, ...] = "circular"

    def build(self, channels: int, spatial: int, seed: int, *, inputs: int | None = None, labels: int = 1) -> nn.Module:
        """Network `(x (batch, inputs, *space), label) -> (batch, channels, *space)`, see `Network`.

        The global random state is left untouched. Raises ConfigError if the options do not fit the dimensions.
        """
        require_dimensions("UNO", spatial)
        if not self.widths:
            raise ConfigError("network.widths=[] needs an entry for each level")
        if self.modes < (least := 2 ** len(self.widths)):
            raise ConfigError(f"network.modes={self.modes} must be at least {least} for {len(self.widths)} levels")
        padding = padding_of(self.padding, spatial)
        # only for those who use it; and before the seed is set, as an import may draw numbers
        from pdediff.models import neuraloperator  # noqa: F401

        return seeded(lambda: _UNO(self, (inputs or channels, channels), labels, padding), seed)


class _UNO(nn.Module):
    def __init__(self, config: UNO, channels: tuple[int, int], labels: int, padding: tuple[Padding, ...]) -> None:
        super().__init__()
        from pdediff.models.neuraloperator import block, channel_network

        spatial, widths = len(padding), config.widths
        self.modes, self.padding = config.modes, padding
        self.walls = list(range(spatial)) if config.positions else []
        self.embedding = LabelEmbedding(config.features, labels)
        self.lifting = channel_network(channels[0] + len(self.walls), widths[0], widths[0], spatial)
        entering = (widths[0], *widths[:-1])
        joined = [widths[k] + widths[min(k + 1, len(widths) - 1)] for k in range(len(widths))]
        self.film_down = nn.ModuleList(nn.Linear(config.features, 2 * n) for n in entering)
        self.film_up = nn.ModuleList(nn.Linear(config.features, 2 * n) for n in joined)
        self.down, self.up = nn.ModuleList(), nn.ModuleList()
        for k, width in enumerate(widths):
            modes = config.modes // 2**k
            self.down.append(block(entering[k], width, modes, spatial))
            self.up.append(block(joined[k], width, modes, spatial))
        self.projection = channel_network(widths[0], channels[1], widths[0], spatial)
        last = self.projection.fcs[-1]
        nn.init.zeros_(last.weight)
        nn.init.zeros_(last.bias)

    def forward(self, x: Tensor, label: Tensor) -> Tensor:
        """Network output on the grid of `x`; ValueError if a dimension has fewer cells than `modes`."""
        space = tuple(x.shape[2:])
        require_cells("UNO", self.modes, space)
        # half precision has no Fourier transform of every size
        with torch.autocast(x.device.type, enabled=False):
            embedded = self.embedding(label)
            x = extended(self.lifting(located(x, self.walls)), self.padding)
            sizes = [tuple(-(-n // 2**k) for n in x.shape[2:]) for k in range(len(self.down))]
            skips: list[Tensor] = []
            for film, layer, size in zip(self.film_down, self.down, sizes, strict=True):
                x = F.gelu(layer(modulated(resample(x, size), film(embedded))))
                skips.append(x)
            for k in reversed(range(len(self.up))):
                joined = torch.cat((resample(x, sizes[k]), skips[k]), dim=1)
                x = F.gelu(self.up[k](modulated(joined, self.film_up[k](embedded))))
            return self.projection(crop(x, space))
