"""Grids in physical units and sensors between their points: by hand, exact on polynomials, of the promised order."""

from __future__ import annotations

import math

import pytest
import torch

from pdediff.errors import DataError
from pdediff.observe import Grid, point_sensors


def vector(*values: float) -> torch.Tensor:
    return torch.tensor(values, dtype=torch.float64)


def test_cells_by_hand():
    """Four cells on (0, 2): centres 0.25, 0.75, 1.25, 1.75; a period of four points: 0, 0.5, 1, 1.5."""
    walls, ring = Grid.cells((4,), (2.0,)), Grid.cells((4,), (2.0,), periodic=True)
    assert walls.points(0).tolist() == [0.25, 0.75, 1.25, 1.75]
    assert ring.points(0).tolist() == [0.0, 0.5, 1.0, 1.5]
    assert (walls.low.item(), walls.lengths.item()) == (0.0, 2.0) == (ring.low.item(), ring.lengths.item())
    assert walls.index(vector(1.0)[:, None]).item() == 1.5


def test_grid_of_coordinates():
    time, x = vector(1.0, 1.5, 2.0), torch.linspace(-1, 1, 5).double()
    grid = Grid.of((time, x), (False, False), margin=0.0)
    assert (grid.shape, grid.low.tolist(), grid.lengths.tolist()) == ((3, 5), [1.0, -1.0], [1.0, 2.0])
    torch.testing.assert_close(grid.points(1), x, rtol=0, atol=1e-15)


def test_linear_by_hand():
    """Cell centres 0.5, 1.5, 2.5 with 1, 3, 11: at 1.75 it is 3 + 0.25 * 8; at the wall 0 it is 1 - 0.5 * 2."""
    sensors = point_sensors(Grid.cells((3,), (3.0,)), vector(1.75, 0.0)[:, None], channels=[0, 0])
    assert sensors(vector(1, 3, 11)[None, None]).tolist() == [[5.0, 0.0]]


def test_cubic_by_hand():
    """Half way between points the weights are -1/16, 9/16, 9/16, -1/16: of 0, 1, 8, 27 that is 3.375 = 1.5^3."""
    grid = Grid.cells((4,), (4.0,))
    sensors = point_sensors(grid, vector(2.0)[:, None], channels=[0], degree=3)
    assert sensors.weights.tolist() == [[-0.0625, 0.5625, 0.5625, -0.0625]]
    assert sensors(vector(0, 1, 8, 27)[None, None]).item() == 3.375


def test_channels_by_hand():
    x = vector(1, 2, 3, 10, 20, 30).reshape(1, 2, 3)
    at = vector(0.5, 1.5, 2.0)[:, None]
    assert point_sensors(Grid.cells((3,), (3.0,)), at, channels=[1, 0, 1])(x).tolist() == [[10.0, 2.0, 25.0]]


@pytest.mark.parametrize("degree", [1, 2, 3, 5])
@pytest.mark.parametrize("dims", [1, 2, 3])
def test_polynomials_are_exact_up_to_the_walls(dims, degree):
    g = torch.Generator().manual_seed(0)
    shape, lengths = (7, 8, 6)[:dims], (1.0, 2.0, 0.5)[:dims]
    grid = Grid.cells(shape, lengths)
    at = torch.rand(30, dims, generator=g, dtype=torch.float64) * grid.lengths
    at[0], at[1] = grid.low, grid.low + grid.lengths
    factors = torch.randn(dims, degree + 1, generator=g, dtype=torch.float64)

    def f(columns: list[torch.Tensor]) -> torch.Tensor:
        return math.prod(sum(c * x**p for p, c in enumerate(row)) for x, row in zip(columns, factors, strict=True))

    x = f(list(torch.meshgrid(*[grid.points(axis) for axis in range(dims)], indexing="ij")))
    found = point_sensors(grid, at, channels=[0] * 30, degree=degree)(x[None, None])[0]
    torch.testing.assert_close(found, f(list(at.unbind(1))), rtol=1e-10, atol=1e-10)


