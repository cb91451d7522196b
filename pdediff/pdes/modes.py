"""Fourier modes of a periodic box, and what a semilinear equation says about itself in terms of them."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from functools import cache
from types import MappingProxyType
from typing import Any, Protocol

import torch
from torch import Tensor


class Modes:
    """Fourier modes of a periodic box of equal sides: wave numbers, transforms and the 2/3 rule.

    Spectra are Fourier coefficients (independent of the grid), complex `(batch, [component,] *modes)`; `live` names
    the modes |m| < n/3 of every axis. The last axis holds m >= 0 only and ends soon after the last live mode, the
    others all n. `length` is the side of each row's box, `(batch,)` or `(1,)`; `parameters` are numbers `(batch,)` or
    fields `(batch, *space)` by name. Values have the type `dtype`; wave numbers and parameters are float64 always.

    In memory the axes of a spectrum come in reverse, the first one contiguous: transforms along it then copy nothing.
    Factors that went through `cast` lie the same way.
    """

    def __init__(
        self,
        points: int,
        dims: int,
        length: Tensor,
        parameters: Mapping[str, Tensor] = MappingProxyType({}),
        components: bool = False,
        dtype: torch.dtype = torch.float64,
    ) -> None:
        last = (points - 1) // 3 + 1
        self.points, self.dims, self.dtype = points, dims, dtype
        self.kept = _kept(last, points, dims)
        self._parameters = parameters
        self._row = (-1, *[1] * (dims + components))
        self._padded: dict[tuple[torch.Size, bool], tuple[Tensor, Tensor]] = {}
        numbers = torch.fft.fftfreq(points, 1.0 / points, dtype=torch.float64, device=length.device)
        unit = (2.0 * math.pi / length.double()).reshape(self._row)
        axes, live = [], torch.ones((), dtype=torch.bool, device=length.device)
        for axis in range(dims):
            m = numbers[: self.kept].abs() if axis == dims - 1 else numbers
            m = m.reshape(-1, *[1] * (dims - 1 - axis))
            axes.append(unit * m)
            live = live & (m.abs() < last)
        self.live = live
        self._mask = self.cast(live.double())
        half = torch.arange(self.kept, device=length.device)
        self._twice = self.cast(torch.where((half > 0) & (2 * half < points), 2.0, 1.0).to(torch.complex128))
        self.k = tuple(axes)
        """Wave numbers 2 pi m / length of each axis, in array order, broadcastable to a spectrum."""
        squared = torch.zeros((), dtype=torch.float64, device=length.device)
        for k in axes:
            squared = squared + k * k
        self.squared = squared

    def parameter(self, name: str) -> Tensor:
        """A number of each row, broadcastable to spectra and to values, or a field, to values; float64."""
        value = self._parameters[name].double()
        return value.reshape(*self._row[: -self.dims], *(value.shape[1:] or self._row[-self.dims :]))

    def cast(self, factor: Tensor) -> Tensor:
        """A float64 factor of spectra or values in the type of the state, and a spectrum's in its order in memory."""
        factor = factor.to(self.dtype.to_complex() if factor.is_complex() else self.dtype)
        if factor.ndim < self.dims or factor.shape[-1] != self.kept:
            return factor
        first = factor.ndim - self.dims
        order = (*range(first), *reversed(range(first, factor.ndim)))
        return factor.permute(order).contiguous().permute(order)

    def to_space(self, spectrum: Tensor) -> Tensor:
        """Values on the grid."""
        if _recording(spectrum):
            return _Synthesis.apply(spectrum, self)  # type: ignore[return-value]
        return self.synthesis(spectrum)

    def to_modes(self, values: Tensor) -> Tensor:
        """Coefficients of the kept modes; modes that are not `live` are not yet zero."""
        return self._recorded_analysis(values, "forward")

    def weigh(self, factor: Tensor) -> Callable[[Tensor], Tensor]:
        """The map of values to `factor` times their coefficients, `factor` float64 or complex128 of a spectrum.

        Cheaper than `to_modes` and a product: the scale of the transform is folded into the factor. Values have the
        leading axes of the factor, of any size where it has 1.
        """
        scaled = self.cast(factor.to(torch.complex128) / self.points**self.dims)

        def weighed(values: Tensor) -> Tensor:
            spectrum = self._recorded_analysis(values, "backward")
            return torch.mul(scaled, spectrum, out=spare(spectrum))

        return weighed

    def project(self, values: Tensor) -> Tensor:
        """Coefficients of the live modes of values: where every solution starts."""
        return self.to_modes(values.to(self.dtype)) * self._mask

    def _recorded_analysis(self, values: Tensor, norm: str) -> Tensor:
        if _recording(values):
            return _Analysis.apply(values, self, norm)  # type: ignore[return-value]
        return self.analysis(values, norm)

    def analysis(self, values: Tensor, norm: str) -> Tensor:
        """Transform of values, "forward" divided by the number of points, without a record for autograd."""
        spectrum = torch.fft.rfft(values, norm=norm)[..., : self.kept]
        for axis in range(self.dims - 2, -1, -1):
            spectrum = self._along(torch.fft.fft, spectrum, axis, norm)
        return spectrum

    def synthesis(self, spectrum: Tensor) -> Tensor:
        """`to_space` without a record for autograd."""
        for axis in range(self.dims - 1):
            spectrum = self._along(torch.fft.ifft, spectrum, axis, "forward")
        missing = self.points // 2 + 1 - self.kept
        if torch.is_grad_enabled():
            padded = torch.constant_pad_nd(spectrum, (0, missing)).contiguous()
        else:  # zeros up to the last mode of the grid, in memory that is zeroed once and used again
            key = (spectrum.shape, torch.is_inference_mode_enabled())
            if key not in self._padded:
                padded = spectrum.new_zeros(*spectrum.shape[:-1], self.kept + missing)
                self._padded[key] = padded, padded[..., : self.kept]
            padded, kept = self._padded[key]
            kept.copy_(spectrum)
        return torch.fft.irfft(padded, n=self.points, norm="forward")

    def _along(self, transform: Callable[..., Tensor], spectrum: Tensor, axis: int, norm: str) -> Tensor:
        """A transform along one axis, contiguous in memory: strided ones round a lone row differently."""
        order, back = _orders(spectrum.ndim, self.dims, axis)
        return transform(spectrum.permute(order).contiguous(), norm=norm).permute(back)

    def pull_back(self, gradient: Tensor) -> Tensor:
        """Gradient with respect to a spectrum, from that with respect to its values: the adjoint of `to_space`."""
        # values are real parts: modes of m > 0 stand for two
        return self._recorded_analysis(gradient, "backward") * self._twice


