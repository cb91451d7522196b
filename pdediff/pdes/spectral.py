"""Semilinear periodic equations v_t = L v + N(v): a batched spectral ETDRK4 integrator, differentiable by autograd."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from itertools import pairwise
from typing import Protocol

import torch
from torch import Tensor
from torch.utils.checkpoint import checkpoint

CONTOUR_POINTS = 32
# Working sets beyond this many points leave the cache and cost up to twice as much per row.
TILE_POINTS = 65536


class Modes:
    """Fourier modes of a periodic box of equal sides: wave numbers, transforms and the 2/3 rule.

    Spectra are Fourier coefficients (independent of the grid), complex128 `(batch, *modes)`; `live` names the modes
    |m| < n/3 of every axis. The last axis holds m >= 0 only and ends soon after the last live mode, the others all n.
    `length` is the side of each row's box, `(batch,)` or `(1,)`.
    """

    def __init__(self, points: int, dims: int, length: Tensor) -> None:
        last = (points - 1) // 3 + 1
        # Rows of a multiple of 8 numbers leave no remainder to the processor's vectors: remainders round differently,
        # and the bits of a row would depend on its place in the batch.
        self.kept = min(-(-last // 8) * 8, points // 2 + 1)
        self.points, self.dims = points, dims
        numbers = torch.fft.fftfreq(points, 1.0 / points, dtype=torch.float64, device=length.device)
        unit = (2.0 * math.pi / length.double()).reshape(-1, *[1] * dims)
        axes, live = [], torch.ones((), dtype=torch.bool, device=length.device)
        for axis in range(dims):
            m = numbers[: self.kept].abs() if axis == dims - 1 else numbers
            m = m.reshape(-1, *[1] * (dims - 1 - axis))
            axes.append(unit * m)
            live = live & (m.abs() < last)
        self.live = live
        self.k = tuple(axes)
        """Wave numbers 2 pi m / length of each axis, in array order, broadcastable to a spectrum."""
        squared = torch.zeros((), dtype=torch.float64, device=length.device)
        for k in axes:
            squared = squared + k * k
        self.squared = squared

    def to_space(self, spectrum: Tensor) -> Tensor:
        """Values on the grid, float64."""
        for axis in range(-self.dims, -1):
            spectrum = torch.fft.ifft(spectrum, dim=axis, norm="forward")
        return torch.fft.irfft(spectrum, n=self.points, norm="forward")

    def to_modes(self, values: Tensor) -> Tensor:
        """Coefficients of the kept modes; modes that are not `live` are not yet zero."""
        spectrum = torch.fft.rfft(values, norm="forward")[..., : self.kept]
        for axis in range(-self.dims, -1):
            spectrum = torch.fft.fft(spectrum, dim=axis, norm="forward")
        return spectrum

    def project(self, values: Tensor) -> Tensor:
        """Coefficients of the live modes of float64 values: where every solution starts."""
        return self.to_modes(values.double()) * self.live


class Semilinear(Protocol):
    """What one equation has to give to be integrated."""

    def symbol(self, modes: Modes) -> Tensor:
        """L of each mode, real or complex, broadcastable to a spectrum `(batch, *modes)`."""
        ...

    def nonlinear(self, modes: Modes) -> Callable[[Tensor], Tensor]:
        """N as a map of spectra; modes that are not live may hold anything, the integrator drops them."""
        ...


@dataclass(frozen=True)
class ETDRK4:
    """Exponential time differencing, fourth order (Cox and Matthews 2002, equations 26-29).

    Coefficients by contour integrals over the full circle (Kassam and Trefethen 2005, section 3): taking the real
    part of half a circle would be wrong for complex L (dispersion), where it leaves first order.
    """

    whole: Tensor
    half: Tensor
    q: Tensor
    f1: Tensor
    f2: Tensor
    f3: Tensor
    nonlinear: Callable[[Tensor], Tensor]

    @staticmethod
    def build(pde: Semilinear, modes: Modes, h: float) -> ETDRK4:
        """Coefficients of one step `h`, complex128 inside; the 2/3 rule is folded into them."""
        symbol = pde.symbol(modes)
        hl = h * symbol
        q, f1, f2, f3 = (torch.zeros_like(hl, dtype=torch.complex128) for _ in range(4))
        for j in range(CONTOUR_POINTS):
            angle = 2.0 * math.pi * (j + 0.5) / CONTOUR_POINTS
            z = hl + complex(math.cos(angle), math.sin(angle))
            e, z2 = torch.exp(z), z * z
            z3 = z2 * z
            q += (torch.exp(0.5 * z) - 1.0) / z
            f1 += (-4.0 - z + e * (4.0 - 3.0 * z + z2)) / z3
            f2 += 2.0 * (2.0 + z + e * (z - 2.0)) / z3
            f3 += (-4.0 - 3.0 * z - z2 + e * (4.0 - z)) / z3
        kernels = [torch.exp(hl), torch.exp(0.5 * hl), *(h / CONTOUR_POINTS * c for c in (q, f1, f2, f3))]
        if not symbol.is_complex():  # the circle is symmetric about the real axis: imaginary parts are rounding
            kernels = [c.real[..., None].expand(*c.shape, 2) for c in kernels]
        live = modes.live if symbol.is_complex() else modes.live[..., None]
        return ETDRK4(*((c * live).contiguous() for c in kernels), nonlinear=pde.nonlinear(modes))

    def step(self, v: Tensor) -> Tensor:
        """Spectrum one step later."""
        n_v = self._parts(self.nonlinear(v))
        parts = self._parts(v)
        half = self.half * parts
        a = torch.addcmul(half, self.q, n_v)
        n_a = self._parts(self.nonlinear(self._join(a)))
        b = torch.addcmul(half, self.q, n_a)
        n_b = self._parts(self.nonlinear(self._join(b)))
        c = torch.addcmul(self.half * a, self.q, torch.add(-n_v, n_b, alpha=2.0))
        n_c = self._parts(self.nonlinear(self._join(c)))
        out = torch.addcmul(self.whole * parts, self.f1, n_v)
        out = torch.addcmul(out, self.f2, n_a + n_b)
        return self._join(torch.addcmul(out, self.f3, n_c))

    def _parts(self, v: Tensor) -> Tensor:
        """Real and imaginary parts where L is real: half the multiplications."""
        return v if self.q.is_complex() else torch.view_as_real(v)

    def _join(self, v: Tensor) -> Tensor:
        return v if self.q.is_complex() else torch.view_as_complex(v)

    def advance(self, v: Tensor, steps: int) -> Tensor:
        """Spectrum `steps` steps later."""
        for _ in range(steps):
            v = self.step(v)
        return v


def substeps(interval: float, h: float) -> int:
    """Number of equal steps of at most `h` that fill `interval`."""
    return max(1, math.ceil(interval / h - 1e-9))


def evolve(
    pde: Semilinear, initial: Tensor, length: Tensor, frames: int, interval: float, h: float, warm_up: int = 0
) -> Tensor:
    """Frames `(batch, frames, *space)`, float64, `interval` apart; the first is `initial` after `warm_up` intervals.

    Inner steps of at most `h`; under autograd each frame is recomputed in the backward pass (one spectrum per frame
    is kept). Rows run in tiles that fit the cache. The first frame is the projection of `initial` on the live modes.
    """
    if initial.ndim == 2 and len(initial) == 1:  # a lone 1-D transform takes another path and rounds differently
        pair = evolve(pde, initial.expand(2, *initial.shape[1:]), length, frames, interval, h, warm_up)
        return pair[:1]
    points, dims = initial.shape[-1], initial.ndim - 1
    steps = substeps(interval, h)
    tiles = []
    for rows in _tiles(len(initial), points**dims):
        modes = Modes(points, dims, length[rows] if len(length) > 1 else length)
        stepper = ETDRK4.build(pde, modes, interval / steps)
        v = modes.project(initial[rows])
        for _ in range(warm_up):
            v = _frame(stepper, v, steps)
        spectra = [v]
        for _ in range(frames - 1):
            v = _frame(stepper, v, steps)
            spectra.append(v)
        tiles.append(modes.to_space(torch.stack(spectra, 1)))
    return torch.cat(tiles)


def step_residual(pde: Semilinear, values: Tensor, length: Tensor, interval: float, h: float) -> Tensor:
    """(next frame - frame carried `interval` forward) / interval, `(batch, frames - 1, *space)`: what is left of v_t.

    Zero to rounding for a float64 solution, about 1e-7 |v| / interval for one stored in float32.
    """
    batch, frames = values.shape[:2]
    lengths = length.expand(batch).repeat_interleave(frames - 1)
    carried = evolve(pde, values[:, :-1].flatten(0, 1), lengths, 2, interval, h)[:, 1]
    return (values[:, 1:] - carried.reshape(values[:, 1:].shape)) / interval


def _frame(stepper: ETDRK4, v: Tensor, steps: int) -> Tensor:
    if torch.is_grad_enabled() and v.requires_grad:
        return checkpoint(stepper.advance, v, steps, use_reentrant=False)
    return stepper.advance(v, steps)


def _tiles(rows: int, points: int) -> list[slice]:
    """Tiles of even sizes, so that none of several holds a lone row."""
    count = -(-rows // max(1, TILE_POINTS // points))
    bounds = [rows * i // count for i in range(count + 1)]
    return [slice(start, stop) for start, stop in pairwise(bounds)]
