"""Walk on spheres: the solution of -laplace u = f at single points, by chance and without a grid."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor

from pdediff.types import NonNegative, PositiveInt, generator

Field = Callable[[Tensor, Tensor], Tensor]
"""(positions (n, 2), rows (n,)) -> values (n,): the field of sample `rows[i]` at a position, components as (y, x).

Values (n, field) are those of several fields at once, for which the same walks serve.
"""

EVERY = 4  # steps between the removals of walks that have ended: each removal waits for the device


class Domain(Protocol):
    """A bounded convex set of the plane."""

    def distance(self, x: Tensor) -> Tensor:
        """Distance to the edge of positions (..., 2) inside."""
        ...

    def nearest(self, x: Tensor) -> Tensor:
        """The nearest point of the edge, (..., 2)."""
        ...


@dataclass(frozen=True)
class UnitSquare:
    """(0, 1)^2."""

    def distance(self, x: Tensor) -> Tensor:
        """Distance to the nearest side."""
        return torch.minimum(x, 1 - x).amin(-1)

    def nearest(self, x: Tensor) -> Tensor:
        """Foot of the perpendicular on the nearest side."""
        side = torch.minimum(x, 1 - x).argmin(-1, keepdim=True)
        return x.scatter(-1, side, x.gather(-1, side).round())


@dataclass(frozen=True)
class Disc:
    """The disc of radius 1/2 about (1/2, 1/2)."""

    def distance(self, x: Tensor) -> Tensor:
        """Distance to the circle."""
        return 0.5 - (x - 0.5).norm(dim=-1)

    def nearest(self, x: Tensor) -> Tensor:
        """The point of the circle on the same ray from the centre."""
        ray = x - 0.5
        return 0.5 + 0.5 * ray / ray.norm(dim=-1, keepdim=True)


@dataclass(frozen=True, eq=False)
class GridField:
    """Values (sample, y, x) at nodes of the unit square, edge included, bilinear between them."""

    values: Tensor

    def __call__(self, x: Tensor, rows: Tensor) -> Tensor:
        """Values (n,) at positions inside the square."""
        _, height, width = self.values.shape
        first, weights = _corners(x, height, width)
        flat = self.values.flatten()
        terms = [w * flat[rows * height * width + k] for k, w in zip(first, weights, strict=True)]
        return torch.stack(terms).sum(0)


@dataclass(frozen=True, eq=False)
class GridFields:
    """Fields (y, x, field) at nodes of the unit square, edge included, bilinear between them; all of them at once."""

    values: Tensor

    def __call__(self, x: Tensor, rows: Tensor) -> Tensor:
        """Values (n, field) at positions inside the square, the same for all rows."""
        height, width, _ = self.values.shape
        first, weights = _corners(x, height, width)
        flat = self.values.flatten(0, 1)
        return torch.stack([w[:, None] * flat[k] for k, w in zip(first, weights, strict=True)]).sum(0)


def _corners(x: Tensor, height: int, width: int) -> tuple[list[Tensor], list[Tensor]]:
    """Numbers of the four nodes about positions (n, 2), and their weights."""
    size = torch.tensor((height - 1, width - 1), device=x.device)
    at = x * size
    cell = at.floor().long().clamp(min=torch.zeros_like(size), max=size - 1)
    (v, u), (i, j) = (at - cell).unbind(-1), cell.unbind(-1)
    first = i * width + j
    nodes = [first, first + 1, first + width, first + width + 1]
    return nodes, [(1 - v) * (1 - u), (1 - v) * u, v * (1 - u), v * u]


def nothing(x: Tensor, rows: Tensor) -> Tensor:
    """The field that is zero."""
    return x.new_zeros(len(x))


def walk_on_spheres(
    points: Tensor,
    walks: PositiveInt,
    source: Field,
    boundary: Field,
    domain: Domain,
    seed: int,
    epsilon: NonNegative = 1e-3,
) -> Tensor:
    """Independent estimates (sample, point, walk) of u at `points` (sample, point, 2); -laplace u = f, u = g outside.

    With fields of several values at once they are (sample, point, walk, field); estimates of different fields then
    share their walks.

    From x_0 on, x_{k+1} is uniform on the largest circle about x_k inside the domain, of radius R_k, until the edge
    is nearer than epsilon (Muller 1956, theorem 3.1). With y_k drawn in the disc by its Green's function, density
    (2 / pi R^2) log(R / r), an estimate is g(nearest point of the edge) + sum_k R_k^2 / 4 f(y_k) (Sawhney and Crane
    2020, section 4.2); for f(y_k) the mean with its mirror image at 2 x_k - y_k, which costs no independence of walks.
    Unbiased but for the shell: the bias is of order epsilon, the variance of a mean over walks one over their number.
    What it draws is a function of the seed and the shape of `points`.
    Good values: epsilon 1e-3, where the bias is far below the spread of thousands of walks.
    """
    samples, number = points.shape[:2]
    draw = generator(seed)
    x = points[:, :, None].expand(-1, -1, walks, -1).reshape(-1, 2)
    index = torch.arange(len(x), device=x.device)
    several = source(x[:0], index[:0]).shape[1:]
    wide = tuple(1 for _ in several)
    total = x.new_zeros(len(x), *several)
    while len(index):
        for _ in range(EVERY):
            rows, radius = index // (number * walks), domain.distance(x)
            inside = radius > epsilon
            four = torch.rand(4, len(x), generator=draw, dtype=x.dtype).to(x.device)
            # s = (r / R)^2 has density -log s, that of a product of two uniform numbers
            y = _moved(x, radius * (four[0] * four[1]).sqrt(), four[2])
            value = (source(y, rows) + source(2 * x - y, rows)) / 2  # the mirror image has the same law
            weight = torch.where(inside, radius.square() / 4, 0)
            total[index] += weight.reshape(-1, *wide) * value
            x = torch.where(inside[:, None], _moved(x, radius, four[3]), x)
        going = domain.distance(x) > epsilon
        ended = index[~going]
        edge = boundary(domain.nearest(x[~going]), ended // (number * walks))
        total[ended] += edge.reshape(len(ended), *(edge.shape[1:] or wide))  # one edge value may serve all fields
        x, index = x[going], index[going]
    return total.reshape(samples, number, walks, *several)


def _moved(x: Tensor, length: Tensor, turn: Tensor) -> Tensor:
    """Positions moved by a length in the direction that is a share `turn` of the whole circle."""
    angle = 2 * math.pi * turn
    return x + length[:, None] * torch.stack((angle.sin(), angle.cos()), -1)
