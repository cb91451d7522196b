"""Operators from fields to fields: blocks, walls, times, channels, derived quantities."""

from __future__ import annotations

import math

import pytest
import torch

from pdediff.errors import DataError
from pdediff.observe import (
    AlongAxis,
    BlockAverage,
    Flatten,
    Grid,
    Saturation,
    Selection,
    Speed,
    Stack,
    Vorticity,
    boundary_trace,
    mask_sensors,
    slices,
    subsample,
    window,
    window_mean,
)


def vector(*values: float) -> torch.Tensor:
    return torch.tensor(values, dtype=torch.float64)


def line(*values: float) -> torch.Tensor:
    return vector(*values)[None, None]


def test_blocks_by_hand():
    x = torch.arange(8, dtype=torch.float64).reshape(1, 1, 2, 4)
    assert BlockAverage((2, 2))(x).tolist() == [[[[2.5, 4.5]]]]
    assert BlockAverage((1, 4))(x).tolist() == [[[[1.5], [5.5]]]]
    assert BlockAverage((2, 2)).vjp(x, torch.ones(1, 1, 1, 2).double()).flatten().tolist() == [0.25] * 8


def test_block_means_converge_to_the_integral():
    """Blocks of length 1/4 of sin(2 pi x): the midpoint rule, second order."""
    edges = torch.linspace(0, 1, 5).double()
    exact = -torch.cos(2 * math.pi * edges).diff() / (2 * math.pi) / 0.25
    errors = []
    for n in (16, 32):
        grid = Grid.cells((n,), (1.0,))
        found = BlockAverage.of(grid, (0.25,))(torch.sin(2 * math.pi * grid.points(0))[None, None])[0, 0]
        errors.append(float((found - exact).abs().max()))
    assert math.log2(errors[0] / errors[1]) == pytest.approx(2, abs=0.05)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: BlockAverage(()), "at least one point"),
        (lambda: BlockAverage((0,)), "at least one point"),
        (lambda: BlockAverage((3,))(line(1, 2, 3, 4)), r"blocks of \(3,\) points do not fill a field of \(4,\)"),
        (lambda: BlockAverage((2, 2))(line(1, 2, 3, 4)), "do not fill"),
        (lambda: BlockAverage.of(Grid.cells((8,), (1.0,)), (0.3,)), "block of 0.3 on axis 0 is no multiple"),
    ],
)
def test_wrong_blocks_are_refused(call, message):
    with pytest.raises(DataError, match=message):
        call()


def test_traces_by_hand():
    """Cells at 0.5, 1.5, 2.5 of x^2 = 0.25, 2.25, 6.25: 0 at the wall 0 and 9 at 3, outward slopes 0 and 6."""
    grid, x = Grid.cells((3,), (3.0,)), line(0.25, 2.25, 6.25)
    for side, value, slope in (("low", 0.0, 0.0), ("high", 9.0, 6.0)):
        assert boundary_trace(grid, 0, side)(x).item() == pytest.approx(value, abs=1e-13)
        assert boundary_trace(grid, 0, side, "flux")(x).item() == pytest.approx(slope, abs=1e-13)
    x = line(1, 2, 3)
    assert boundary_trace(grid, 0, "low", "flux")(x).item() == pytest.approx(-1.0, abs=1e-13)


def test_traces_of_points_on_the_walls():
    """Points 1, 1.5, 2 of x^2: the value is the outermost one; slopes -2 and 4."""
    grid = Grid.of((vector(1, 1.5, 2),), (False,), margin=0.0)
    x = line(1, 2.25, 4)
    assert boundary_trace(grid, 0, "low")(x).item() == 1.0
    assert boundary_trace(grid, 0, "high")(x).item() == 4.0
    assert boundary_trace(grid, 0, "low", "flux")(x).item() == pytest.approx(-2.0, abs=1e-13)
    assert boundary_trace(grid, 0, "high", "flux")(x).item() == pytest.approx(4.0, abs=1e-13)


