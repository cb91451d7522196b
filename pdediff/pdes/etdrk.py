"""Exponential time differencing Runge-Kutta schemes of order 1 to 4 (Cox and Matthews 2002)."""

from __future__ import annotations

import cmath
import math
from collections.abc import Callable, Sequence
from copy import copy
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor

from pdediff.pdes.modes import Modes, Semilinear

CONTOUR_POINTS = 32
Order = Literal[1, 2, 3, 4]
Rate = Callable[[Tensor], Tensor]
Out = Tensor | None


@dataclass(frozen=True)
class Scheme:
    """One order: its functions of z = h L beside e^z and e^(z/2), its step, the arrays that the step writes to.

    The step takes e^z, e^(z/2) and h times each function, the rate N, the state and as many arrays or None.
    """

    functions: Callable[[Means], tuple[Tensor, ...]]
    step: Callable[[Sequence[Tensor], Rate, Tensor, Sequence[Out]], Tensor]
    buffers: int


def _step_1(kernels: Sequence[Tensor], rate: Rate, v: Tensor, buffers: Sequence[Out]) -> Tensor:
    """v' = e^z v + p N(v), equation 4."""
    whole, _, p = kernels
    (out,) = buffers
    n_v = rate(v)
    return torch.addcmul(torch.mul(whole, v, out=out), p, n_v, out=out)


def _step_2(kernels: Sequence[Tensor], rate: Rate, v: Tensor, buffers: Sequence[Out]) -> Tensor:
    """a = e^z v + p N(v), v' = a + p2 (N(a) - N(v)), equations 20 to 22."""
    whole, _, p, p2 = kernels
    out, first, change = buffers
    n_v = rate(v)
    a = torch.addcmul(torch.mul(whole, v, out=first), p, n_v, out=first)
    n_a = rate(a)
    return torch.addcmul(a, p2, torch.sub(n_a, n_v, out=change), out=out)


def _step_3(kernels: Sequence[Tensor], rate: Rate, v: Tensor, buffers: Sequence[Out]) -> Tensor:
    """a = e^(z/2) v + q N(v), b = e^z v + p (2 N(a) - N(v)), v' from all three, equations 23 to 25."""
    whole, half, p, q, f1, f2, f3 = kernels
    out, first, second = buffers
    n = rate(v)
    a = torch.addcmul(torch.mul(half, v, out=first), q, n, out=first)
    linear = torch.mul(whole, v, out=second)
    total = torch.addcmul(linear, f1, n, out=out)
    b = torch.addcmul(linear, p, n, value=-1.0, out=second)
    n = rate(a)
    b = torch.addcmul(b, p, n, value=2.0, out=second)
    total = torch.addcmul(total, f2, n, value=2.0, out=out)
    n = rate(b)
    return torch.addcmul(total, f3, n, out=out)


def _step_4(kernels: Sequence[Tensor], rate: Rate, v: Tensor, buffers: Sequence[Out]) -> Tensor:
    """a, b = e^(z/2) v + q N(v), q N(a); c = e^(z/2) a + q (2 N(b) - N(v)); v' from all four, equations 26 to 29.

    With a put in, c = e^z v + q (e^(z/2) - 1) N(v) + 2 q N(b): one multiplication less.
    """
    whole, half, q, qc, f1, f2, f3 = kernels
    out, first, second, third = buffers
    n = rate(v)  # every rate is used up before the next one is computed: its memory is still in the cache
    linear = torch.mul(half, v, out=first)
    a = torch.addcmul(linear, q, n, out=second)
    linear_c = torch.mul(whole, v, out=third)
    total = torch.addcmul(linear_c, f1, n, out=out)
    c = torch.addcmul(linear_c, qc, n, out=third)
    n = rate(a)
    b = torch.addcmul(linear, q, n, out=first)
    total = torch.addcmul(total, f2, n, out=out)
    n = rate(b)
    c = torch.addcmul(c, q, n, value=2.0, out=third)
    total = torch.addcmul(total, f2, n, out=out)
    n = rate(c)
    return torch.addcmul(total, f3, n, out=out)


