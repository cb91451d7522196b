"""Transport and exchange in a packed column: a finite-volume method of fifth order, inlet and outlet included."""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from pdediff.pdes import additive_runge_kutta as ark

CLOSURE = 5
"""Cells at each end whose means fix the polynomial of degree 5 that carries the boundary condition."""
# The polynomial of degree 4 through the first five cell means has the value, the slope and the two ghost means below
# (cells of width 1 from the boundary on); z is the one of degree 5 whose five means vanish.
_VALUE = (137 / 60, -163 / 60, 137 / 60, -21 / 20, 1 / 5)
_SLOPE = (-15 / 4, 109 / 12, -35 / 4, 17 / 4, -5 / 6)
_GHOST_1 = (5.0, -10.0, 10.0, -5.0, 1.0)
_GHOST_2 = (15.0, -40.0, 45.0, -24.0, 5.0)
_Z_VALUE, _Z_SLOPE, _Z_GHOST_1, _Z_GHOST_2 = -20.0, 274 / 3, -120.0, -720.0
# Value at a face from three cells before it and two after; slope from three on either side, times the width.
_UPWIND = (2 / 60, -13 / 60, 47 / 60, 27 / 60, -3 / 60, 0.0)
_FACE_SLOPE = (-1 / 90, 5 / 36, -49 / 36, 49 / 36, -5 / 36, 1 / 90)


class State(NamedTuple):
    """Mobile and adsorbed means of the cells `(batch, x)`, amounts fed and collected so far `(batch,)`."""

    mobile: Tensor
    adsorbed: Tensor
    fed: Tensor
    collected: Tensor


class Fluxes(NamedTuple):
    """Rate of change of the cells `(batch, x)`, and what enters and leaves the column, `(batch,)`."""

    rate: Tensor
    entering: Tensor
    leaving: Tensor