def slope(errors: list[float]) -> float:
    """Order of the last two of errors at halved steps."""
    return math.log2(errors[-2] / errors[-1])


@pytest.mark.parametrize("periodic", [False, True])
@pytest.mark.parametrize("degree", [1, 3])
@pytest.mark.parametrize("dims", [1, 2, 3])
def test_finer_grids_read_the_same_to_the_order(dims, degree, periodic):
    """Physical positions stay where they are: prod sin(2 pi x_a + 1 + a), error of order degree + 1."""
    at = torch.rand(400, dims, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    at[0], at[1] = 0.0, 1.0  # corners, where one-sided stencils are worst
    phase = 1 + torch.arange(dims).double()  # no derivative vanishes at a wall
    exact = torch.sin(2 * math.pi * at + phase).prod(1)
    errors = []
    for n in (32, 64):
        grid = Grid.cells((n,) * dims, (1.0,) * dims, periodic)
        waves = [torch.sin(2 * math.pi * grid.points(axis) + 1 + axis) for axis in range(dims)]
        x = math.prod(torch.meshgrid(*waves, indexing="ij"))
        found = point_sensors(grid, at, channels=[0] * 400, degree=degree)(x[None, None])[0]
        errors.append(float((found - exact).abs().max()))
    # Sensors do not sit at the same place of their cell on both grids, so that a slope has a little play.
    assert degree + 0.7 < slope(errors) < degree + 1.3
    assert errors[-1] < (2 * math.pi / 16) ** (degree + 1)


def test_periodic_sensors_wrap():
    grid = Grid.cells((4,), (4.0,), periodic=True)
    x = vector(0, 1, 2, 3)[None, None]
    sensors = point_sensors(grid, vector(3.5, -0.25, 9.5)[:, None], channels=[0] * 3)
    assert sensors(x)[0].tolist() == pytest.approx([1.5, 0.75, 1.5], abs=1e-14)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"positions": vector(0.1, 1.1)[:, None]}, r"sensor 1 at \[1.1\] lies outside the domain"),
        ({"positions": vector(0.1, math.nan)[:, None]}, "sensor 1 at .* outside the domain"),
        ({"positions": vector(0.1, 0.2)[None]}, r"positions must be \(m, 1\), got \(1, 2\)"),
        ({"channels": [0]}, "got 1 channels for 2 sensors"),
        ({"channels": [0, -1]}, "channel >= 0"),
        ({"degree": 0}, "degree=0 must be at least 1"),
        ({"degree": 4}, "degree 4 needs 5 points; axis 0 has 4"),
    ],
)
def test_wrong_sensors_are_refused(change, message):
    arguments = {"positions": vector(0.1, 0.2)[:, None], "channels": [0, 0], "degree": 1} | change
    if arguments["positions"].shape == (1, 2):
        arguments["channels"] = [0]
    with pytest.raises(DataError, match=message):
        point_sensors(Grid.cells((4,), (1.0,)), **arguments)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (((4,), (0.0,), (1.0, 1.0), (False,)), "one entry an axis"),
        (((), (), (), ()), "one entry an axis"),
        (((4,), (0.0,), (0.0,), (False,)), "positive steps"),
        (((0,), (0.0,), (1.0,), (False,)), "positive steps"),
        (((4,), (0.0,), (1.0,), (False,), 0.3), "margin=0.3 must be"),
    ],
)
def test_wrong_grids_are_refused(arguments, message):
    with pytest.raises(DataError, match=message):
        Grid(*arguments)


@pytest.mark.parametrize("points", [vector(0, 1, 3), vector(2, 1, 0), vector(1)])
def test_coordinates_that_are_not_even_are_refused(points):
    with pytest.raises(DataError, match="axis 1 are not evenly spaced"):
        Grid.of((vector(0, 1), points), (False, False))