def _recording(tensor: Tensor) -> bool:
    """Whether autograd records; `torch.func` differentiates the transforms of torch itself."""
    return torch.is_grad_enabled() and tensor.requires_grad and not torch._C._are_functorch_transforms_active()


class _Synthesis(torch.autograd.Function):
    """Spectrum to values; its adjoint is the other transform, and no dearer (torch's own is a complex transform)."""

    @staticmethod
    def forward(ctx: Any, spectrum: Tensor, modes: Modes) -> Tensor:
        ctx.modes = modes
        return modes.synthesis(spectrum)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None]:
        return ctx.modes.pull_back(gradient), None

    @staticmethod
    def jvp(ctx: Any, change: Tensor, _: None) -> Tensor:
        return ctx.modes.synthesis(change)


class _Analysis(torch.autograd.Function):
    """Values to spectrum."""

    @staticmethod
    def forward(ctx: Any, values: Tensor, modes: Modes, norm: str) -> Tensor:
        ctx.modes, ctx.norm = modes, norm
        return modes.analysis(values, norm)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None, None]:
        modes = ctx.modes
        scale = 1.0 if ctx.norm == "backward" else 1.0 / modes.points**modes.dims
        return modes.to_space(gradient * (scale / modes._twice)), None, None

    @staticmethod
    def jvp(ctx: Any, change: Tensor, _: None, __: None) -> Tensor:
        return ctx.modes.analysis(change, ctx.norm)


class Semilinear(Protocol):
    """What one equation has to give to be integrated; factors that meet the state go through `modes.cast`."""

    def symbol(self, modes: Modes) -> Tensor:
        """L of each mode, real or complex, broadcastable to a spectrum `(batch, [component,] *modes)`."""
        ...

    def nonlinear(self, modes: Modes) -> Callable[[Tensor], Tensor]:
        """N as a map of spectra; modes that are not live may hold anything, the integrator drops them.

        It must not change its argument, nor return memory that a later call writes to.
        """
        ...


def spare(tensor: Tensor) -> Tensor | None:
    """`out` of an operation that nobody needs `tensor` after: its memory, or None where autograd keeps it.

    `torch.mul(u, u, out=spare(u))` squares in place in a plain run and is differentiable in a recorded one.
    """
    return None if torch.is_grad_enabled() else tensor


def keep_freed_memory() -> None:
    """Have the C library keep the memory of freed arrays instead of returning it to the system at once.

    glibc returns what exceeds twice the largest array freed so far; asked for again it comes in pages that are mapped
    and zeroed one by one, which can cost as much as the step itself. Freeing one untouched array raises the limit.
    """
    torch.empty(2**24, dtype=torch.uint8)


@cache
def _orders(ndim: int, dims: int, axis: int) -> tuple[tuple[int, ...], tuple[int, ...]]:
    """The permutation that reverses the axes of a spectrum and puts one of them last, and its inverse."""
    first = ndim - dims
    reverse = [a for a in range(ndim - 1, first - 1, -1) if a != first + axis]
    order = (*range(first), *reverse, first + axis)
    return order, tuple(order.index(a) for a in range(ndim))


def _kept(last: int, points: int, dims: int) -> int:
    """Modes of the last axis, such that a row has a multiple of 8 where the grid has that many: whole vectors.

    A remainder rounds differently, and the bits of a row would depend on its place in the batch.
    """
    kept = last
    while kept * points ** (dims - 1) % 8 and kept < points // 2 + 1:
        kept += 1
    return kept
