"""Periodic convolutions, diagonal in Fourier space: blur and low-pass."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from pdediff.errors import DataError
from pdediff.observe.operator import Linear
from pdediff.observe.placed import Placed
from pdediff.types import Field, NonNegative, Positive


def wave_numbers(shape: Sequence[int], lengths: Sequence[float]) -> list[Tensor]:
    """2 pi m / length by axis, on the modes of `torch.fft.rfftn`, each shaped to broadcast."""
    if len(shape) != len(lengths) or not all(length > 0 for length in lengths):
        raise DataError(f"one positive length an axis is needed; got lengths {tuple(lengths)} of {tuple(shape)} points")
    out = []
    for axis, (n, length) in enumerate(zip(shape, lengths, strict=True)):
        last = axis == len(shape) - 1
        modes = (torch.fft.rfftfreq if last else torch.fft.fftfreq)(n, length / n, dtype=torch.float64)
        out.append((2 * torch.pi * modes).reshape([-1 if i == axis else 1 for i in range(len(shape))]))
    return out


def cast_like(spectrum: Tensor, x: Tensor) -> Tensor:
    """A spectrum on the device and in the precision of a real field."""
    return spectrum.to(x.device, x.dtype.to_complex() if spectrum.is_complex() else x.dtype)


@dataclass(frozen=True, eq=False)
class PeriodicConvolution(Placed, Linear):
    """Base: y = F^-1 (spectrum F x) on the last axes of every channel; a time axis in front of them is left alone."""

    @property
    def dims(self) -> int:
        """Number of axes that are transformed."""
        raise TypeError(f"{type(self).__name__} defines no axes")

    def spectrum(self, shape: Sequence[int]) -> Tensor:
        """Factors of the modes of `torch.fft.rfftn` on a grid of `shape`: the eigenvalues."""
        raise TypeError(f"{type(self).__name__} defines no spectrum")

    def __call__(self, x: Field) -> Field:
        return self._filtered(x, self._factors(x))

    def vjp(self, x: Field, w: Tensor) -> Field:
        return self._filtered(w, self._factors(w).conj())

    def _factors(self, x: Tensor) -> Tensor:
        shape = x.shape[-self.dims :]
        return self.placed((shape, x.device, x.dtype), lambda: cast_like(self.spectrum(shape), x))

    def _filtered(self, x: Tensor, factors: Tensor) -> Tensor:
        axes = tuple(range(-self.dims, 0))
        return torch.fft.irfftn(torch.fft.rfftn(x, dim=axes) * factors, s=x.shape[-self.dims :], dim=axes)


@dataclass(frozen=True, eq=False)
class Convolution(PeriodicConvolution):
    """y[i] = sum_j kernel[j] x[i - j] over a period; kernel (*space) on the field's grid, its origin at index 0.

    A kernel density in physical units is multiplied by the volume of a cell first.
    """

    kernel: Tensor

    @property
    def dims(self) -> int:
        return self.kernel.dim()

    def spectrum(self, shape: Sequence[int]) -> Tensor:
        """Transform of the kernel. Raises DataError for another grid than the kernel's."""
        if tuple(shape) != tuple(self.kernel.shape):
            raise DataError(f"the kernel has {tuple(self.kernel.shape)} points, the field {tuple(shape)}")
        return torch.fft.rfftn(self.kernel.double())


@dataclass(frozen=True)
class GaussianBlur(PeriodicConvolution):
    """Convolution with a periodic Gaussian of standard deviation `width`: factors exp(-|k|^2 width^2 / 2).

    `width` and the period `lengths` by axis in the same units; exact for every field that the grid resolves, and the
    same on every grid.
    """

    width: NonNegative
    lengths: tuple[float, ...]

    @property
    def dims(self) -> int:
        return len(self.lengths)

    def spectrum(self, shape: Sequence[int]) -> Tensor:
        """exp(-|k|^2 width^2 / 2), real."""
        return (
            torch.stack(
                torch.broadcast_tensors(*[-0.5 * (k * self.width) ** 2 for k in wave_numbers(shape, self.lengths)])
            )
            .sum(0)
            .exp()
        )


@dataclass(frozen=True)
class LowPass(PeriodicConvolution):
    """The waves no shorter than `wavelength`: factor 1 where |k| <= 2 pi / wavelength, else 0; a projection.

    `wavelength` and the period `lengths` by axis in the same units.
    """

    wavelength: Positive
    lengths: tuple[float, ...]

    @property
    def dims(self) -> int:
        return len(self.lengths)

    def spectrum(self, shape: Sequence[int]) -> Tensor:
        """1 inside the ball of resolved modes and 0 outside, real."""
        squares = torch.broadcast_tensors(*[k**2 for k in wave_numbers(shape, self.lengths)])
        limit = (2 * torch.pi / self.wavelength) ** 2
        # A wave of exactly the limit passes, whatever the rounding of its length.
        return (torch.stack(squares).sum(0) <= limit * (1 + 1e-9)).double()
