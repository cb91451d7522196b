"""Line integrals: by hand, exact for what the grid represents, and the closed forms of a disc and a Gaussian."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from pdediff.errors import DataError
from pdediff.observe import Grid, line_integrals, radon

ANGLES = torch.linspace(0, math.pi, 13).double()[:-1]
OFFSETS = torch.linspace(-0.7, 0.7, 15).double()


def points(*rows: tuple[float, ...]) -> torch.Tensor:
    return torch.tensor(rows, dtype=torch.float64)


def plane(grid: Grid) -> tuple[torch.Tensor, torch.Tensor]:
    """y and x of every point."""
    y, x = torch.meshgrid(grid.points(0), grid.points(1), indexing="ij")
    return y, x


def test_a_line_by_hand():
    """Cell centres 0.5, 1.5, 2.5 with 1, 3, 11; from 0.5 to 2: (1 + 3) / 2 + half a cell of (3 + 7) / 2."""
    h = line_integrals(Grid.cells((3,), (3.0,)), points((0.5,)), points((2.0,)))
    assert h(points((1, 3, 11))[None]).item() == pytest.approx(2 + 2.5, abs=1e-14)


@pytest.mark.parametrize("dims", [1, 2, 3])
@pytest.mark.parametrize("degree", [1, 3])
def test_exact_for_polynomials_along_any_line(dims, degree):
    """prod_a (1 + c_a x_a)^degree against one Gauss rule on the whole line."""
    g = torch.Generator().manual_seed(0)
    grid = Grid.cells((6, 5, 7)[:dims], (1.0, 2.0, 1.5)[:dims])
    starts, ends = torch.rand(2, 20, dims, generator=g, dtype=torch.float64) * grid.lengths
    starts[0], ends[0] = grid.low, grid.low + grid.lengths
    starts[1] = ends[1] * torch.tensor([1.0, 0.3, 1.0])[:dims]  # along one axis of the grid
    c = torch.randn(dims, generator=g, dtype=torch.float64)

    def f(x: torch.Tensor) -> torch.Tensor:
        return ((1 + c * x) ** degree).prod(-1)

    mesh = torch.stack(torch.meshgrid(*[grid.points(a) for a in range(dims)], indexing="ij"), -1)
    found = line_integrals(grid, starts, ends, degree=degree)(f(mesh)[None, None])[0]
    # A polynomial of degree 9 at most in the parameter of the line: ten Gauss points on the whole line are exact.
    nodes, weights = (torch.from_numpy(a) for a in np.polynomial.legendre.leggauss(10))
    along = f(starts[:, None] + 0.5 * (1 + nodes)[:, None] * (ends - starts)[:, None])
    exact = 0.5 * (along * weights).sum(1) * (ends - starts).norm(dim=1)
    torch.testing.assert_close(found, exact, rtol=1e-11, atol=1e-11)


def test_radon_of_a_constant_is_the_chord():
    """On the box (0, 2) x (0, 1), lines from the centre: chords in closed form, 0 for lines that miss."""
    grid = Grid.cells((10, 7), (2.0, 1.0))
    angles, offsets = points((0.0,), (math.pi / 2,), (math.pi / 4,))[:, 0], points((0.0,), (0.4,), (0.6,), (1.2,))[:, 0]
    found = radon(grid, angles, offsets)(torch.ones(1, 1, 10, 7, dtype=torch.float64)).reshape(3, 4)
    # Angle 0: x = offset, along y. Angle 90: y = offset, along x. Angle 45: x + y = sqrt(2) offset.
    assert found[0].tolist() == pytest.approx([2, 2, 0, 0], abs=1e-12)
    assert found[1].tolist() == pytest.approx([1, 1, 1, 0], abs=1e-12)
    diagonal = [math.sqrt(2), math.sqrt(2) * (1.5 - math.sqrt(2) * 0.4), math.sqrt(2) * (1.5 - math.sqrt(2) * 0.6), 0]
    assert found[2].tolist() == pytest.approx(diagonal, abs=1e-12)


def test_radon_tells_left_from_right_by_hand():
    """A bar in the right column, x in (1, 2): angle 0 sees it at positive offsets, angle 90 at all."""
    x = torch.zeros(1, 2, 4, 4, dtype=torch.float64)
    x[0, 1, :, 3] = 1.0
    h = radon(
        Grid.cells((4, 4), (4.0, 4.0)), points((0.0, math.pi / 2))[0], points((-1.5, 1.5))[0], channels=2, channel=1
    )
    # Along y = offset the tent of the last column holds 1/2 inside and 3/4 * 1/2 + ... = 5/8 up to the wall.
    tent = 0.5 + 0.5 * (1 + 1.5) / 2
    assert h(x)[0].tolist() == pytest.approx([0.0, 4.0, tent, tent], abs=1e-12)


@pytest.mark.parametrize(("degree", "order"), [(1, 2), (3, 4)])
def test_radon_of_a_gaussian(degree, order):
    """exp(-r^2 / 2 w^2) off the centre: w sqrt(2 pi) exp(-(s - s0)^2 / 2 w^2), s0 = centre . normal, at every angle."""
    width, centre, errors = 0.12, (0.06, -0.1), []
    offsets = torch.linspace(-0.7, 0.7, 117).double()
    for n in (32, 64):
        grid = Grid.cells((n, n), (2.0, 2.0))
        y, x = plane(grid)
        field = torch.exp(-0.5 * ((y - 1 - centre[0]) ** 2 + (x - 1 - centre[1]) ** 2) / width**2)
        found = radon(grid, ANGLES, offsets, degree=degree)(field[None, None]).reshape(len(ANGLES), -1)
        shift = offsets - (centre[1] * ANGLES.cos() + centre[0] * ANGLES.sin())[:, None]
        exact = width * math.sqrt(2 * math.pi) * torch.exp(-0.5 * (shift / width) ** 2)
        errors.append(float((found - exact).abs().max()))
    assert order - 0.3 < math.log2(errors[0] / errors[1]) < order + 0.3
    assert errors[1] < {1: 2e-2, 3: 1e-3}[degree]


def test_radon_of_a_disc():
    """Chords 2 sqrt(R^2 - s^2); the staircase of the rim costs at most a cell at either end."""
    for n in (64, 128):
        grid = Grid.cells((n, n), (2.0, 2.0))
        y, x = plane(grid)
        disc = (((y - 1) ** 2 + (x - 1) ** 2) < 0.6**2).double()
        found = radon(grid, ANGLES, OFFSETS)(disc[None, None]).reshape(len(ANGLES), -1)
        inside = OFFSETS.abs() < 0.55
        exact = 2 * (0.6**2 - OFFSETS[inside] ** 2).sqrt()
        assert (found[:, inside] - exact).abs().max() < 2 * 2.0 / n * 1.5
        assert found[:, OFFSETS.abs() > 0.6 + 2 * 2.0 / n].abs().max() == 0


def test_a_projection_keeps_the_mass():
    """The integral over offsets of every projection is the integral of the field."""
    grid = Grid.cells((40, 40), (2.0, 2.0))
    y, x = plane(grid)
    field = torch.exp(-0.5 * ((y - 1.1) ** 2 + (x - 0.9) ** 2) / 0.15**2)
    offsets = torch.linspace(-1.4, 1.4, 281).double()
    masses = radon(grid, ANGLES, offsets)(field[None, None]).reshape(len(ANGLES), -1).sum(1) * 0.01
    torch.testing.assert_close(masses, torch.full_like(masses, float(field.sum()) * 0.05**2), rtol=1e-3, atol=0)


def test_many_rays_in_passes_are_the_same():
    """More rays than one pass takes."""
    grid = Grid.cells((5, 5), (1.0, 1.0))
    g = torch.Generator().manual_seed(3)
    starts, ends = torch.rand(2, 1100, 2, generator=g, dtype=torch.float64)
    x = torch.randn(2, 1, 5, 5, generator=g, dtype=torch.float64)
    whole = line_integrals(grid, starts, ends)(x)
    parts = [line_integrals(grid, starts[i : i + 7], ends[i : i + 7])(x) for i in (0, 509, 1090)]
    for i, part in zip((0, 509, 1090), parts, strict=True):
        torch.testing.assert_close(whole[:, i : i + 7], part, rtol=0, atol=1e-14)


def test_periodic_lines_see_the_seam():
    """A period of points 0, 1, 2, 3 with 1, 0, 0, 0: from 3 to 4 the field rises from 0 to 1."""
    grid = Grid.cells((4,), (4.0,), periodic=True)
    h = line_integrals(grid, points((3.0,), (0.0,)), points((4.0,), (4.0,)))
    assert h(points((1, 0, 0, 0))[None])[0].tolist() == pytest.approx([0.5, 1.0], abs=1e-14)
    with pytest.raises(DataError, match="line 0 leaves the period of axis 0"):
        line_integrals(grid, points((3.0,)), points((4.5,)))


@pytest.mark.parametrize(
    ("start", "end", "channel", "message"),
    [
        ((0.5, 0.5), (0.5, 1.2), 0, r"end of line 0 at \[0.5, 1.2\] lies outside"),
        ((-0.1, 0.5), (0.5, 0.5), 0, "start of line 0 .* outside"),
        ((0.1, math.nan), (0.5, 0.5), 0, "start of line 0 .* outside"),
        ((0.1, 0.2), (0.5, 0.5), 1, "channel 1 of a field with 1"),
    ],
)
def test_wrong_lines_are_refused(start, end, channel, message):
    with pytest.raises(DataError, match=message):
        line_integrals(Grid.cells((4, 4), (1.0, 1.0)), points(start), points(end), channel=channel)


def test_other_wrong_calls_are_refused():
    with pytest.raises(DataError, match="plane fields; got 1 axes"):
        radon(Grid.cells((4,), (1.0,)), ANGLES, OFFSETS)
    with pytest.raises(DataError, match="as many starts as ends"):
        line_integrals(Grid.cells((4,), (1.0,)), points((0.1,)), points((0.1,), (0.2,)))
