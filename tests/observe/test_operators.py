"""Derivatives of every operator: adjoints by max norm, nonlinear ones against finite differences."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import pytest
import torch

from pdediff.observe import Composed, Differentiable, PointSensors, Scaling, mask_sensors, subsample

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
        value = x.flatten(1) @ self.rows.T
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


LINEAR = {
    "points": sensors,
    "periodic": lambda: sensors(True),
    "mask": lambda: mask_sensors(mask()),
    "subsample": lambda: subsample(SHAPE, 2, [0, 1]),
    "scaling": scaling,
    "composed": lambda: Composed(sensors(), scaling()),
    "matmul": lambda: sensors() @ scaling() @ scaling(),
}
NONLINEAR = {
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
