"""Compressible flow of an ideal gas: fluxes at faces of fifth order, and the Euler step that keeps gas a gas."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Literal

import torch
from torch import Tensor

from pdediff.pdes import a_weno
from pdediff.pdes.weno import POINTS, Boundary, face_offsets

FLOOR = 1e-12
"""Least density and pressure that a step may leave."""

Parts = tuple[Tensor, Tensor, Tensor, Tensor]


def conserved(parts: Sequence[Tensor], gamma: float) -> Tensor:
    """Density, momenta along x and y and total energy on dim 1, from density, velocities and pressure."""
    density, velocity_x, velocity_y, pressure = parts
    kinetic = 0.5 * density * (velocity_x.square() + velocity_y.square())
    energy = pressure / (gamma - 1.0) + kinetic
    return torch.stack([density, density * velocity_x, density * velocity_y, energy], 1)


def primitive(state: Tensor, gamma: float, dim: int = 1) -> Parts:
    """Density, velocities along x and y and pressure of a state whose components lie on `dim`."""
    density, momentum_x, momentum_y, energy = state.unbind(dim)
    u, v = momentum_x / density, momentum_y / density
    kinetic = torch.addcmul(momentum_x * u, momentum_y, v)
    return density, u, v, (gamma - 1.0) * torch.sub(energy, kinetic, alpha=0.5)


def _flux(parts: Parts, gamma: float) -> Tensor:
    """Flux along the first velocity: u (rho, rho u, rho v, E + p) + (0, p, 0, 0), on dim 1."""
    density, u, v, p = parts
    mass = density * u
    return torch.stack([mass, torch.addcmul(p, mass, u), mass * v, mass * _enthalpy(parts, gamma)], 1)


def _enthalpy(parts: Parts, gamma: float) -> Tensor:
    """Total enthalpy per mass, gamma / (gamma - 1) p / rho + (u^2 + v^2) / 2."""
    density, u, v, p = parts
    squares = torch.addcmul(u.square(), v, v)
    return torch.add(torch.mul(squares, 0.5), p / density, alpha=gamma / (gamma - 1.0))


def _interpolate(cells: Tensor, gamma: float) -> tuple[Parts, Parts]:
    """Primitive values left and right of the n + 1 faces, from n + 6 cells `(rows, 4, n + 6, m)`.

    WENO5-Z in the characteristic variables of each cell: dp - rho c du, drho - dp / c^2, dv and dp + rho c du.
    On point values primitive variables interpolate at the same order as conserved ones, at half the work. Where a face
    value of density or pressure is not positive, the cell's own value takes its place.
    """
    n = cells.shape[-2] - 6
    inner: Parts = cells.narrow(-2, 2, n + 2).unbind(1)  # type: ignore[assignment]
    density, _, _, p = inner
    square = gamma * p / density
    sound = square.sqrt()
    impedance, slowness = density * sound, square.reciprocal()
    differences, waves = cells.diff(dim=-2), []
    for start in range(4):  # of each cell with its neighbours
        d_rho, d_u, d_v, d_p = differences.narrow(-2, start, n + 2).unbind(1)
        push = impedance * d_u
        waves.append(torch.stack([d_p - push, torch.addcmul(d_rho, slowness, d_p, value=-1.0), d_v, d_p + push], 1))
    seconds = tuple(after - before for before, after in pairwise(waves))
    before, after = (differences[:, 0].narrow(-2, start, n + 2) for start in (1, 2))
    pushes = a_weno.sound_changes(*waves[1:3])
    changes = torch.stack([pushes, before.square().addcmul_(after, after), torch.zeros_like(p), pushes], 1)
    floor = a_weno.floor(changes, torch.stack([p, density, sound, p], 1))
    left, right = face_offsets(waves[1], waves[2], seconds, POINTS, floor)
    half = 0.5 / impedance
    sides = []
    for start, offsets in ((0, right), (1, left)):
        base, coefficients = ([part.narrow(-2, start, n + 1) for part in parts] for parts in (inner, (slowness, half)))
        down, entropy, shear, up = offsets.narrow(-2, start, n + 1).unbind(1)
        jump_p = torch.mul(down + up, 0.5)
        jumps = (torch.addcmul(entropy, coefficients[0], jump_p), (up - down) * coefficients[1], shear, jump_p)
        faces = [a + b for a, b in zip(base, jumps, strict=True)]
        positive = torch.minimum(faces[0], faces[3]) > FLOOR
        sides.append(tuple(torch.where(positive, a, b) for a, b in zip(faces, base, strict=True)))
    return sides[0], sides[1]


def _speeds(left: Parts, right: Parts, gamma: float) -> tuple[Tensor, Tensor]:
    """Slowest and fastest wave, by the two states (Davis 1988)."""
    c_left, c_right = (gamma * parts[3] / parts[0] for parts in (left, right))
    c_left, c_right = c_left.sqrt(), c_right.sqrt()
    slowest = torch.minimum(left[1] - c_left, right[1] - c_right)
    return slowest, torch.maximum(left[1] + c_left, right[1] + c_right)


def hllc(left: Parts, right: Parts, gamma: float) -> Tensor:
    """Flux of the three-wave solver (Toro, Spruce and Speares 1994), `(rows, 4, faces, m)`.

    With S the outer wave and S* the contact of the side that holds the face, and r = rho (S* - u) / (S - S*), the state
    next to the contact differs from that side's by r (1, S, v, H + S* (S - u)).
    """
    slowest, fastest = _speeds(left, right, gamma)
    drag_left, drag_right = left[0] * (slowest - left[1]), right[0] * (fastest - right[1])
    push = torch.addcmul(right[3] - left[3], drag_left, left[1])
    contact = torch.addcmul(push, drag_right, right[1], value=-1.0) / (drag_left - drag_right)
    upwind = contact >= 0.0
    density, u, v, p = (torch.where(upwind, a, b) for a, b in zip(left, right, strict=True))
    wave = torch.where(upwind, slowest, fastest)
    reached = torch.where(upwind, slowest.clamp(max=0.0), fastest.clamp(min=0.0))
    strength = reached * density * (contact - u) / (wave - contact)
    mass = torch.addcmul(strength, density, u)
    momentum = torch.addcmul(torch.addcmul(p, density * u, u), strength, wave)
    enthalpy = _enthalpy((density, u, v, p), gamma)
    energy = torch.addcmul(mass * enthalpy, strength * contact, wave - u)
    return torch.stack([mass, momentum, mass * v, energy], 1)


def central_upwind(left: Parts, right: Parts, gamma: float) -> Tensor:
    """Central-upwind flux with its built-in anti-diffusion, `(rows, 4, faces, m)`.

    With a+ and a- the fastest and slowest waves, each passed by zero at most, the flux is
    [a+ F(U-) - a- F(U+) + a+ a- (U+ - U- - d)] / (a+ - a-), where d = minmod(U+ - U*, U* - U-) and
    U* = [a+ U+ - a- U- - F(U+) + F(U-)] / (a+ - a-) (Kurganov and Lin 2007).
    """
    slowest, fastest = _speeds(left, right, gamma)
    slowest, fastest = slowest.clamp(max=0.0).unsqueeze(1), fastest.clamp(min=0.0).unsqueeze(1)
    spread = 1.0 / (fastest - slowest)
    u_left, u_right = conserved(left, gamma), conserved(right, gamma)
    f_left, f_right = _flux(left, gamma), _flux(right, gamma)
    middle = spread * (fastest * u_right - slowest * u_left - (f_right - f_left))
    rise, fall = u_right - middle, middle - u_left
    anti = torch.where(rise * fall > 0.0, torch.where(rise.abs() < fall.abs(), rise, fall), 0.0)
    jump = u_right - u_left - anti
    return spread * (fastest * f_left - slowest * f_right + fastest * slowest * jump)


@dataclass(frozen=True)
class GasDynamics:
    """Forward Euler steps of rho_t + div m = 0, m_t + div(m u) + grad p = 0, E_t + div((E + p) u) = 0.

    Point values on the unit square, `(batch, 4, y, x)` in the order of `conserved`, E = p / (gamma - 1) + m . u / 2.
    """

    gamma: float
    boundary: Boundary
    scheme: Literal["hllc_aweno", "central_upwind_aweno"]

    def advance(self, state: Tensor, h: float) -> Tensor:
        """The state after an Euler step `h`; rows that would lose positivity take it with limited fluxes.

        A step of Courant number (|u| + c) h / dx at most 1/4 in each direction keeps density and pressure positive.
        """
        density, u, v, p = primitive(state, self.gamma)
        rows = a_weno.both_directions((density, v, u, p), (density, u, v, p))
        cells = a_weno.pad_sweep(rows, self.boundary, normal=1)
        flux, point = self.face_flux(cells)
        ratio = h * state.shape[-1]
        stepped = self._apply(state, flux, ratio)
        lost = self._lost(stepped)
        # an answer to `any` would stop a GPU, so that one limits every row and then chooses
        if state.device.type == "cpu" and not lost.any():
            return stepped
        limited = self._limited(state, cells, point, flux, ratio)
        return torch.where(lost[:, None, None, None], limited, stepped)

    def face_flux(self, cells: Tensor) -> tuple[Tensor, Tensor]:
        """Flux of fifth order at the faces, and at the cells, of a sweep along dim -2, components on dim 1.

        `cells` holds density, velocities along and across the sweep and pressure, `(rows, 4, n + 6, m)`.
        """
        riemann = hllc if self.scheme == "hllc_aweno" else central_upwind
        point = _flux(cells.unbind(1), self.gamma)  # type: ignore[arg-type]
        flux = riemann(*_interpolate(cells, self.gamma), self.gamma)
        return flux.add_(a_weno.correction(point)), point

    def _apply(self, state: Tensor, flux: Tensor, ratio: float) -> Tensor:
        along_y, along_x = a_weno.divergence(flux, ratio)
        mass, normal, tangential, energy = along_y.unbind(1)
        return state - along_x - torch.stack([mass, tangential, normal, energy], 1)

    def _lost(self, state: Tensor) -> Tensor:
        """Rows with a density or pressure that is not positive, `(batch,)`."""
        density, _, _, p = primitive(state, self.gamma)
        return torch.minimum(density, p).flatten(1).amin(1) < FLOOR

    def _limited(self, state: Tensor, cells: Tensor, point: Tensor, flux: Tensor, ratio: float) -> Tensor:
        """Step with the part of the flux beyond Rusanov's cut so that every cell stays a gas.

        The step of a cell is the mean of four, one for each face, from the state after the Rusanov step; density is
        linear and pressure concave along each (convex limiting of Guermond, Nazarov, Popov and Tomas 2018).
        """
        n = state.shape[-1]
        inner: Parts = cells.narrow(-2, 2, n + 2).unbind(1)  # type: ignore[assignment]
        low = _rusanov(inner, point.narrow(-2, 2, n + 2), self.gamma)
        beyond = flux - low
        safe = self._apply(state, low, ratio)
        density, momentum_x, momentum_y, energy = safe.unbind(1)
        along, across = (density, momentum_y, momentum_x, energy), (density, momentum_x, momentum_y, energy)
        swept = a_weno.both_directions(along, across)
        reach = 4.0 * ratio * beyond
        before = self._admissible(swept, reach.narrow(-2, 0, n))
        after = self._admissible(swept, reach.narrow(-2, 1, n).neg())
        share = a_weno.least_share(before, after, self.boundary)
        return self._apply(state, torch.addcmul(low, share.unsqueeze(1), beyond), ratio)

    def _admissible(self, state: Tensor, change: Tensor) -> Tensor:
        """Largest share of `change` in [0, 1] that leaves density and pressure positive, `(rows, y, x)`."""
        density = state[:, 0]
        share = torch.where(
            density + change[:, 0] < FLOOR, (density - FLOOR) / change[:, 0].abs().clamp(min=FLOOR), 1.0
        )
        share = share.clamp(0.0, 1.0)
        p = primitive(state, self.gamma)[3]
        reached = primitive(torch.addcmul(state, share.unsqueeze(1), change), self.gamma)[3]
        fall = (p - reached).clamp(min=FLOOR)
        return share * torch.where(reached < FLOOR, (p - FLOOR) / fall, 1.0).clamp(0.0, 1.0)


def _rusanov(parts: Parts, flux: Tensor, gamma: float) -> Tensor:
    """First-order flux between neighbours along dim -2; its step keeps a gas a gas."""
    density, u, _, p = parts
    speed = u.abs() + (gamma * p / density).sqrt()
    faces = flux.shape[-2] - 1
    fastest = torch.maximum(speed.narrow(-2, 0, faces), speed.narrow(-2, 1, faces)).unsqueeze(1)
    state = conserved(parts, gamma)
    mean = flux.narrow(-2, 0, faces) + flux.narrow(-2, 1, faces)
    return 0.5 * torch.addcmul(mean, fastest, state.diff(dim=-2), value=-1.0)
