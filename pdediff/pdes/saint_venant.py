"""Depth-averaged water over a bottom: fluxes that leave a lake at rest, Euler steps that leave no depth negative."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import pairwise

import torch
from torch import Tensor

from pdediff.pdes import a_weno
from pdediff.pdes.weno import POINTS, Boundary, face_offsets

THIN = 0.03
"""Depth below which water counts as thin: the fluxes around it are of first order. At a third of it films over steep
hills gain speed without limit.
"""

DAMPED = 1e-4
"""Depth below which velocity is damped, so that momentum over depth cannot grow without limit."""

Flow = tuple[Tensor, Tensor, Tensor]
"""Depth and the velocities along and across a sweep."""


def velocities(state: Tensor, dim: int = 1) -> Flow:
    """Depth and velocities along x and y of depth and discharges on `dim`, damped where there is hardly any water."""
    depth, discharge_x, discharge_y = state.unbind(dim)
    inverse = depth / depth.square().clamp(min=DAMPED**2)
    return depth, discharge_x * inverse, discharge_y * inverse


def _celerity(depth: Tensor, gravity: float) -> Tensor:
    # the root has no derivative at zero
    return (gravity * depth.clamp(min=DAMPED**2)).sqrt()


def hll(left: Flow, right: Flow, gravity: float) -> tuple[Tensor, Tensor, Tensor]:
    """Fluxes of depth and of the discharges along and across the sweep.

    Two waves for the first two (Harten, Lax and van Leer 1983, speeds of Davis 1988); the velocity across is carried by
    the flux of water, which makes shear waves as sharp as HLLC does.
    """
    c_left, c_right = _celerity(left[0], gravity), _celerity(right[0], gravity)
    slowest = torch.minimum(left[1] - c_left, right[1] - c_right).clamp(max=0.0)
    fastest = torch.maximum(left[1] + c_left, right[1] + c_right).clamp(min=0.0)
    spread = (fastest - slowest).reciprocal()
    product = slowest * fastest
    q_left, q_right = left[0] * left[1], right[0] * right[1]
    f_left = torch.addcmul(q_left * left[1], left[0], left[0], value=0.5 * gravity)
    f_right = torch.addcmul(q_right * right[1], right[0], right[0], value=0.5 * gravity)
    water = fastest * q_left - slowest * q_right + product * (right[0] - left[0])
    water = water * spread
    along = spread * (fastest * f_left - slowest * f_right + product * (q_right - q_left))
    return water, along, water * torch.where(water > 0.0, left[2], right[2])


@dataclass(frozen=True)
class SaintVenant:
    """Forward Euler steps of h_t + div q = 0, q_t + div(q q / h) + g h grad(h + b) = 0 on the unit square.

    Point values `(batch, 3, y, x)`: depth and discharges along x and y. With the surface eta = h + b the momentum
    balance reads q_t + (q^2 / h + g (h^2 - b^2) / 2)_x + g eta b_x = 0 in each direction. A-WENO of fifth order on
    (eta, u, v), the faces share one bottom, and b_x is the difference of face values with the same correction as the
    flux, which is linear in b where eta is constant: a lake at rest stays so to rounding (the balance of Xing and Shu
    2005). Where water is thin within a stencil, or positivity would be lost, hydrostatic reconstruction of first order
    (Audusse, Bouchut, Bristeau, Klein and Perthame 2004), which keeps lakes with dry shores at rest as well.
    """

    gravity: float
    boundary: Boundary

    def bottom(self, bottom: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """What `advance` reads of a bottom `(batch, y, x)`: cells with ghosts, faces, faces of its derivative."""
        rows = a_weno.both_directions((bottom,), (bottom,))
        cells = a_weno.pad_sweep(rows, self.boundary)
        faces = a_weno.linear_face_values(cells)
        slopes = faces + a_weno.correction(cells)
        return tuple(part[:, 0].unflatten(0, (-1, 2)) for part in (cells, faces, slopes))  # type: ignore[return-value]

    def advance(self, state: Tensor, h: float, cells: Tensor, faces: Tensor, slopes: Tensor) -> Tensor:
        """The state after an Euler step `h` over a bottom as `bottom` gives it.

        A step of Courant number (|u| + c) h / dx at most 1/4 in each direction keeps depths from falling below zero.
        """
        depth, u, v = velocities(state)
        bottom, level, slope = (part.flatten(0, 1).to(state.dtype) for part in (cells, faces, slopes))
        rows = a_weno.both_directions((depth, v, u), (depth, u, v))
        sweep = a_weno.pad_sweep(rows, self.boundary, normal=1)
        flux, least = self._flux(sweep, bottom, level, slope)
        ratio = h * state.shape[-1]
        stepped = self._apply(state, flux, ratio)
        shallowest = torch.minimum(depth - THIN, stepped[:, 0]).flatten(1).amin(1)
        thin = torch.minimum(shallowest, least.unflatten(0, (-1, 2)).flatten(1).amin(1)) < 0.0
        # an answer to `any` would stop a GPU, so that one limits every row and then chooses
        if state.device.type == "cpu" and not thin.any():
            return stepped
        low = self._first_order(sweep, bottom)
        share = self._share(depth, flux, low, _wet(sweep[:, 0], least), ratio).unsqueeze(1)
        mixed = self._apply(state, torch.lerp(low, flux, share), ratio)
        mixed = torch.cat([mixed[:, :1].clamp(min=0.0), mixed[:, 1:]], 1)
        return torch.where(thin[:, None, None, None], mixed, stepped)

    def _flux(self, sweep: Tensor, bottom: Tensor, level: Tensor, slope: Tensor) -> tuple[Tensor, Tensor]:
        """Fluxes of fifth order `(rows, 4, faces, m)`, and the least depth at the faces.

        Those of water and of the discharge across, and that of the discharge along as the cell before and the cell
        after the face see it: with the weight of the water between the centre of the cell and the face, and without
        what the water of the cell would give if it were at rest.
        """
        g, faces = self.gravity, level.shape[-2]
        depth, u, v = sweep.unbind(1)
        surface = depth + bottom
        left, right = self._interpolate(surface, sweep)
        depths = torch.stack([left[0] - level, right[0] - level])
        h_left, h_right = depths.clamp(min=0.0).unbind(0)
        water, along, across = hll((h_left, *left[1:]), (h_right, *right[1:]), g)
        discharge = depth * u
        weight = torch.addcmul(depth.square(), bottom, bottom, value=-1.0)
        point = torch.stack([discharge, discharge * v, torch.addcmul(0.5 * g * weight, discharge, u)], 1)
        along = torch.addcmul(along, level, level, value=-0.5 * g)
        water, across, along = torch.stack([water, across, along], 1).add_(a_weno.correction(point)).unbind(1)
        sides = []
        for start in (2, 3):
            eta = surface.narrow(-2, start, faces)
            sides.append(torch.addcmul(along, eta, torch.sub(slope, eta, alpha=0.5), value=g))
        return torch.stack([water, across, *sides], 1), depths.amin(0)

    def _interpolate(self, surface: Tensor, sweep: Tensor) -> tuple[Flow, Flow]:
        """Surface and velocities before and after the faces: WENO5-Z in deta -+ c du / g and dv of each cell."""
        n = sweep.shape[-2] - 6
        depth = sweep[:, 0].narrow(-2, 2, n + 2).clamp(min=THIN)
        c = _celerity(depth, self.gravity)
        delay = c / self.gravity
        values = torch.cat([surface.unsqueeze(1), sweep[:, 1:]], 1)
        differences, waves = values.diff(dim=-2), []
        for start in range(4):  # of each cell with its neighbours
            d_eta, d_u, d_v = differences.narrow(-2, start, n + 2).unbind(1)
            push = delay * d_u
            waves.append(torch.stack([d_eta - push, d_v, d_eta + push], 1))
        seconds = tuple(after - before for before, after in pairwise(waves))
        changes = a_weno.sound_changes(*waves[1:3])
        changes = torch.stack([changes, torch.zeros_like(changes), changes], 1)
        floor = a_weno.floor(changes, torch.stack([depth, c, depth], 1))
        left, right = face_offsets(waves[1], waves[2], seconds, POINTS, floor)
        half, inner = 0.5 / delay, values.narrow(-2, 2, n + 2).unbind(1)
        sides = []
        for start, offsets in ((0, right), (1, left)):
            eta, u, v, inverse = (part.narrow(-2, start, n + 1) for part in (*inner, half))
            down, shear, up = offsets.narrow(-2, start, n + 1).unbind(1)
            sides.append((torch.add(eta, down + up, alpha=0.5), torch.addcmul(u, up - down, inverse), v + shear))
        return sides[0], sides[1]

    def _first_order(self, sweep: Tensor, bottom: Tensor) -> Tensor:
        """As `_flux`, by hydrostatic reconstruction: depths above the higher of the two bottoms."""
        faces = sweep.shape[-2] - 5
        parts = [torch.cat([bottom.unsqueeze(1), sweep], 1).narrow(-2, start, faces).unbind(1) for start in (2, 3)]
        level = torch.maximum(parts[0][0], parts[1][0])
        left, right = (((b + h - level).clamp(min=0.0), u, v) for b, h, u, v in parts)
        water, along, across = hll(left, right, self.gravity)
        sides = [torch.addcmul(along, side[0], side[0], value=-0.5 * self.gravity) for side in (left, right)]
        return torch.stack([water, across, *sides], 1)

    def _apply(self, state: Tensor, flux: Tensor, ratio: float) -> Tensor:
        plain = flux[:, :2].diff(dim=-2)
        sides = flux[:, 2, 1:] - flux[:, 3, :-1]
        change = torch.cat([plain, sides.unsqueeze(1)], 1).mul_(ratio).unflatten(0, (-1, 2))
        (y_water, y_across, y_along), (x_water, x_across, x_along) = (part.unbind(1) for part in change.unbind(1))
        return state - torch.stack([y_water + x_water.mT, y_across + x_along.mT, y_along + x_across.mT], 1)

    def _share(self, depth: Tensor, flux: Tensor, low: Tensor, wet: Tensor, ratio: float) -> Tensor:
        """Share of the flux of fifth order at each face, in [0, 1], that leaves no depth negative (Zalesak 1979)."""
        beyond = torch.where(wet, flux[:, 0] - low[:, 0], 0.0)
        n = depth.shape[-1]
        loss = beyond.narrow(-2, 1, n).clamp(min=0.0) - beyond.narrow(-2, 0, n).clamp(max=0.0)
        safe = depth - ratio * _both(low[:, 0].diff(dim=-2))
        kept = (safe / (ratio * _both(loss)).clamp(min=DAMPED**3)).clamp(0.0, 1.0)
        rows = a_weno.both_directions((kept,), (kept,))[:, 0]
        # the cell that gives decides
        if self.boundary == "periodic":
            first, last = rows.narrow(-2, n - 1, 1), rows.narrow(-2, 0, 1)
        else:
            first, last = torch.ones_like(rows.narrow(-2, 0, 1)), torch.ones_like(rows.narrow(-2, 0, 1))
        before, after = torch.cat([first, rows], -2), torch.cat([rows, last], -2)
        return torch.where(wet, torch.where(beyond > 0.0, before, after), 0.0)


def _both(rows: Tensor) -> Tensor:
    """Sum over the sweeps along y and along x, `(batch, y, x)`, of `(batch * 2, n, n)`."""
    y, x = rows.unflatten(0, (-1, 2)).unbind(1)
    return y + x.mT


def _wet(depth: Tensor, least: Tensor) -> Tensor:
    """Faces with six cells that are not thin and with water at the face itself."""
    faces = least.shape[-2]
    pairs = torch.minimum(depth.narrow(-2, 0, faces + 4), depth.narrow(-2, 1, faces + 4))
    shallowest = torch.minimum(pairs.narrow(-2, 0, faces), pairs.narrow(-2, 2, faces))
    shallowest = torch.minimum(shallowest, pairs.narrow(-2, 4, faces))
    return (shallowest > THIN) & (least > 0.0)