@pytest.mark.parametrize(("reads", "order"), [("value", 3), ("flux", 2)])
@pytest.mark.parametrize("side", ["low", "high"])
def test_traces_converge(reads, order, side):
    """exp(x + 2 y) on a box; the trace keeps the wall's own coordinate."""
    errors = []
    for n in (32, 64):
        grid = Grid.cells((4, n), (1.0, 0.5))
        y, x = torch.meshgrid(grid.points(0), grid.points(1), indexing="ij")
        at = 0.0 if side == "low" else 0.5
        exact = torch.exp(at + 2 * grid.points(0)) * (-1.0 if (side, reads) == ("low", "flux") else 1.0)
        found = boundary_trace(grid, 1, side, reads)(torch.exp(x + 2 * y)[None, None])
        assert found.shape == (1, 1, 4, 1)
        errors.append(float((found[0, 0, :, 0] - exact).abs().max()))
    assert math.log2(errors[0] / errors[1]) == pytest.approx(order, abs=0.1)


def test_slices_windows_and_means_by_hand():
    """Frames at times 0, 0.5, 1, 1.5 of a field over (time, x)."""
    grid = Grid.of((vector(0, 0.5, 1, 1.5), vector(0, 1)), (False, False), margin=0.0)
    x = vector(0, 10, 1, 20, 4, 30, 9, 40).reshape(1, 1, 4, 2)
    assert slices(grid, 0, [0.5, 1.25])(x).tolist() == [[[[1.0, 20.0], [6.5, 35.0]]]]
    # The parabola t^2 * 4 and the line through the frames are exact in degree 3.
    assert slices(grid, 0, [0.75], degree=3)(x).flatten().tolist() == pytest.approx([2.25, 25.0], abs=1e-13)
    assert window(grid, 0, 0.5, 1.0)(x).tolist() == [[[[1.0, 20.0], [4.0, 30.0]]]]
    assert window(grid, 0, 0.0, 1.5, stride=3)(x).tolist() == [[[[0.0, 10.0], [9.0, 40.0]]]]
    assert window(grid, 1, 1.0, 1.0)(x).flatten().tolist() == [10.0, 20.0, 30.0, 40.0]
    assert window_mean(grid, 0, 0.4, 1.6)(x).flatten().tolist() == pytest.approx([14 / 3, 30.0], abs=1e-13)


def test_sensors_of_one_time_by_composition():
    """The second point of the last frame."""
    grid = Grid.of((vector(0, 0.5, 1), vector(0, 1)), (False, False), margin=0.0)
    h = mask_sensors(torch.tensor([[[False, True]]])) @ slices(grid, 0, [1.0])
    assert h(torch.arange(6).double().reshape(1, 1, 3, 2)).tolist() == [[5.0]]


AXIS = Grid.cells((4,), (1.0,))


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: boundary_trace(Grid.cells((4,), (1.0,), periodic=True), 0, "low"), "periodic: it has no boundary"),
        (lambda: boundary_trace(Grid.cells((2,), (1.0,)), 0, "low"), "needs three points; axis 0 has 2"),
        (lambda: boundary_trace(AXIS, 1, "low"), "axis 1 of a grid with 1"),
        (lambda: slices(AXIS, 0, [0.5, 1.2]), r"slice 1 at \[1.2\] lies outside"),
        (lambda: slices(AXIS, -1, [0.5]), "axis -1 of a grid with 1"),
        (lambda: window(AXIS, 0, 0.3, 0.35), r"no point of axis 0 lies in \[0.3, 0.35\]"),
        (lambda: window_mean(AXIS, 0, 2.0, 3.0), "no point of axis 0"),
        (lambda: AlongAxis(0, torch.ones(1, 3))(line(1, 2, 3, 4)), r"axis 0 with 3 points expected, got \(4,\)"),
        (lambda: AlongAxis(1, torch.ones(1, 4))(line(1, 2, 3, 4)), "axis 1 with 4 points expected"),
    ],
)
def test_wrong_axes_are_refused(call, message):
    with pytest.raises(DataError, match=message):
        call()


