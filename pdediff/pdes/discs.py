"""Round obstacles on the periodic unit square, drawn without overlap, and the mask by which a flow feels them."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from pdediff.errors import ConfigError, NumericalError
from pdediff.pdes.ranges import linear, require_positive
from pdediff.types import NonNegative, Positive

ATTEMPTS = 256
"""Places tried for the discs of one sample: each takes the next one that is free."""

# Discs and half their gaps may fill this part of the square: random placement jams at 0.547.
_FILLED = 0.4


@dataclass(frozen=True)
class Discs:
    """Discs at rest in a flow, by volume penalisation (Angot, Bruneau and Fabrie 1999).

    The velocity u decays at the rate chi / penalty, with the mask chi = (1 - tanh(2 d / edge)) / 2 of the distance d to
    the nearest rim, positive outside. Radii are drawn evenly from `radius`, rims keep at least `gap`; lengths in sides
    of the square. A penalty eta leaves a velocity of order sqrt(viscosity eta) times the shear at the rim.
    Good values: an edge of 2 cells or more; penalty at most radius / speed and at least half the inner step; with
    edge = 2.648 sqrt(viscosity penalty) the discs act with their own radius (Hester, Vasil and Burns 2021), a wider
    edge makes them act larger by up to half of it.
    """

    radius: tuple[float, float] = (0.06, 0.12)
    gap: NonNegative = 0.06
    edge: Positive = 0.03
    penalty: Positive = 0.02

    def require_room(self, most: int) -> None:
        """Raises ConfigError where the range of radii is not in order or positive, or `most` discs have no room."""
        require_positive(radius=self.radius)
        reach = self.radius[1] + 0.5 * self.gap
        if reach > 0.5 or most * math.pi * reach**2 > _FILLED:
            sizes = f"radius up to {self.radius[1]:g} and gap {self.gap:g}"
            raise ConfigError(f"obstacles: {most} discs of {sizes} must leave {1.0 - _FILLED:.0%} of the square free")

    def place(self, counts: Tensor, most: int, numbers: Tensor) -> Tensor:
        """x, y and radius of the discs of each row, `(batch, most, 3)`; radius 0 where a row has fewer than `most`.

        `counts` `(batch,)` discs are wanted; `numbers` `(batch, ATTEMPTS, 3)`, uniform on [0, 1), are the places and
        radii to try, in order. Raises NumericalError where a row runs out of them.
        """
        batch = len(counts)
        placed = torch.zeros((batch, most, 3), dtype=torch.float64)
        found = torch.zeros(batch, dtype=torch.int64)
        slots = torch.arange(most)
        for x, y, number in (n.unbind(-1) for n in numbers.unbind(1)):
            if not (found < counts).any():
                return placed
            radius = linear(number, self.radius)
            between = _distance(x[:, None] - placed[..., 0], y[:, None] - placed[..., 1])
            free = (between >= radius[:, None] + placed[..., 2] + self.gap) | (slots >= found[:, None])
            taken = (free.all(1) & (found < counts))[:, None] & (slots == found[:, None])
            placed = torch.where(taken[..., None], torch.stack([x, y, radius], -1)[:, None], placed)
            found = found + taken.any(1)
        if not (found < counts).any():
            return placed
        raise NumericalError(f"no room for {most} discs of radius {self.radius} and gap {self.gap:g}")

    def mask(self, placed: Tensor, grid: int) -> Tensor:
        """chi at the grid points, `(batch, grid, grid)`, from 0 in the flow to 1 in a disc."""
        points = torch.arange(grid, dtype=torch.float64) / grid
        x, y, radius = (n[..., None, None] for n in placed.unbind(-1))
        outside = _distance(points - x, points[:, None] - y) - radius
        chi = 0.5 * (1.0 - torch.tanh(2.0 / self.edge * outside))
        return 1.0 - (1.0 - torch.where(radius > 0.0, chi, 0.0)).prod(1)


def _distance(x: Tensor, y: Tensor) -> Tensor:
    """Distance on the periodic unit square of points that are (x, y) apart."""
    return torch.hypot(x - torch.round(x), y - torch.round(y))
