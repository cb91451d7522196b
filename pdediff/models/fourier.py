"""Fourier layers: change of resolution, room behind walls, and a convolution by learned multipliers."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from pdediff.models.convolution import Padding


def resample(x: Tensor, space: Sequence[int]) -> Tensor:
    """Fourier interpolation of `x (batch, channel, *space)` to another number of cells.

    Modes that both grids carry are kept, without the Nyquist mode of the coarser one: exact for fields that both
    resolve, and it commutes with shifts by whole cells of both.
    """
    for axis, n in enumerate(space, start=2):
        old = x.shape[axis]
        if n != old:
            modes = torch.fft.rfft(x, dim=axis, norm="forward").narrow(axis, 0, (min(n, old) + 1) // 2)
            x = torch.fft.irfft(modes, n=n, dim=axis, norm="forward")
    return x


def extended(x: Tensor, padding: Sequence[Padding]) -> Tensor:
    """`x` with a quarter of its size in zeros behind each dimension that has walls: the period then joins no walls."""
    # an even number of cells, and the same share of the domain on every grid of a multiple of 8
    sides = [2 * math.ceil(n * 0.625) - n if p == "zero" else 0 for n, p in zip(x.shape[2:], padding, strict=True)]
    return F.pad(x, [side for room in reversed(sides) for side in (0, room)]) if any(sides) else x


class SpectralConvolution(nn.Module):
    """y = F^-1 R F x with complex multipliers R for each pair of channels and each mode below `modes` / 2.

    Li et al. 2021, equation 4. `modes` counts the Fourier modes kept in each dimension, at most the number of cells.
    The multipliers are stored as pairs of real numbers, so it works in double precision too.
    """

    def __init__(self, inputs: int, outputs: int, modes: int, spatial: int) -> None:
        super().__init__()
        self.low = (modes + 1) // 2  # modes 0 ... low - 1, and as many negative ones less zero
        self.spatial = spatial
        kept = (*(2 * self.low - 1,) * (spatial - 1), self.low)
        self.weight = nn.Parameter(torch.randn(inputs, outputs, *kept, 2) * (0.5 / inputs) ** 0.5)

    def forward(self, x: Tensor) -> Tensor:
        """`x (batch, inputs, *space)` to `(batch, outputs, *space)`."""
        space = x.shape[2:]
        h = torch.fft.rfft(x, norm="forward").narrow(-1, 0, self.low)
        for axis in range(2, 1 + self.spatial):
            h = torch.fft.fft(h, dim=axis, norm="forward")
            h = torch.cat(
                (h.narrow(axis, 0, self.low), h.narrow(axis, h.shape[axis] - self.low + 1, self.low - 1)), axis
            )
        h = torch.einsum("bi...,io...->bo...", h, torch.view_as_complex(self.weight))
        for axis in range(2, 1 + self.spatial):
            positive, negative = h.narrow(axis, 0, self.low), h.narrow(axis, self.low, self.low - 1)
            shape = list(h.shape)
            shape[axis] = space[axis - 2] - shape[axis]
            h = torch.fft.ifft(torch.cat((positive, h.new_zeros(shape), negative), axis), dim=axis, norm="forward")
        # one dimension at a time: the last transform drops the imaginary part of mode 0, which is the symmetrisation
        # that a real field needs; transforms of several dimensions differ in what they do with it
        return torch.fft.irfft(h, n=space[-1], norm="forward")
