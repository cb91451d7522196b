"""Quantities made of a field: vorticity, speed, and sensors that saturate."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from pdediff.errors import DataError
from pdediff.observe.convolution import cast_like, wave_numbers
from pdediff.observe.operator import Differentiable, Linear
from pdediff.observe.placed import Placed
from pdediff.types import Field, Positive


@dataclass(frozen=True)
class Vorticity(Placed, Linear):
    """w = v_x - u_y of a plane periodic velocity (u, v), u along x and v along y, by spectral derivatives.

    Fields (batch, 2, *time, y, x) give (batch, 1, *time, y, x); `lengths` is the period in y and in x. Exact for
    resolved fields; the highest mode of an even grid, whose derivative the grid cannot show, is dropped.
    Raises DataError for fields without two components.
    """

    lengths: tuple[float, float]

    def spectrum(self, shape: Sequence[int]) -> Tensor:
        """(-i k_y, i k_x) on the modes of `torch.fft.rfftn`, (2, y, x)."""
        k = wave_numbers(shape, self.lengths)
        for axis, n in enumerate(shape):
            k[axis] = torch.where(k[axis].abs() * self.lengths[axis] < torch.pi * n * (1 - 1e-9), k[axis], 0.0)
        return torch.stack(torch.broadcast_tensors(-1j * k[0], 1j * k[1]))

    def __call__(self, x: Field) -> Field:
        if x.dim() < 4 or x.shape[1] != 2:
            raise DataError(f"vorticity needs the channels (u, v) of plane fields; got {tuple(x.shape[1:])}")
        factors = self._factors(x)
        modes = (factors * torch.fft.rfft2(x)).sum(1, keepdim=True)
        return torch.fft.irfft2(modes, s=x.shape[-2:])

    def vjp(self, x: Field, w: Tensor) -> Field:
        return torch.fft.irfft2(self._factors(x).conj() * torch.fft.rfft2(w), s=x.shape[-2:])

    def _factors(self, x: Tensor) -> Tensor:
        shape = x.shape[-2:]
        factors = self.placed((shape, x.device, x.dtype), lambda: cast_like(self.spectrum(shape), x))
        return factors.reshape(2, *[1] * (x.dim() - 4), *factors.shape[1:])


@dataclass(frozen=True)
class Speed(Differentiable):
    """|u| over all channels: (batch, channel, *space) gives (batch, 1, *space).

    It has no derivative where the speed is 0; there 0 is taken, the middle of its subgradients.
    """

    linear: ClassVar[bool] = False

    def __call__(self, x: Field) -> Field:
        return torch.linalg.vector_norm(x, dim=1, keepdim=True)

    def jvp(self, x: Field, v: Field) -> Field:
        return (self._direction(x) * v).sum(1, keepdim=True)

    def vjp(self, x: Field, w: Tensor) -> Field:
        return self._direction(x) * w

    def _direction(self, x: Field) -> Field:
        speed = self(x)
        return torch.where(speed > 0, x / torch.where(speed > 0, speed, 1.0), 0.0)


@dataclass(frozen=True)
class Saturation(Differentiable):
    """w / (1 + |w| / limit), pointwise: a sensor of slope 1 at 0 that never reads more than `limit`, in units of w.

    Rozet and Louppe 2023, section 4, with limit 1 (w / (1 + |w|)).
    """

    limit: Positive = 1.0
    linear: ClassVar[bool] = False

    def __call__(self, x: Field) -> Tensor:
        return x / (1 + x.abs() / self.limit)

    def jvp(self, x: Field, v: Field) -> Tensor:
        return v / (1 + x.abs() / self.limit) ** 2

    def vjp(self, x: Field, w: Tensor) -> Field:
        return w / (1 + x.abs() / self.limit) ** 2
