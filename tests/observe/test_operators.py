"""Derivatives of every operator: adjoints by max norm, nonlinear ones against finite differences."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import pytest
import torch

from pdediff.observe import (
    BlockAverage,
    Composed,
    Convolution,
    Differentiable,
    Flatten,
    GaussianBlur,
    Grid,
    LowPass,
    PointSensors,
    Saturation,
    Scaling,
    Selection,
    Solution,
    Speed,
    Stack,
    Vorticity,
    Whitening,
    boundary_trace,
    line_integrals,
    mask_sensors,
    point_sensors,
    radon,
    slices,
    subsample,
    window,
    window_mean,
)

SHAPE = (2, 4, 5)
# Forward-mode differentiation imports a part of torch that warns of its own age.
pytestmark = pytest.mark.filterwarnings("ignore:.torch.jit.script. is deprecated:DeprecationWarning")


def normals(seed: int, *shape: int) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


@dataclass(frozen=True, eq=False)
class Squares(Differentiable):
    """Reading i = (w_i . x)^2 + w_i . x: nonlinear, with a derivative that is known."""

    rows: torch.Tensor
    linear: ClassVar[bool] = False

    def __call__(self, x: torch.Tensor) -> torch.Tensor:
        value = x.flatten(1) @ self.rows.to(x).T
        return value**2 + value


@dataclass(frozen=True, eq=False)
class Flux(Differentiable):
    """Field to field, row by row: exp of the first channel times the second."""

    linear: ClassVar[bool] = False

    def __call__(self, x: torch.Tensor) -> torch.Tensor:
        return torch.stack([x[:, 0].exp() * x[:, 1], x[:, 1]], 1)


def scaling() -> Scaling:
    return Scaling(normals(1, *SHAPE), normals(2, *SHAPE).abs() + 0.5)


def sensors(periodic: bool = False) -> PointSensors:
    positions = torch.rand(7, 2, generator=torch.Generator().manual_seed(3), dtype=torch.float64) * 3
    return PointSensors.at([0, 1, 0, 1, 1, 0, 0], positions, SHAPE, periodic=periodic)


def mask() -> torch.Tensor:
    return normals(4, *SHAPE) > 0


LENGTHS = (1.0, 2.0)
WALLS, PERIODIC = (Grid.cells(SHAPE[1:], LENGTHS, periodic=p) for p in (False, True))


def between(grid: Grid, degree: int) -> PointSensors:
    positions = torch.rand(6, 2, generator=torch.Generator().manual_seed(20), dtype=torch.float64) * grid.lengths
    return point_sensors(grid, positions, channels=[0, 1, 1, 0, 0, 1], degree=degree)


def rays() -> Differentiable:
    ends = torch.rand(2, 7, 2, generator=torch.Generator().manual_seed(21), dtype=torch.float64) * WALLS.lengths
    return line_integrals(WALLS, ends[0], ends[1], channels=2, channel=1)


def tomogram(degree: int) -> Differentiable:
    angles, offsets = torch.arange(3) * 1.1, torch.tensor([-0.5, 0.01, 0.3])
    return radon(WALLS, angles, offsets, channels=2, degree=degree)


LINEAR = {
    "linear interpolation": lambda: between(WALLS, 1),
    "cubic interpolation": lambda: between(WALLS, 3),
    "periodic cubic interpolation": lambda: between(PERIODIC, 3),
    "lines": rays,
    "radon": lambda: tomogram(1),
    "cubic radon": lambda: tomogram(3),
    "blocks": lambda: BlockAverage((2, 1)),
    "selection": lambda: Selection((1,)),
    "swap": lambda: Selection((1, 0)),
    "flatten": Flatten,
    "trace": lambda: boundary_trace(WALLS, 0, "low"),
    "wall flux": lambda: boundary_trace(WALLS, 1, "high", "flux"),
    "slices": lambda: slices(WALLS, 0, [0.2, 0.6, 0.95]),
    "window": lambda: window(WALLS, 1, 0.3, 1.7),
    "window mean": lambda: window_mean(WALLS, 1, 0.3, 1.7),
    "convolution": lambda: Convolution(normals(22, *SHAPE[1:])),
    "blur": lambda: GaussianBlur(0.1, LENGTHS),
    "blur of rows alone": lambda: GaussianBlur(0.2, (2.0,)),
    "low-pass": lambda: LowPass(0.8, LENGTHS),
    "vorticity": lambda: Vorticity(LENGTHS),
    "whitening": lambda: Whitening(torch.eye(40).double() + normals(23, 40, 40).tril() / 8) @ Flatten(),
    "stack": lambda: Stack((between(WALLS, 1), BlockAverage((2, 1)), Vorticity(LENGTHS))),
    "linear solution": lambda: Solution(lambda x: 2 * x.cumsum(2) + 1, linear=True),
    "points": sensors,
    "periodic": lambda: sensors(True),
    "mask": lambda: mask_sensors(mask()),
    "subsample": lambda: subsample(SHAPE, 2, [0, 1]),
    "scaling": scaling,
    "composed": lambda: Composed(sensors(), scaling()),
    "matmul": lambda: sensors() @ scaling() @ scaling(),
}
NONLINEAR = {
    "speed": Speed,
    "saturation": lambda: Saturation(0.7),
    "saturated vorticity": lambda: Saturation() @ Vorticity(LENGTHS),
    "solution": lambda: Solution(lambda x: x.cumsum(2).sin()),
    "nonlinear stack": lambda: Stack((Speed(), between(WALLS, 1))),
    "mean speed": lambda: BlockAverage((4, 1)) @ Speed(),
    "squares": lambda: Squares(normals(5, 3, 40)),
    "flux": Flux,
    "sensors of a flux": lambda: sensors() @ Flux() @ scaling(),
    "squares of scaled": lambda: Squares(normals(5, 3, 40)) @ scaling(),
}
ALL = LINEAR | NONLINEAR


@pytest.mark.parametrize("name", ALL)
def test_vjp_is_the_transpose_of_jvp(name):
    """<J v, w> = <v, J^T w> for every unit v against every unit w: the largest entry of the two matrices' gap."""
    h, x = ALL[name](), normals(6, 1, *SHAPE)
    size, out = x.numel(), h(x)
    forward = h.jvp(x.expand(size, *SHAPE), torch.eye(size, dtype=torch.float64).reshape(size, *SHAPE)).flatten(1).T
    m = out.numel()
    backward = h.vjp(x.expand(m, *SHAPE), torch.eye(m, dtype=torch.float64).reshape(m, *out.shape[1:])).flatten(1)
    assert forward.shape == backward.shape == (m, size)
    assert (forward - backward).abs().max() <= 1e-12 * max(1.0, float(forward.abs().max()))
    assert forward.abs().max() > 0.1


