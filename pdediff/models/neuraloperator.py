"""Parts of the neuraloperator package (2.0); imported only by those who build such a network, as it takes 1.5 s.

Its spectral convolution is right on grids with an even number of cells and at constant resolution only. It undoes a
centring of the modes by the same shift, which for an odd number of cells in any dimension but the last moves all
modes by one; and it changes the resolution by cutting or filling the spectrum at its end, where in any dimension but
the last the negative modes are. Measured: on a 9 by 8 grid the output for a shifted input is off by 0.68 of its
norm; from 8 by 8 to 16 by 16 cells a field of long waves is off by 0.96.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from neuralop import models
from neuralop.layers.channel_mlp import ChannelMLP
from neuralop.layers.fno_block import FNOBlocks
from neuralop.layers.spectral_convolution import SpectralConv
from torch import Tensor, nn

from pdediff.models.fourier import resample

HIDDEN = 2  # width of the lifting and projection networks over that of the layers


class EvenSpectralConv(SpectralConv):
    """neuraloperator's spectral convolution, at constant resolution, on any grid: odd sizes pass through even ones."""

    def forward(self, x: Tensor, output_shape: Sequence[int] | None = None) -> Tensor:
        """`x (batch, inputs, *space)` to `(batch, outputs, *space)`."""
        *others, last = space = tuple(x.shape[2:])
        if not any(n % 2 for n in others):
            return super().forward(x)
        return resample(super().forward(resample(x, (*(n + n % 2 for n in others), last))), space)


def fourier_operator(modes: int, spatial: int, inputs: int, outputs: int, **options: Any) -> Any:
    """Lifting, layers and projection of a Fourier neural operator, dense or factorised."""
    return models.FNO(
        n_modes=(modes,) * spatial,
        in_channels=inputs,
        out_channels=outputs,
        positional_embedding=None,  # pyright: ignore[reportArgumentType]
        norm="group_norm",
        conv_module=EvenSpectralConv,  # pyright: ignore[reportArgumentType]
        **options,
    )


def block(inputs: int, outputs: int, modes: int, spatial: int) -> nn.Module:
    """One Fourier layer with its channel network: norm(MLP(norm(F^-1 R F x) + W x) + V x)."""
    return FNOBlocks(
        inputs,
        outputs,
        (modes,) * spatial,
        norm="group_norm",
        channel_mlp_skip="linear",
        conv_module=EvenSpectralConv,
    )


def channel_network(inputs: int, outputs: int, width: int, spatial: int) -> Any:
    """Two dense layers over the channels of each cell, as they lift and project in neuraloperator's models."""
    return ChannelMLP(inputs, outputs, HIDDEN * width, n_layers=2, n_dim=spatial)
