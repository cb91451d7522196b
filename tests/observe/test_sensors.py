"""Sensors: by hand, exact on (multi)linear fields, and refused where they cannot stand."""

from __future__ import annotations

import math

import pytest
import torch

from pdediff.errors import DataError
from pdediff.observe import PointSensors, mask_sensors, subsample


def points(*rows: tuple[float, ...]) -> torch.Tensor:
    return torch.tensor(rows, dtype=torch.float64)


def test_bilinear_by_hand():
    """Cell [[1, 3], [5, 11]]; at (0.5, 0.25): 0.5 (0.75 * 1 + 0.25 * 3) + 0.5 (0.75 * 5 + 0.25 * 11) = 4."""
    x = torch.tensor([[[[1.0, 3.0], [5.0, 11.0]]]], dtype=torch.float64)
    assert PointSensors.at([0], points((0.5, 0.25)), (1, 2, 2))(x).tolist() == [[4.0]]


def test_on_the_grid_reads_the_value():
    x = torch.arange(24, dtype=torch.float64).reshape(1, 2, 3, 4)
    sensors = PointSensors.at([0, 1, 1], points((0, 0), (2, 3), (1, 2)), (2, 3, 4))
    assert sensors(x).tolist() == [[0.0, 23.0, 18.0]]


@pytest.mark.parametrize("space", [(7,), (5, 6), (4, 5, 3)])
def test_exact_on_multilinear_fields_also_half_a_cell_outside(space):
    """The product of (a + b i) over the axes is reproduced by interpolation and by extrapolation."""
    g = torch.Generator().manual_seed(0)
    dims = len(space)
    a, b = (torch.randn(dims, generator=g, dtype=torch.float64) for _ in range(2))
    positions = torch.rand(40, dims, generator=g, dtype=torch.float64) * torch.tensor(space) - 0.5
    positions[0], positions[1] = -0.5, torch.tensor(space) - 0.5
    x = torch.ones(space, dtype=torch.float64)
    for axis, n in enumerate(space):
        line = a[axis] + b[axis] * torch.arange(n, dtype=torch.float64)
        x = x * line.reshape([-1 if i == axis else 1 for i in range(dims)])
    found = PointSensors.at([0] * 40, positions, (1, *space))(x[None, None])[0]
    torch.testing.assert_close(found, (a + b * positions).prod(1), rtol=1e-12, atol=1e-12)


def test_periodic_wraps():
    x = torch.tensor([[[0.0, 1.0, 2.0, 3.0]]], dtype=torch.float64)
    sensors = PointSensors.at([0] * 4, points((3.5,), (-0.25,), (4.0,), (9.5,)), (1, 4), periodic=True)
    # Between 3 and 0; a quarter before 0; point 4 is point 0; 9.5 = 1.5 after two rounds.
    assert sensors(x)[0].tolist() == pytest.approx([1.5, 0.75, 0.0, 1.5], abs=1e-14)


def test_nearest_reads_one_cell():
    """A well reads its cell, not a mean of permeabilities 3 and 12; the edge of the domain belongs to the last cell."""
    x = torch.tensor([[[3.0, 12.0, 3.0]]], dtype=torch.float64)
    at = points((0.4,), (0.6,), (2.5,), (-0.5,), (0.6,))
    sensors = PointSensors.at([0] * 5, at, (1, 3), nearest=[True] * 4 + [False])
    assert sensors(x)[0].tolist() == pytest.approx([3.0, 12.0, 3.0, 3.0, 0.4 * 3 + 0.6 * 12], abs=1e-13)


def test_nearest_wraps_on_a_periodic_grid():
    x = torch.tensor([[[0.0, 1.0, 2.0, 3.0]]], dtype=torch.float64)
    sensors = PointSensors.at([0] * 3, points((3.7,), (-0.4,), (-0.6,)), (1, 4), periodic=True, nearest=[True] * 3)
    assert sensors(x)[0].tolist() == [0.0, 0.0, 3.0]


def test_axis_of_one_point():
    x = torch.tensor([[[[7.0, 9.0]]]], dtype=torch.float64)
    sensors = PointSensors.at([0, 0], points((0.3, 0.5), (-0.5, 1.0)), (1, 1, 2))
    assert sensors(x)[0].tolist() == pytest.approx([8.0, 9.0], abs=1e-14)


@pytest.mark.parametrize("bad", [(-0.51, 1.0), (1.0, 4.51), (math.nan, 1.0), (math.inf, 1.0)])
def test_points_outside_are_refused(bad):
    with pytest.raises(DataError, match=r"sensor 1 at grid position .* outside the domain"):
        PointSensors.at([0, 0], points((1.0, 1.0), bad), (1, 4, 5))


def test_not_a_number_is_refused_on_a_periodic_grid_too():
    with pytest.raises(DataError, match="sensor 0"):
        PointSensors.at([0], points((math.nan,)), (1, 4), periodic=True)


@pytest.mark.parametrize("channel", [2, -1])
def test_channels_that_are_not_there_are_refused(channel):
    with pytest.raises(DataError, match=f"sensor 0 reads channel {channel} of a field with 2"):
        PointSensors.at([channel], points((1.0,)), (2, 4))


def test_mask_and_subsample_by_hand():
    x = torch.arange(12, dtype=torch.float64).reshape(1, 2, 6)
    mask = torch.zeros(2, 6, dtype=torch.bool)
    mask[0, 4] = mask[1, 1] = True
    assert mask_sensors(mask)(x).tolist() == [[4.0, 7.0]]
    assert subsample((2, 6), 2, [1])(x).tolist() == [[6.0, 8.0, 10.0]]
    grid = torch.arange(16, dtype=torch.float64).reshape(1, 1, 4, 4)
    assert subsample((1, 4, 4), 2, [0])(grid).tolist() == [[0.0, 2.0, 8.0, 10.0]]
    with pytest.raises(DataError, match="no point"):
        mask_sensors(torch.zeros(2, 6, dtype=torch.bool))


def test_rows_of_a_batch_are_read_one_by_one():
    x = torch.randn(3, 2, 4, 5, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    sensors = PointSensors.at([0, 1], points((0.3, 1.7), (2.2, 3.9)), (2, 4, 5))
    torch.testing.assert_close(sensors(x)[1:2], sensors(x[1:2]), rtol=0, atol=1e-14)
    assert sensors(x.float()).dtype == torch.float32