def test_selection_by_hand():
    x = torch.arange(6, dtype=torch.float64).reshape(1, 3, 2)
    assert Selection((2, 0))(x).tolist() == [[[4.0, 5.0], [0.0, 1.0]]]
    pulled = Selection((2, 0)).vjp(x, vector(1, 2, 3, 4).reshape(1, 2, 2))
    assert pulled.tolist() == [[[3.0, 4.0], [0.0, 0.0], [1.0, 2.0]]]
    for channels in ((), (1, 1)):
        with pytest.raises(DataError, match="each channel at most once"):
            Selection(channels)
    for channel in (3, -1):
        with pytest.raises(DataError, match=f"channel {channel} of a field with 3"):
            Selection((0, channel))(x)


def test_stack_by_hand():
    """The mean, then every value, then the first value again."""
    x = line(1, 2, 6, 7)
    h = Stack((BlockAverage((4,)), Flatten(), subsample((1, 4), 4, [0])))
    assert h(x).tolist() == [[4.0, 1.0, 2.0, 6.0, 7.0, 1.0]]
    assert h.vjp(x, vector(4, 1, 2, 3, 4, 10)[None]).tolist() == [[[12.0, 3.0, 4.0, 5.0]]]
    with pytest.raises(DataError, match="at least one operator"):
        Stack(())


def test_stack_takes_fields_of_other_grids():
    """What is known of one grid is not used for another."""
    h = Stack((BlockAverage((2,)), Flatten()))
    for n in (2, 4, 2):
        x = torch.randn(2, 1, n, dtype=torch.float64)
        w = torch.randn(2, n // 2 + n, dtype=torch.float64)
        expected = w[:, n // 2 :] + 0.5 * w[:, : n // 2].repeat_interleave(2, 1)
        torch.testing.assert_close(h.vjp(x, w)[:, 0], expected, rtol=0, atol=1e-14)


@pytest.mark.parametrize("shape", [(8, 6), (7, 9), (8, 9)])
def test_vorticity_of_waves_is_exact(shape):
    """u = sin(k y) cos(2 x'), v = sin(x' + 2 k y): w = v_x - u_y, in a box of 3 by 2, also over time."""
    grid = Grid.cells(shape, (3.0, 2.0), periodic=True)
    y, x = torch.meshgrid(grid.points(0), grid.points(1), indexing="ij")
    k, q = 2 * math.pi / 3, 2 * math.pi / 2
    u, v = (k * y).sin() * (2 * q * x).cos(), (q * x + 2 * k * y).sin()
    w = q * (q * x + 2 * k * y).cos() - k * (k * y).cos() * (2 * q * x).cos()
    field = torch.stack([u, v])[None]
    torch.testing.assert_close(Vorticity((3.0, 2.0))(field)[0, 0], w, rtol=0, atol=1e-12)
    moving = torch.stack([field, 2 * field], 2)
    torch.testing.assert_close(Vorticity((3.0, 2.0))(moving)[0, 0], torch.stack([w, 2 * w]), rtol=0, atol=1e-12)


def test_vorticity_knows_two_components_only():
    for shape in ((1, 3, 8, 8), (1, 2, 8)):
        with pytest.raises(DataError, match="vorticity needs the channels"):
            Vorticity((1.0, 1.0))(torch.zeros(shape))


def test_speed_by_hand():
    x = vector(3, 0, -4, 0).reshape(1, 2, 2)
    assert Speed()(x).tolist() == [[[5.0, 0.0]]]
    assert Speed().vjp(x, torch.ones(1, 1, 2).double()).tolist() == [[[0.6, 0.0], [-0.8, 0.0]]]
    assert Speed().jvp(x, torch.ones_like(x)).tolist() == [[[pytest.approx(-0.2), 0.0]]]


def test_saturation_by_hand():
    """Slope 1 at 0; 3 reads 0.75 under limit 1 and 1.2 under limit 2; nothing reads more than the limit."""
    assert Saturation()(line(0, 3, -1)).flatten().tolist() == [0.0, 0.75, -0.5]
    assert Saturation(2.0)(line(3, 1e9)).flatten().tolist() == pytest.approx([1.2, 2.0])
    assert Saturation().jvp(line(0, 3, -1), line(1, 1, 1)).flatten().tolist() == [1.0, 0.0625, 0.25]
