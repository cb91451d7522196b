"""The five-point laplacian on cells with u = 0 on the edge, inverted by fast sine transforms: a preconditioner."""

from __future__ import annotations

import math
from functools import lru_cache
from typing import NamedTuple

import torch
from torch import Tensor


class Preconditioner:
    """S T S r with T the inverse of -laplace on the cells of the unit square, S a diagonal: for conjugate gradients.

    `scaling` is S, `(batch, points, points)`. Works in float32 and gives what it is given: half the cost, and another
    search direction, not another solution.
    The sines sin(pi k (i + 1/2) / n), k = 1..n, diagonalise the stencil whose edge lies half a cell away. With signs
    (-1)^i they become cosines of number m = n - k, and these a Fourier transform of the even points followed by the
    odd ones backwards (Makhoul 1980, equations 7 to 11). In two dimensions, with V the real transform,
    w_m = exp(-i pi m / 2n) and C the cosine coefficients, one complex number holds two of them:
    C(m, l) - i C(m, n - l) = w_l (w_m V(m, l) + conj(w_m) V(-m, l)) / 2 for l <= n/2; the way back is the same.
    """

    def __init__(self, scaling: Tensor) -> None:
        self.points = scaling.shape[-1]
        self._coefficients = _coefficients(self.points, scaling.device)
        self._signed = (scaling * self._coefficients.signs).float()

    def __call__(self, r: Tensor) -> Tensor:
        """S T S r, `(batch, points, points)`."""
        if len(r) == 1:  # a lone transform takes another path and rounds differently
            return self(r.expand(2, -1, -1))[:1]
        c = self._coefficients
        v = torch.fft.rfft2(_moved(self._signed * r.float(), c.places))
        packed = torch.addcmul(c.there * v, c.there_mirrored, v.index_select(1, c.mirror))
        packed = torch.view_as_complex(torch.view_as_real(packed).mul_(c.inverse))
        v = torch.addcmul(c.back * packed, c.back_mirrored, packed.index_select(1, c.mirror))
        return (self._signed * _moved(torch.fft.irfft2(v, s=(self.points, self.points)), c.home)).to(r)


class _Coefficients(NamedTuple):
    """Signs of the points, their order for the transform and back, and the factors of the modes."""

    signs: Tensor
    places: Tensor
    home: Tensor
    mirror: Tensor
    there: Tensor
    there_mirrored: Tensor
    inverse: Tensor
    back: Tensor
    back_mirrored: Tensor


@lru_cache(maxsize=8)
def _coefficients(n: int, device: torch.device) -> _Coefficients:
    number = torch.arange(n)
    order = torch.cat([number[0::2], number[1::2].flip(0)])
    places = (order[:, None] * n + order[None, :]).flatten()
    sign = 1.0 - 2.0 * (number % 2)
    turn = torch.polar(torch.ones(n, dtype=torch.float64), -math.pi / (2 * n) * number.double())
    rows, columns = turn[:, None], turn[None, : n // 2 + 1]
    one = 4.0 * n * n * torch.sin(math.pi / (2 * n) * torch.arange(n + 1, dtype=torch.float64)) ** 2
    k, m = n - number, torch.arange(n // 2 + 1)
    inverse = torch.stack([1.0 / (one[k][:, None] + one[n - m]), 1.0 / (one[k][:, None] + one[m])], -1)
    inverse[:, 0, 1] = 0.0  # the coefficient of number n does not exist
    back = (rows * columns).conj()
    back_mirrored = -1j * back
    back_mirrored[0] = 0.0
    there, there_mirrored = 0.5 * rows * columns, 0.5 * rows.conj() * columns
    modes = (there, there_mirrored, back, back_mirrored)
    there, there_mirrored, back, back_mirrored = (t.to(device, torch.complex64) for t in modes)
    return _Coefficients(
        signs=torch.outer(sign, sign).to(device),
        places=places.to(device),
        home=torch.argsort(places).to(device),
        mirror=(-number % n).to(device),
        there=there,
        there_mirrored=there_mirrored,
        inverse=inverse.to(device, torch.float32),
        back=back,
        back_mirrored=back_mirrored,
    )


def _moved(values: Tensor, places: Tensor) -> Tensor:
    return values.flatten(1).index_select(1, places).view_as(values)
