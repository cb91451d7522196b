"""Plane incompressible flow on a periodic square in vorticity form: velocity, transport and invariants."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from pdediff.pdes.spectral import Modes, spare


def velocity_factors(modes: Modes) -> Tensor:
    """Factors of w that give u and v, `(2, 1, *modes)`, with w = v_x - u_y and no mean flow.

    (u, v) = (psi_y, -psi_x), laplace psi = -w: free of divergence by construction.
    """
    k_y, k_x = modes.k
    inverse = torch.where(modes.squared > 0, 1.0 / modes.squared.clamp(min=1e-300), 0.0)
    return torch.stack([1j * k_y * inverse, -1j * k_x * inverse])


def velocity(vorticity: Tensor, length: Tensor, flow: float = 0.0) -> tuple[Tensor, Tensor]:
    """u and v of `vorticity` `(batch, time, y, x)`, each of that shape; `flow` is the mean of u."""
    modes = Modes(vorticity.shape[-1], 2, length)
    u, v = modes.to_space(velocity_factors(modes).unsqueeze(1) * modes.project(vorticity)).unbind(0)
    return u + flow, v


def flow_invariants(vorticity: Tensor, length: Tensor, flow: float = 0.0) -> dict[str, Tensor]:
    """`mean` vorticity (stays 0), `energy` (mean |u|^2 / 2) and `enstrophy` (mean w^2 / 2), `(batch, time)`."""
    u, v = velocity(vorticity, length, flow)
    energy = 0.5 * (u.square() + v.square()).mean((-2, -1))
    w = vorticity.double()
    return {"mean": w.mean((-2, -1)), "energy": energy, "enstrophy": 0.5 * w.square().mean((-2, -1))}


def transport(modes: Modes, flow: float = 0.0) -> Callable[[Tensor], Tensor]:
    """-u . grad w as a map of spectra, in flux form: (d_yy - d_xx)(u v) + d_xy(u^2 - v^2), four transforms."""
    k_y, k_x = modes.k
    velocities = modes.cast(velocity_factors(modes))
    mixed, crossed = modes.weigh(k_x**2 - k_y**2), modes.weigh(k_x * k_y)

    def rate(w: Tensor) -> Tensor:
        u, v = modes.to_space(velocities * w).unbind(0)
        if flow:
            u = torch.add(u, flow, out=spare(u))
        flux = mixed(u * v)
        squares = torch.mul(v, v, out=spare(v))
        squares = torch.addcmul(squares, u, u, value=-1.0, out=spare(squares))
        return torch.add(flux, crossed(squares), out=spare(flux))

    return rate


def damped_transport(modes: Modes, damping: Tensor, flow: float = 0.0) -> Callable[[Tensor], Tensor]:
    """-u . grad w - curl(damping u) as a map of spectra, five transforms; `damping` is a rate, `(batch, y, x)`.

    In divergence form: -(u w + damping v)_x - (v w - damping u)_y.
    """
    k_y, k_x = modes.k
    identity = torch.ones_like(modes.squared).to(torch.complex128)
    fields = modes.cast(torch.cat([velocity_factors(modes), identity[None]]))
    along_x, along_y = modes.weigh(-1j * k_x), modes.weigh(-1j * k_y)
    damping = modes.cast(damping)

    def rate(w: Tensor) -> Tensor:
        u, v, vorticity = modes.to_space(fields * w).unbind(0)
        if flow:
            u = torch.add(u, flow, out=spare(u))
        flux = along_x(torch.addcmul(u * vorticity, damping, v))
        carried = torch.mul(v, vorticity, out=spare(v))
        carried = torch.addcmul(carried, damping, u, value=-1.0, out=spare(carried))
        return torch.add(flux, along_y(carried), out=spare(flux))

    return rate