@pytest.mark.parametrize("name", ALL)
def test_jvp_against_differences(name):
    """Central differences at step 1e-4: their own error is step^2 times the third derivative, below 1e-6 here."""
    h, x, v = ALL[name](), normals(7, 3, *SHAPE), 0.3 * normals(8, 3, *SHAPE)
    difference = (h(x + 1e-4 * v) - h(x - 1e-4 * v)) / 2e-4
    torch.testing.assert_close(h.jvp(x, v), difference, rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("name", ALL)
def test_rows_are_independent(name):
    h, x = ALL[name](), normals(9, 3, *SHAPE)
    w = normals(10, *h(x).shape)
    torch.testing.assert_close(h.vjp(x, w)[1:2], h.vjp(x[1:2], w[1:2]), rtol=0, atol=1e-12)
    torch.testing.assert_close(h.jvp(x, x)[1:2], h.jvp(x[1:2], x[1:2]), rtol=0, atol=1e-12)


@pytest.mark.parametrize("name", ALL)
def test_linear_says_the_truth(name):
    """A linear operator has the same derivative everywhere (an offset is allowed); a nonlinear one has not."""
    h, v = ALL[name](), normals(11, 1, *SHAPE)
    assert h.linear is (name in LINEAR)
    same = torch.allclose(h.jvp(normals(12, 1, *SHAPE), v), h.jvp(normals(13, 1, *SHAPE), v), atol=1e-12)
    assert same is h.linear


@pytest.mark.parametrize("name", LINEAR)
def test_linear_operators_change_by_their_jvp_exactly(name):
    h, x, v = LINEAR[name](), normals(17, 2, *SHAPE), normals(18, 2, *SHAPE)
    torch.testing.assert_close(h(x + v) - h(x), h.jvp(x, v), rtol=1e-11, atol=1e-11)


@pytest.mark.parametrize("name", ALL)
def test_readings_have_the_type_of_the_field(name):
    h, x = ALL[name](), normals(19, 2, *SHAPE).float()
    assert h.differentiable
    assert h(x).dtype == h.jvp(x, x).dtype == h.vjp(x, h(x)).dtype == torch.float32
    assert h(x).shape[0] == 2


@pytest.mark.parametrize("name", ALL)
def test_autograd_agrees_with_vjp(name):
    """What guidance by gradients sees."""
    h, x = ALL[name](), normals(24, 2, *SHAPE).requires_grad_()
    w = normals(25, *h(x).shape)
    (gradient,) = torch.autograd.grad(h(x), x, w)
    torch.testing.assert_close(gradient, h.vjp(x.detach(), w), rtol=1e-11, atol=1e-11)


def test_scaling_by_hand():
    h = Scaling(torch.tensor([[10.0, 20.0]]).double(), torch.tensor([[2.0, 3.0]]).double())
    x = torch.tensor([[[1.0, -1.0]]]).double()
    assert h(x).flatten().tolist() == [12.0, 17.0]
    assert h.jvp(x, x).flatten().tolist() == [2.0, -3.0]
    assert h.vjp(x, x).flatten().tolist() == [2.0, -3.0]


def test_composition_order_by_hand():
    """outer @ inner reads the scaled field: 10 + 2 * 3 at the second point."""
    h = mask_sensors(torch.tensor([[False, True]])) @ Scaling(torch.full((1, 2), 10.0), torch.full((1, 2), 2.0))
    assert h(torch.tensor([[[1.0, 3.0]]])).tolist() == [[16.0]]


def test_derivatives_work_without_gradients():
    """Samplers run under no_grad: automatic derivatives must not notice."""
    h, x, v = NONLINEAR["squares"](), normals(14, 2, *SHAPE), normals(15, 2, *SHAPE)
    with torch.no_grad():
        torch.testing.assert_close(h.jvp(x, v), NONLINEAR["squares"]().jvp(x, v), rtol=0, atol=0)
        assert h.vjp(x, normals(16, 2, 3)).abs().max() > 0


def test_an_operator_without_a_map_says_so():
    with pytest.raises(TypeError, match="Differentiable defines no map"):
        Differentiable()(torch.zeros(1, 1, 2))