@dataclass(frozen=True)
class Means:
    """Means over the points z of a circle, e^z and e^(z/2) split into that of the centre and that of the radius.

    `m[k]`, `p[k]` of 1/z^k and e^r/z^k, k = 1 to 3, `q` of e^(r/2)/z; `e` and `root` are e^c and e^(c/2).
    """

    e: Tensor
    root: Tensor
    m: tuple[Tensor, ...]
    p: tuple[Tensor, ...]
    q: Tensor


def _functions_1(at: Means) -> tuple[Tensor, ...]:
    """p = (e^z - 1) / z."""
    return (at.e * at.p[1] - at.m[1],)


def _functions_2(at: Means) -> tuple[Tensor, ...]:
    """p and (e^z - 1 - z) / z^2."""
    return *_functions_1(at), at.e * at.p[2] - at.m[2] - at.m[1]


def _functions_3(at: Means) -> tuple[Tensor, ...]:
    """p, q = (e^(z/2) - 1) / z, and the weights of the three or four rates, f1 to f3."""
    f1 = at.e * (4.0 * at.p[3] - 3.0 * at.p[2] + at.p[1]) - 4.0 * at.m[3] - at.m[2]
    f2 = 2.0 * (at.e * (at.p[2] - 2.0 * at.p[3]) + 2.0 * at.m[3] + at.m[2])
    f3 = at.e * (4.0 * at.p[3] - at.p[2]) - 4.0 * at.m[3] - 3.0 * at.m[2] - at.m[1]
    return *_functions_1(at), at.root * at.q - at.m[1], f1, f2, f3


def _functions_4(at: Means) -> tuple[Tensor, ...]:
    """q, q (e^(z/2) - 1), f1 to f3."""
    _, q, *weights = _functions_3(at)
    return q, at.e * at.p[1] - 2.0 * at.root * at.q + at.m[1], *weights


SCHEMES = {
    1: Scheme(_functions_1, _step_1, 1),
    2: Scheme(_functions_2, _step_2, 3),
    3: Scheme(_functions_3, _step_3, 3),
    4: Scheme(_functions_4, _step_4, 4),
}


class Contour(torch.autograd.Function):
    """The functions of a scheme, or their `derivative`-th derivatives, at every z: means over a circle about z.

    f(z) = mean of f(z + r) over |r| = 1 has no cancellation at small z (Kassam and Trefethen 2005, section 3). The
    circle is whole: the real part of half of it, right for real z, leaves first order for complex z (dispersion).
    f^(n)(z) = n! mean of f(z + r) / r^n, so that derivatives cost one array, not 32, and exist to any order.
    """

    generate_vmap_rule = True

    @staticmethod
    def forward(z: Tensor, order: Order, derivative: int) -> tuple[Tensor, ...]:
        """Values at z, real where z is."""
        return SCHEMES[order].functions(_means(z, derivative))

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Tensor, Order, int], output: tuple[Tensor, ...]) -> None:
        """Keep z."""
        z, ctx.order, ctx.derivative = inputs
        ctx.save_for_backward(z)
        ctx.save_for_forward(z)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, None, None]:
        """Sum of gradient times conjugate derivative."""
        (z,) = ctx.saved_tensors
        slopes = Contour.apply(z, ctx.order, ctx.derivative + 1)
        total = torch.zeros_like(z)
        for gradient, slope in zip(gradients, slopes, strict=True):
            total = total + gradient * slope.conj()
        return total, None, None

    @staticmethod
    def jvp(ctx: Any, change: Tensor, *_: None) -> tuple[Tensor, ...]:
        """Derivative times change."""
        (z,) = ctx.saved_tensors
        return tuple(slope * change for slope in Contour.apply(z, ctx.order, ctx.derivative + 1))


