"""Orthonormal wavelets of fields on grids: another basis, in which white noise stays white."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from pdediff.errors import DataError
from pdediff.models.convolution import to_channels, to_space
from pdediff.types import Field, PositiveInt

Family = Literal["haar", "db2", "db3"]


@dataclass(frozen=True)
class Wavelet:
    """Coefficients of fields as channels of a grid that is 2^levels times coarser in every dimension.

    Along an axis with low-pass filter h (periodic, n even; Daubechies 1992, section 6.4) and g_m = (-1)^m h_{M-1-m}:

        a_k = sum_m h_m x_{2k+m},   d_k = sum_m g_m x_{2k+m}   (indices mod n);

    a level takes all axes of the averages of the one before. Details of finer levels are cut in tiles, which become
    channels: (batch, c, *n) to (batch, c 2^(levels dims), *(n / 2^levels)), averages first, coarsest details next.
    The map W is orthonormal: `inverse` is its adjoint, |W x| = |x|, and W eps of white noise is white, so that every
    denoiser, sampler and guidance of the package works on coefficients as on fields (Hu et al. 2025,
    "Wavelet Diffusion Neural Operator", who use biorthogonal wavelets with padding).

    Good values: haar and one level for fields with jumps and for time, which does not wrap around; db2 for smooth
    periodic fields. Raises DataError for a grid that 2^levels does not divide.
    """

    family: Family = "haar"
    levels: PositiveInt = 1

    def __call__(self, x: Field) -> Field:
        """Coefficients of the fields."""
        self._check(x.shape[2:])
        parts, average = [], x
        for level in range(self.levels):
            average, details = _split(average, self._low(x))
            parts.append(to_channels(details, 2 ** (self.levels - 1 - level)))
        return torch.cat([average, *reversed(parts)], 1)

    def inverse(self, c: Field) -> Field:
        """The fields of coefficients: the inverse and the adjoint."""
        dims = c.dim() - 2
        bands = 2**dims
        channels = self._channels(c.shape[1], bands)
        average, rest = c[:, :channels], c[:, channels:]
        for level in reversed(range(self.levels)):
            finer = self.levels - 1 - level
            count = channels * (bands - 1) * bands**finer
            details, rest = rest[:, :count], rest[:, count:]
            average = _joined(average, to_space(details, 2**finer), self._low(c))
        return average

    def shape(self, shape: Sequence[int]) -> tuple[int, ...]:
        """(channel, *space) of the coefficients of fields (channel, *space)."""
        channels, *space = shape
        self._check(space)
        return (channels * 2 ** (self.levels * len(space)), *(n // 2**self.levels for n in space))

    def _low(self, like: Tensor) -> Tensor:
        return torch.tensor(_FILTERS[self.family], dtype=like.dtype, device=like.device)

    def _check(self, space: Sequence[int]) -> None:
        tile = 2**self.levels
        if any(n % tile for n in space):
            grid = "x".join(map(str, space))
            raise DataError(f"{self.levels} levels of wavelets need sides that {tile} divides; the grid is {grid}")

    def _channels(self, channels: int, bands: int) -> int:
        each = bands**self.levels
        if channels % each:
            raise DataError(
                f"coefficients of {self.levels} levels come in {each} channels a field, not {channels} in all"
            )
        return channels // each


def _daubechies_3() -> tuple[float, ...]:
    r = math.sqrt(10.0)
    s = math.sqrt(5.0 + 2.0 * r)
    raw = (1 + r + s, 5 + r + 3 * s, 10 - 2 * r + 2 * s, 10 - 2 * r - 2 * s, 5 + r - 3 * s, 1 + r - s)
    return tuple(h / (16.0 * math.sqrt(2.0)) for h in raw)


_THREE = math.sqrt(3.0)
_FILTERS: dict[str, tuple[float, ...]] = {
    "haar": (math.sqrt(0.5), math.sqrt(0.5)),
    "db2": tuple(h / (4.0 * math.sqrt(2.0)) for h in (1 + _THREE, 3 + _THREE, 3 - _THREE, 1 - _THREE)),
    "db3": _daubechies_3(),
}


def _high(low: Tensor) -> Tensor:
    """The mirror filter g_m = (-1)^m h_{M-1-m}."""
    signs = torch.ones_like(low)
    signs[1::2] = -1.0
    return signs * low.flip(0)


def _analysed(x: Tensor, low: Tensor, axis: int) -> tuple[Tensor, Tensor]:
    """Averages and details along one axis; x_{2k+2j} is the even half moved by j, x_{2k+2j+1} the odd one."""
    even, odd = x.unflatten(axis, (-1, 2)).unbind(axis + 1)
    shifted = [half.roll(-j, axis) for j in range(len(low) // 2) for half in (even, odd)]
    return _sum(low, shifted), _sum(_high(low), shifted)


def _synthesised(average: Tensor, details: Tensor, low: Tensor, axis: int) -> Tensor:
    """The transpose of `_analysed`."""
    high = _high(low)
    halves = []
    for parity in (0, 1):
        moved = [part.roll(j, axis) for part in (average, details) for j in range(len(low) // 2)]
        halves.append(_sum(torch.cat([low[parity::2], high[parity::2]]), moved))
    return torch.stack(halves, axis + 1).flatten(axis, axis + 1)


def _sum(weights: Tensor, terms: Sequence[Tensor]) -> Tensor:
    total = weights[0] * terms[0]
    for weight, term in zip(weights[1:], terms[1:], strict=True):
        total = total + weight * term
    return total


def _split(x: Tensor, low: Tensor) -> tuple[Tensor, Tensor]:
    """Averages (batch, c, ...) and details (batch, (2^dims - 1) c, ...) of one level."""
    parts = [x]
    for axis in range(2, x.dim()):
        parts = [half for part in parts for half in _analysed(part, low, axis)]
    return parts[0], torch.cat(parts[1:], 1)


def _joined(average: Tensor, details: Tensor, low: Tensor) -> Tensor:
    """The inverse of `_split`."""
    parts = [average, *details.split(average.shape[1], 1)]
    for axis in range(average.dim() - 1, 1, -1):
        parts = [_synthesised(parts[i], parts[i + 1], low, axis) for i in range(0, len(parts), 2)]
    return parts[0]
