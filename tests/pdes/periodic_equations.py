"""Semilinear equations with known solutions that test the spectral core and are no data sets."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from pdediff.pdes import spectral

RING = torch.tensor([40.0], dtype=torch.float64)
BOX = torch.tensor([2.0 * math.pi], dtype=torch.float64)


class KdV:
    """u_t + u u_x + u_xxx = 0: an imaginary symbol."""

    def symbol(self, modes: spectral.Modes) -> Tensor:
        return 1j * modes.k[0] ** 3

    def nonlinear(self, modes: spectral.Modes) -> Callable[[Tensor], Tensor]:
        return lambda v: -0.5j * modes.k[0] * modes.to_modes(modes.to_space(v).square())


def soliton(t: float, points: int = 256, length: float = 40.0) -> Tensor:
    """3 c sech^2(sqrt(c) (x - x0 - c t) / 2) with c = 1, and its images left and right."""
    x = torch.arange(points, dtype=torch.float64) * length / points - 0.5 * length - t
    return sum((3.0 / torch.cosh(0.5 * (x + m * length)) ** 2 for m in (-1, 0, 1)), start=torch.zeros(()))


@dataclass(frozen=True)
class DiagonalBurgers:
    """u_t + u (d . grad u) = nu laplace u in three dimensions."""

    direction: tuple[float, float, float] = (1.0, 2.0, -1.0)
    viscosity: float = 0.2

    def symbol(self, modes: spectral.Modes) -> Tensor:
        return -self.viscosity * modes.squared

    def nonlinear(self, modes: spectral.Modes) -> Callable[[Tensor], Tensor]:
        z, y, x = (d * k for d, k in zip(self.direction, modes.k, strict=True))
        flux = modes.weigh(-0.5j * (z + y + x))
        return lambda v: flux(modes.to_space(v).square())

    def exact(self, t: float, points: int, amplitude: float) -> Tensor:
        """A wave along d by the transform of Cole and Hopf, `(z, y, x)`."""
        x = 2.0 * math.pi * torch.arange(points, dtype=torch.float64) / points
        axes = torch.meshgrid(x, x, x, indexing="ij")
        s = sum((d * axis for d, axis in zip(self.direction, axes, strict=True)), start=torch.zeros(()))
        squared = sum(d * d for d in self.direction)
        decayed = amplitude * math.exp(-squared * self.viscosity * t)
        return 2.0 * self.viscosity * decayed * torch.sin(s) / (1.0 + decayed * torch.cos(s))


@dataclass(frozen=True)
class IncompressibleFlow:
    """u_t = -P div(u u) + nu laplace u for velocities of three components, P the projection on div u = 0."""

    viscosity: float = 0.1

    def symbol(self, modes: spectral.Modes) -> Tensor:
        return -self.viscosity * modes.squared

    def nonlinear(self, modes: spectral.Modes) -> Callable[[Tensor], Tensor]:
        wave = torch.stack([k.expand_as(modes.squared)[:, 0] for k in modes.k], 1)
        inverse = 1.0 / modes.squared[:, 0].clamp(min=1.0)
        gradient = modes.cast(1j * wave)
        along = modes.cast(wave * inverse.unsqueeze(1))
        wave = modes.cast(wave)

        def rate(v: Tensor) -> Tensor:
            u = modes.to_space(v)
            push = torch.stack([(gradient * modes.to_modes(u * u[:, i : i + 1])).sum(1) for i in range(3)], 1)
            return along * (wave * push).sum(1, keepdim=True) - push

        return rate

    def exact(self, t: float, points: int) -> Tensor:
        """The flow of Arnold, Beltrami and Childress, whose transport is a gradient: `(component, z, y, x)`."""
        x = 2.0 * math.pi * torch.arange(points, dtype=torch.float64) / points
        z, y, x = torch.meshgrid(x, x, x, indexing="ij")
        along_z = 1.3 * torch.sin(y) + 0.6 * torch.cos(x)
        along_y = 0.6 * torch.sin(x) + torch.cos(z)
        along_x = torch.sin(z) + 1.3 * torch.cos(y)
        return math.exp(-self.viscosity * t) * torch.stack([along_z, along_y, along_x])


@dataclass(frozen=True)
class Chemistry:
    """u_t = nu u_xx - a u_x + r c(x) u (1 - u) in one to three dimensions; nu, r are numbers and c a field of a row."""

    advection: float = 0.0

    def symbol(self, modes: spectral.Modes) -> Tensor:
        decay = -modes.parameter("viscosity") * modes.squared
        return decay - 1j * self.advection * modes.k[-1] if self.advection else decay

    def nonlinear(self, modes: spectral.Modes) -> Callable[[Tensor], Tensor]:
        growth = modes.cast(modes.parameter("growth") * modes.parameter("fertility"))

        def rate(v: Tensor) -> Tensor:
            u = modes.to_space(v)
            return modes.to_modes(growth * u * (1.0 - u))

        return rate