def _means(z: Tensor, derivative: int) -> Means:
    # real z: the lower half of the circle gives the conjugates of the upper half
    count = CONTOUR_POINTS if z.is_complex() else CONTOUR_POINTS // 2
    m, p, q = ([torch.zeros_like(z, dtype=torch.complex128) for _ in range(k)] for k in (4, 4, 1))
    for j in range(count):
        angle = 2.0 * math.pi * (j + 0.5) / CONTOUR_POINTS
        r = cmath.exp(1j * angle)
        weight = math.factorial(derivative) / r**derivative / count
        inverse = 1.0 / (z + r)
        power = inverse
        for k in (1, 2, 3):
            m[k].add_(power, alpha=weight)
            p[k].add_(power, alpha=weight * cmath.exp(r))
            power = power * inverse
        q[0].add_(inverse, alpha=weight * cmath.exp(0.5 * r))
    m, p, q = (tuple(f if z.is_complex() else f.real for f in means) for means in (m, p, q))
    return Means(torch.exp(z), torch.exp(0.5 * z), m, p, q[0])


class ETDRK:
    """Steps of size `h` (one, or one for each row) of an equation on some modes.

    Coefficients are computed in float64 and complex128 and then cast to the type of the state; the 2/3 rule is folded
    in. Where L is real they multiply real and imaginary parts alike. Steps out of autograd's sight write to memory that
    is allocated once, so that a state lives until the step after the next; others make the same operations.
    """

    def __init__(self, equation: Semilinear, modes: Modes, h: Tensor | float, order: Order = 4) -> None:
        symbol = equation.symbol(modes)
        self.order = order
        self.nonlinear = equation.nonlinear(modes)
        self._complex = symbol.is_complex()
        z = h * symbol
        integrals = [h * f for f in Contour.apply(z, order, 0)]
        self.kernels = [self._kernel(modes, c) for c in (torch.exp(z), torch.exp(0.5 * z), *integrals)]
        self._buffers: list[Tensor] = []

    def depends_on_tracked(self, v: Tensor) -> bool:
        """Whether autograd follows anything that steps from the spectrum `v` depend on."""
        return any(t.requires_grad for t in (v, *self.kernels)) or self.nonlinear(v).requires_grad

    def with_kernels(self, kernels: Sequence[Tensor]) -> ETDRK:
        """The same steps with these kernels."""
        other = copy(self)
        other.kernels, other._buffers = list(kernels), []
        return other

    def advance(self, v: Tensor, steps: int) -> Tensor:
        """Spectrum `steps` steps later."""
        parts = self._parts(v)
        for _ in range(steps):
            parts = SCHEMES[self.order].step(self.kernels, self._rate, parts, self._memory(parts))
        return self._spectrum(parts)

    def _memory(self, parts: Tensor) -> Sequence[Out]:
        """Arrays that the next step writes to, none of them its state, or None where autograd is at work."""
        count = SCHEMES[self.order].buffers
        if torch.is_grad_enabled():
            return [None] * count
        if not self._buffers:
            self._buffers = [torch.empty_like(parts) for _ in range(count + 1)]
        self._buffers = [self._buffers[-1], *self._buffers[1:-1], self._buffers[0]]
        return self._buffers[:count]

    def _rate(self, parts: Tensor) -> Tensor:
        return self._parts(self.nonlinear(self._spectrum(parts)))

    def _kernel(self, modes: Modes, values: Tensor) -> Tensor:
        live = modes.cast(values * modes.live)
        return live if self._complex else torch.view_as_real(torch.complex(live, live))

    def _parts(self, v: Tensor) -> Tensor:
        """Real and imaginary parts where L is real: half the multiplications."""
        return v if self._complex else torch.view_as_real(v.resolve_conj())

    def _spectrum(self, parts: Tensor) -> Tensor:
        return parts if self._complex else torch.view_as_complex(parts)
