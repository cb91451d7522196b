"""Acoustic waves on a staggered grid with a perfectly matched layer: the integrator behind `wave` and `shots`."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.utils.checkpoint import checkpoint

from pdediff.errors import NumericalError

# c step / cell above which the scheme grows: 1 / (sqrt(2) (9/8 + 1/24)).
LARGEST_COURANT = 6.0 / (7.0 * math.sqrt(2.0))
# What a continuous layer would send back at normal incidence, and the power by which its absorption grows: with these
# 8, 12 and 16 cells send back 5e-5, 1e-5 and 3e-6 of the wave.
REFLECTION, GROWTH = 1e-6, 3


class State(NamedTuple):
    """Two parts of the pressure at time t, at cells, and the velocity at t - step / 2, at the faces between them.

    `(batch, y, x)` with the layer, `v_x` with one more column, `v_y` with one more row. The pressure is the sum of its
    parts, which are damped in one direction each.
    """

    p_x: Tensor
    p_y: Tensor
    v_x: Tensor
    v_y: Tensor


class Acoustics:
    """p_t = -c^2 div v, v_t = -grad p on the unit square, that is p_tt = c^2 laplace p, for one batch of speeds c.

    `speed` `(batch, y, x)` at cell centres. Staggered differences of fourth order (Virieux 1986; Levander 1988,
    equation 4), leapfrog in time. `layer` cells outside the square absorb (split fields, Berenger 1994; absorption as
    if the speed were `fastest`), the speed goes on constant into them; p = 0 at the outer edge. Layer 0: reflecting
    walls p = 0 around the square, and the leapfrog energy is constant to rounding.
    Raises NumericalError where a speed is not positive or too fast for `step`.
    """

    def __init__(self, speed: Tensor, step: float, layer: int, fastest: float, dtype: torch.dtype) -> None:
        n = speed.shape[-1]
        self.step, self.layer, self.dtype = step, layer, dtype
        wrong = ~((speed > 0.0) & (speed * (step * n) <= LARGEST_COURANT)).flatten(1).all(1)
        if wrong.any():
            rows = wrong.nonzero().flatten().tolist()
            limit = LARGEST_COURANT / (step * n)
            message = f"speed of rows {rows[:5]} is not between 0 and {limit:.4g}, the limit for step {step:.3g}"
            raise NumericalError(message, hint="take a smaller step, or bound the speed")
        squared = speed.double() ** 2
        self.squared = F.pad(squared.unsqueeze(1), (layer,) * 4, mode="replicate")[:, 0] if layer else squared
        places = torch.arange(n + 2 * layer + 1, dtype=torch.float64, device=speed.device) - layer
        cells = self._damping((places[:-1] + 0.5) / n, n, fastest)
        faces = self._damping(places / n, n, fastest)
        self._keep_cell, self._keep_face = cells[0].to(dtype), faces[0].to(dtype)
        self._push_face = faces[1].to(dtype)
        self._push_x = (self.squared * cells[1]).to(dtype)
        self._push_y = (self.squared * cells[1][:, None]).to(dtype)

    def _damping(self, x: Tensor, n: int, fastest: float) -> tuple[Tensor, Tensor]:
        """For places along an axis: what a step keeps of a field, and the weight of its differences."""
        depth = torch.maximum(-x, x - 1.0).clamp(min=0.0) * (n / max(self.layer, 1))
        strength = -(GROWTH + 1) * fastest * math.log(REFLECTION) * n / (2.0 * max(self.layer, 1))
        half = 0.5 * self.step * strength * depth**GROWTH if self.layer else torch.zeros_like(x)
        return (1.0 - half) / (1.0 + half), self.step * n / 24.0 / (1.0 + half)

    def start(self, initial: Tensor) -> State:
        """At rest with pressure `initial` `(batch, y, x)` in the square: p_t = 0, so velocities are odd in time."""
        p = F.pad(initial.to(self.dtype), (self.layer,) * 4)
        v_x = -0.5 * self._push_face * _fall_from_cells(p, -1)
        v_y = -0.5 * self._push_face[:, None] * _fall_from_cells(p, -2)
        return State(0.5 * p, 0.5 * p, v_x, v_y)

    def advance(self, state: State, steps: int, source: Callable[[Tensor, int], Tensor] | None = None) -> State:
        """State `steps` steps later; `source(p_x, i)` adds to the pressure after step i what sources gave."""
        for i in range(steps):
            p = state.p_x + state.p_y
            v_x = torch.addcmul(self._keep_face * state.v_x, self._push_face, _fall_from_cells(p, -1))
            v_y = torch.addcmul(self._keep_face[:, None] * state.v_y, self._push_face[:, None], _fall_from_cells(p, -2))
            p_x = torch.addcmul(self._keep_cell * state.p_x, self._push_x, _fall_from_faces(v_x, -1))
            p_y = torch.addcmul(self._keep_cell[:, None] * state.p_y, self._push_y, _fall_from_faces(v_y, -2))
            state = State(p_x if source is None else source(p_x, i), p_y, v_x, v_y)
        return state

    def recomputed(self, state: State, steps: int) -> State:
        """As `advance`; the backward pass recomputes the steps, so that only the two ends are kept."""
        if torch.is_grad_enabled() and any(part.requires_grad for part in (*state, self.squared)):
            return State(*checkpoint(self.advance, state, steps, use_reentrant=False))
        return self.advance(state, steps)

    def pressure(self, state: State) -> Tensor:
        """In the square, `(batch, y, x)`."""
        return self.inside(state.p_x + state.p_y)

    def inside(self, values: Tensor) -> Tensor:
        """What of the cells lies in the square."""
        stop = values.shape[-1] - self.layer
        return values[..., self.layer : stop, self.layer : stop]

    def with_pressure(self, state: State, pressure: Tensor) -> State:
        """The state with another pressure in the square; layer and velocities stay."""
        change = F.pad(0.5 * (pressure.to(self.dtype) - self.pressure(state)), (self.layer,) * 4)
        return State(state.p_x + change, state.p_y + change, state.v_x, state.v_y)

    def energy(self, state: State) -> Tensor:
        """Leapfrog energy in the square, `(batch,)`: half the integral of p^2 / c^2 + v(t - step/2) . v(t + step/2)."""
        n = state.p_x.shape[-1] - 2 * self.layer
        after = self.advance(state, 1)
        squares = self.pressure(state).double() ** 2 / self.inside(self.squared)
        energy = squares.sum((1, 2))
        for dim, before, later in ((-1, state.v_x, after.v_x), (-2, state.v_y, after.v_y)):
            products = before.double() * later.double()
            for axis in (-1, -2):
                products = products.narrow(axis, self.layer, n + (axis == dim))
            ends = products.select(dim, 0) + products.select(dim, -1)  # faces on the edge belong to it by half
            energy = energy + products.sum((1, 2)) - 0.5 * ends.sum(1)
        return 0.5 / n**2 * energy


class _FallFromCells(torch.autograd.Function):
    """-24 h times the derivative of cell values at the faces, edges included; the values are odd about the edge.

    Written out with its transpose, because autograd would spend several times the work on the slices.
    """

    generate_vmap_rule = True

    @staticmethod
    def forward(p: Tensor, dim: int) -> Tensor:
        size = p.shape[dim]
        ends = (-p.narrow(dim, 0, 2).flip(dim), p, -p.narrow(dim, size - 2, 2).flip(dim))
        return _fall(torch.cat(ends, dim), dim)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Tensor, int], output: Tensor) -> None:
        ctx.dim = inputs[1]

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None]:
        return -_fall_from_faces(_ends_times(grad, ctx.dim, 2.0), ctx.dim), None

    @staticmethod
    def jvp(ctx: Any, change: Tensor, _: None) -> Tensor:
        return _fall_from_cells(change, ctx.dim)


class _FallFromFaces(torch.autograd.Function):
    """-24 h times the derivative of face values at the cells; the values are even about the edge."""

    generate_vmap_rule = True

    @staticmethod
    def forward(v: Tensor, dim: int) -> Tensor:
        ends = (v.narrow(dim, 1, 1), v, v.narrow(dim, v.shape[dim] - 2, 1))
        return _fall(torch.cat(ends, dim), dim)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Tensor, int], output: Tensor) -> None:
        ctx.dim = inputs[1]

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None]:
        return -_ends_times(_fall_from_cells(grad, ctx.dim), ctx.dim, 0.5), None

    @staticmethod
    def jvp(ctx: Any, change: Tensor, _: None) -> Tensor:
        return _fall_from_faces(change, ctx.dim)


def _fall_from_cells(p: Tensor, dim: int) -> Tensor:
    return _FallFromCells.apply(p, dim)  # type: ignore[no-any-return]


def _fall_from_faces(v: Tensor, dim: int) -> Tensor:
    return _FallFromFaces.apply(v, dim)  # type: ignore[no-any-return]


def _ends_times(v: Tensor, dim: int, factor: float) -> Tensor:
    """Face values with those on the edge times `factor`."""
    inner = v.narrow(dim, 1, v.shape[dim] - 2)
    return torch.cat((factor * v.narrow(dim, 0, 1), inner, factor * v.narrow(dim, v.shape[dim] - 1, 1)), dim)


def _fall(values: Tensor, dim: int) -> Tensor:
    """f_2 - f_-1 - 27 (f_1 - f_0), from the differences of neighbours."""
    rises = values.diff(dim=dim)
    size = rises.shape[dim] - 2
    return torch.sub(rises.narrow(dim, 0, size) + rises.narrow(dim, 2, size), rises.narrow(dim, 1, size), alpha=26.0)