@dataclass(frozen=True)
class Column:
    """c_t + q_t + c_x = c_xx / peclet on (0, 1), q_t = rate (affinity c (1 - q / capacity) - q), rows of their own.

    `taps` `(batch, 6)` give the flux at a face from the cells about it, `inlet` `(batch, 3, 5)` and `inlet_fed`
    `(batch, 3)` the ghosts of cells -2 and -1 and the entering flux from the first five cells and what is fed;
    `outlet` `(1, 3, 5)` the two ghosts and the value at the end from the last five cells. A capacity of None stands
    for a linear isotherm.
    """

    taps: Tensor
    inlet: Tensor
    inlet_fed: Tensor
    outlet: Tensor
    rate: Tensor
    affinity: Tensor
    capacity: float | None

    @staticmethod
    def build(
        numbers: dict[str, Tensor], cells: int, dirichlet: bool, capacity: float | None, dtype: torch.dtype
    ) -> Column:
        """Weights for `cells` cells from peclet, affinity and rate, `(batch,)` each; float64 inside."""
        peclet, affinity, rate = (numbers[name].double()[:, None] for name in ("peclet", "affinity", "rate"))

        def of(values: tuple[float, ...]) -> Tensor:
            return torch.tensor(values, dtype=torch.float64, device=peclet.device)

        diffusion = cells / peclet
        slope, value = of(_SLOPE), of(_VALUE)
        # c = fed, or c - c_x / peclet = fed, at the inlet fixes the multiple of z
        robin = torch.zeros_like(diffusion) if dirichlet else diffusion
        share = 1.0 / (_Z_VALUE - robin * _Z_SLOPE)
        excess = (robin * slope - value) * share
        ghosts = [of(_GHOST_2) + _Z_GHOST_2 * excess, of(_GHOST_1) + _Z_GHOST_1 * excess]
        fed = [_Z_GHOST_2 * share, _Z_GHOST_1 * share]
        if dirichlet:
            ghosts.append(-diffusion * (slope + _Z_SLOPE * excess))
            fed.append(1.0 - diffusion * _Z_SLOPE * share)
        else:
            ghosts.append(torch.zeros_like(excess))
            fed.append(torch.ones_like(share))
        ends = -slope / _Z_SLOPE
        outlet = torch.stack([of(g) + z * ends for g, z in ((_GHOST_1, _Z_GHOST_1), (_GHOST_2, _Z_GHOST_2))])
        outlet = torch.cat([outlet, (value + _Z_VALUE * ends)[None]]).flip(-1)[None]
        taps = of(_UPWIND) - diffusion * of(_FACE_SLOPE)
        tensors = (taps, torch.stack(ghosts, 1), torch.cat(fed, 1), outlet, rate, affinity)
        return Column(*(t.to(dtype) for t in tensors), capacity=capacity)

    def end(self, mobile: Tensor) -> Tensor:
        """Concentration at the outlet, `(batch, ...)`, of means `(batch, ..., x)`."""
        return (mobile[..., -CLOSURE:] * self.outlet[0, 2]).sum(-1)

    def transport(self, mobile: Tensor, fed: Tensor) -> Fluxes:
        """Advection and dispersion of means `(batch, x)` while `fed` `(batch,)` enters."""
        cells = mobile.shape[-1]
        first = (self.inlet * mobile[:, None, :CLOSURE]).sum(-1) + self.inlet_fed * fed[:, None]
        last = (self.outlet * mobile[:, None, -CLOSURE:]).sum(-1)
        ring = torch.cat([first[:, :2], mobile, last[:, :2]], 1)
        flux = self.taps[:, :1] * ring[:, : cells - 1]
        for tap in range(1, 6):
            flux = torch.addcmul(flux, self.taps[:, tap : tap + 1], ring[:, tap : cells - 1 + tap])
        faces = torch.cat([first[:, 2:], flux, last[:, 2:]], 1)
        return Fluxes(-cells * faces.diff(dim=1), first[:, 2], last[:, 2])

    def loaded(self, mobile: Tensor) -> Tensor:
        """Adsorbed means in equilibrium with means `(batch, x)`, to fourth order in the cells."""
        bound = self.affinity * mobile
        if self.capacity is None:
            return bound
        free = 1.0 / (1.0 + bound / self.capacity)
        slope = _slopes(mobile) * self.affinity
        return free * (bound - (slope * free).square() / (12.0 * self.capacity))

    def exchange(self, mobile: Tensor, adsorbed: Tensor) -> Tensor:
        """q_t of the means as if they were values."""
        bound = self.affinity * mobile
        if self.capacity is not None:
            bound = bound * (1.0 - adsorbed / self.capacity)
        return self.rate * (bound - adsorbed)

    def variation(self, mobile: Tensor, adsorbed: Tensor) -> list[Tensor]:
        """What variation inside a cell adds to q_t, as the only element; nothing where exchange is linear.

        The mean of c q is the product of the means and cell^2 c_x q_x / 12, to fourth order.
        """
        if self.capacity is None:
            return []
        steps = _slopes(torch.stack([mobile, adsorbed]))
        return [self.rate * self.affinity * (-1.0 / (12.0 * self.capacity)) * steps[0] * steps[1]]

    def relaxed(self, total: Tensor, start: Tensor, h: float) -> Tensor:
        """The q that solves q = start + h q_t for c = total - q: exchange moves the solute and makes none."""
        g = h * self.rate
        b = g * self.affinity
        constant = torch.addcmul(start, b, total)
        if self.capacity is None:
            return constant / (1.0 + g + b)
        linear = 1.0 + g + b + (b / self.capacity) * total
        root = torch.sqrt(linear.square() - (4.0 / self.capacity) * b * constant)
        return 2.0 * constant / (linear + root)

    def step(self, state: State, fed: Tensor, h: float) -> State:
        """One step; `fed` `(batch, 6)` is what enters at the nodes of the scheme.

        Transport is explicit, exchange implicit and solved in closed form. The total c + q of a stage sees transport
        only, so that the solute is conserved to rounding.
        """
        total, q = state.mobile + state.adsorbed, state.adsorbed
        implicit = ark.DIAGONAL * h
        gains = [implicit * self.exchange(state.mobile, q)]
        varied = [self.variation(state.mobile, q)]
        found = [self.transport(state.mobile, fed[:, 0])]

        def joined(coefficients: tuple[float, ...], exchanged: tuple[float, ...]) -> tuple[Tensor, Tensor]:
            whole = ark.combined(total, [f.rate for f in found], coefficients, h)
            start = ark.combined(state.adsorbed, gains, exchanged, 1.0 / ark.DIAGONAL)
            for part in zip(*varied, strict=True):
                start = ark.combined(start, list(part), coefficients, h)
            return whole, start

        for explicit, exchanged, at in zip(ark.EXPLICIT[1:], ark.IMPLICIT[1:], fed.unbind(1)[1:], strict=True):
            whole, start = joined(explicit, exchanged)
            q = self.relaxed(whole, start, implicit)
            gains.append(q - start)
            varied.append(self.variation(whole - q, q))
            found.append(self.transport(whole - q, at))
        whole, q = joined(ark.WEIGHTS, ark.WEIGHTS)
        return State(
            whole - q,
            q,
            ark.combined(state.fed, [f.entering for f in found], ark.WEIGHTS, h),
            ark.combined(state.collected, [f.leaving for f in found], ark.WEIGHTS, h),
        )


def _slopes(means: Tensor) -> Tensor:
    """Cell times slope of means `(..., x)`, second order."""
    steps = means.diff(dim=-1)
    end = steps.shape[-1] - 1
    first, last = (1.5 * steps.narrow(-1, a, 1) - 0.5 * steps.narrow(-1, b, 1) for a, b in ((0, 1), (end, end - 1)))
    return torch.cat([first, 0.5 * (steps[..., 1:] + steps[..., :-1]), last], -1)


def spline_weights(times: np.ndarray, spacing: float, knots: int) -> tuple[np.ndarray, np.ndarray]:
    """Places and weights `(*times, 4)` of the cubic B-splines that are not zero at `times`.

    Spline j of `knots` lives on spacing * [j, j + 4]; places beyond the knots are clamped to them at weight 0.
    """
    position = times / spacing
    whole = np.floor(position)
    r = position - whole
    weights = np.stack([(1 - r) ** 3, 3 * r**3 - 6 * r**2 + 4, 1 + 3 * r + 3 * r**2 - 3 * r**3, r**3], -1) / 6.0
    places = whole[..., None].astype(np.int64) + np.arange(-3, 1)
    inside = (places >= 0) & (places < knots)
    return np.clip(places, 0, knots - 1), np.where(inside, weights, 0.0)
