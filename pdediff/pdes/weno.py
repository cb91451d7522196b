"""WENO5-Z: fifth-order values at cell faces that stay sharp at shocks, and the ghost cells they need.

One cell c with its neighbours (a, b, c, d, e) gives a value at both of its faces. With first differences
D_b = c - b and D_c = d - c, second differences s_b = a - 2b + c, s_c, s_d and third differences T_b = s_c - s_b and
T_c = s_d - s_c, the three parabolas of the scheme give at the right face

    c + D_c / 2 - k s_c - w_0 p T_b - w_2 q T_c,

the mirror image at the left face; (k, p, q) and the ideal weights are those of cell means or of point values. In
this form the two faces share their smoothness indicators, and only two of the three weights are needed.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

GHOSTS = 3

Boundary = Literal["periodic", "outflow", "reflective"]


@dataclass(frozen=True)
class Parabolas:
    """Where the three parabolas go through: k, p, q above and the ideal weights relative to that of the far one."""

    k: float
    p: float
    q: float
    central: float
    downwind: float


MEANS = Parabolas(k=1 / 6, p=1 / 3, q=1 / 6, central=6.0, downwind=3.0)
"""Reconstruction: face values from cell means (ideal weights 1/10, 6/10, 3/10)."""

POINTS = Parabolas(k=1 / 8, p=3 / 8, q=1 / 8, central=10.0, downwind=5.0)
"""Interpolation: face values from values at cell centres (ideal weights 1/16, 10/16, 5/16)."""


def pad(v: Tensor, dim: int, boundary: Boundary) -> Tensor:
    """`v` with `GHOSTS` ghost cells before and after it along `dim`.

    "outflow" repeats the edge cell, "reflective" mirrors; components that change sign at a wall are the caller's.
    """
    n = v.shape[dim]
    if boundary == "periodic":
        before, after = v.narrow(dim, n - GHOSTS, GHOSTS), v.narrow(dim, 0, GHOSTS)
    elif boundary == "reflective":
        before, after = v.narrow(dim, 0, GHOSTS).flip(dim), v.narrow(dim, n - GHOSTS, GHOSTS).flip(dim)
    else:
        edges = [GHOSTS if axis == dim % v.ndim else -1 for axis in range(v.ndim)]
        before, after = v.narrow(dim, 0, 1).expand(edges), v.narrow(dim, n - 1, 1).expand(edges)
    return torch.cat([before, v, after], dim)


def weno5_z(v: Tensor, dim: int, parabolas: Parabolas = MEANS) -> tuple[Tensor, Tensor]:
    """Left- and right-biased values at the n + 1 faces of n cells, from `v` with its ghosts, n + 6 along `dim`.

    Fifth order for smooth v, also at critical points. Weights d_k (1 + (tau / (beta_k + epsilon))^2) with
    tau = |beta_0 - beta_2| (Borges, Carmona, Costa and Don 2008, their power 2) and the smoothness
    indicators beta_k of Jiang and Shu (1996), the same for cell means and for point values. v is expected to be of
    order one: differences below 1e-6 (1e-4 in float32) count as smooth.
    Good values: `MEANS` in finite volumes, `POINTS` in finite differences.
    """
    n = v.shape[dim] - 2 * GHOSTS
    first = v.diff(dim=dim)
    second = first.diff(dim=dim)
    cells = n + 2
    b, c = (first.narrow(dim, start, cells) for start in (1, 2))
    seconds = tuple(second.narrow(dim, start, cells) for start in (0, 1, 2))
    left, right = face_offsets(b, c, seconds, parabolas, epsilon(v))
    centre = v.narrow(dim, 2, cells)
    return (centre + right).narrow(dim, 0, n + 1), (centre + left).narrow(dim, 1, n + 1)


def face_offsets(
    before: Tensor, after: Tensor, second: tuple[Tensor, ...], parabolas: Parabolas, floor: Tensor | float
) -> tuple[Tensor, Tensor]:
    """What to add to the value of each cell for the value at its left and at its right face.

    `before` is D_b, `after` is D_c and `second` holds s_b, s_c and s_d of each cell. `floor` is the epsilon of the
    weights for indicators of four times the size of Jiang and Shu's; a tensor sets it for each cell.
    """
    s_b, s_c, s_d = second
    z_0, z_1, z_2 = _departures(before, after, second, floor)
    shared = z_1.mul(parabolas.central).add_(1.0 + parabolas.central + parabolas.downwind)
    total_right = (shared + z_0).add_(z_2, alpha=parabolas.downwind)
    total_left = (shared + z_2).add_(z_0, alpha=parabolas.downwind)
    third_b, third_c = s_c - s_b, s_d - s_c
    far, near = torch.addcmul(third_b, z_0, third_b), torch.addcmul(third_c, z_2, third_c)
    ratio = parabolas.downwind * parabolas.q / parabolas.p
    right = torch.mul(after, 0.5).addcdiv_(torch.add(far, near, alpha=ratio), total_right, value=-parabolas.p)
    left = torch.mul(before, -0.5).addcdiv_(torch.add(near, far, alpha=ratio), total_left, value=parabolas.p)
    return left.sub_(s_c, alpha=parabolas.k), right.sub_(s_c, alpha=parabolas.k)


def _departures(
    before: Tensor, after: Tensor, second: tuple[Tensor, ...], floor: Tensor | float
) -> tuple[Tensor, Tensor, Tensor]:
    """(tau / (beta_k + epsilon))^2 of the three parabolas: how far their weights are above the ideal ones."""
    s_b, s_c, s_d = second
    beta_0 = _indicator(s_b, torch.add(s_b, before, alpha=2.0), floor)
    beta_1 = _indicator(s_c, before + after, floor)
    beta_2 = _indicator(s_d, torch.sub(s_d, after, alpha=2.0), floor)
    tau = (beta_0 - beta_2).square()
    return tau / beta_0.square(), tau / beta_1.square(), tau / beta_2.square()


def epsilon(v: Tensor) -> float:
    """The `floor` below which values of order one count as smooth, by the precision of v."""
    return 4e-12 if v.dtype == torch.float64 else 4e-8


def _indicator(second: Tensor, slope: Tensor, floor: Tensor | float) -> Tensor:
    """13/3 second^2 + slope^2 + floor, for slope twice the first derivative in the cell, times its width."""
    return slope.square().add_(floor).addcmul_(second, second, value=13.0 / 3.0)
