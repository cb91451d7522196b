"""Solutions of equations and black boxes as operators; matrices and singular values of linear ones."""

from __future__ import annotations

import pytest
import torch
from torch.utils.checkpoint import checkpoint

from pdediff.errors import ConfigError
from pdediff.observe import (
    BlackBox,
    BlockAverage,
    GaussianBlur,
    Grid,
    Solution,
    Speed,
    Stack,
    mask_sensors,
    point_sensors,
    rows_of,
    subsample,
    svd,
)
from pdediff.pdes import Darcy, Problem

# Forward-mode differentiation imports a part of torch that warns of its own age.
pytestmark = pytest.mark.filterwarnings("ignore:.torch.jit.script. is deprecated:DeprecationWarning")


def normals(seed: int, *shape: int) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def darcy() -> Solution:
    """Log permeability to pressure, scaled to be of order one."""

    def solve(x: torch.Tensor) -> torch.Tensor:
        return 100 * Darcy().solve(Problem({"permeability": x[:, 0].exp()}))["pressure"][:, None]

    return Solution(solve)


def test_solution_by_hand():
    """u' = a u by one explicit step of 1/2 from u = 4: u = 4 + 2 a, then the derivative is 2."""
    h = Solution(lambda a: 4 + 2 * a, linear=True)
    a, w = torch.tensor([[[3.0]]]), torch.tensor([[[5.0]]])
    assert (h(a).item(), h.jvp(a, w).item(), h.vjp(a, w).item(), h.linear) == (10.0, 10.0, 10.0, True)
    assert (h @ h).linear
    assert not (h @ Solution(torch.sin)).linear


def test_solution_of_darcy_flow():
    """A solver of the package, read by sensors: transposed derivatives agree, and differences confirm them."""
    sensors = point_sensors(Grid.cells((8, 8), (1.0, 1.0)), torch.rand(4, 2, dtype=torch.float64), channels=[0] * 4)
    h, x, v, w = sensors @ darcy(), normals(0, 2, 1, 8, 8), normals(1, 2, 1, 8, 8), normals(2, 2, 4)
    forward, backward = h.jvp(x, v), h.vjp(x, w)
    torch.testing.assert_close((forward * w).sum(1), (v * backward).flatten(1).sum(1), rtol=1e-7, atol=1e-9)
    difference = (h(x + 1e-4 * v) - h(x - 1e-4 * v)) / 2e-4
    torch.testing.assert_close(forward, difference, rtol=1e-5, atol=1e-6)
    assert forward.abs().max() > 0.1


def test_checkpointed_solvers_have_a_vjp():
    def step(x: torch.Tensor) -> torch.Tensor:
        return x + 0.1 * x.sin()

    h = Solution(lambda x: checkpoint(step, checkpoint(step, x, use_reentrant=False), use_reentrant=False))
    x, w = normals(3, 2, 1, 5), normals(4, 2, 1, 5)
    once = step(x)
    with torch.no_grad():
        found = h.vjp(x, w)
    torch.testing.assert_close(found, w * (1 + 0.1 * once.cos()) * (1 + 0.1 * x.cos()), rtol=1e-13, atol=1e-13)
    assert not found.requires_grad


def test_a_black_box_is_evaluated_only():
    h = subsample((1, 4), 2, [0]) @ BlackBox(lambda x: torch.from_numpy(x.numpy() ** 2), "the reservoir code")
    x = torch.tensor([[[1.0, 2.0, 3.0, 4.0]]])
    assert h(x).tolist() == [[1.0, 9.0]]
    assert not h.differentiable
    assert not h.linear
    assert not Stack((h, Speed())).differentiable
    assert Stack((Speed(), Speed())).differentiable
    message = "operator 'the reservoir code' has no derivative"
    for call in (lambda: h.jvp(x, x), lambda: h.vjp(x, torch.ones(1, 2)), lambda: h(x.requires_grad_())):
        with pytest.raises(ConfigError, match=message) as error:
            call()
        assert len(str(error.value).splitlines()) == 1
    assert (BlackBox(torch.sin) @ Speed())(x.detach()).shape == (1, 1, 4)


def test_rows_of_fields_by_hand():
    """Means of two and two points, of either channel."""
    rows = rows_of(BlockAverage((2,)), torch.zeros(2, 4).double())
    assert rows.flatten(1).tolist() == [
        [0.5, 0.5, 0, 0, 0, 0, 0, 0],
        [0, 0, 0.5, 0.5, 0, 0, 0, 0],
        [0, 0, 0, 0, 0.5, 0.5, 0, 0],
        [0, 0, 0, 0, 0, 0, 0.5, 0.5],
    ]
    for call in (rows_of, svd):
        with pytest.raises(ConfigError, match="rows need a linear operator"):
            call(Speed(), torch.zeros(2, 4))


LIKE = torch.zeros(1, 6, 8, dtype=torch.float64)
PLACES = torch.rand(7, 2, generator=torch.Generator().manual_seed(5), dtype=torch.float64)
CASES = {
    "mask": lambda: mask_sensors(normals(6, 1, 6, 8) > 0),
    "blocks": lambda: BlockAverage((2, 4)),
    "points": lambda: point_sensors(Grid.cells((6, 8), (1.0, 1.0)), PLACES, channels=[0] * 7),
    "blur": lambda: GaussianBlur(0.3, (1.0, 1.0)),
    "twice the same": lambda: Stack((subsample((1, 6, 8), 3, [0]), subsample((1, 6, 8), 3, [0]))),
}


@pytest.mark.parametrize("name", CASES)
def test_svd_is_one(name):
    """U diag(s) V^T gives the rows back; U and V are orthonormal; s falls and is what LAPACK finds."""
    found, rows = svd(CASES[name](), LIKE), rows_of(CASES[name](), LIKE).flatten(1)
    v, identity = found.v.flatten(1), torch.eye(len(found.s)).double()
    torch.testing.assert_close((found.u * found.s) @ v, rows, rtol=0, atol=1e-9)
    torch.testing.assert_close(found.u.T @ found.u, identity, rtol=0, atol=1e-12)
    torch.testing.assert_close(v @ v.T, identity, rtol=0, atol=1e-12)
    torch.testing.assert_close(found.s, torch.linalg.svdvals(rows)[: len(found.s)], rtol=0, atol=1e-12)


def test_singular_values_by_hand():
    """Blocks of 8 points: 1 / sqrt(8); a value read twice: sqrt(2), and the half of its readings is redundant."""
    torch.testing.assert_close(svd(CASES["blocks"](), LIKE).s, torch.full((6,), 8.0**-0.5).double())
    torch.testing.assert_close(svd(CASES["twice the same"](), LIKE).s, torch.full((6,), 2.0**0.5).double())
    assert svd(CASES["mask"](), LIKE).s.unique().tolist() == [1.0]


@pytest.mark.parametrize("name", CASES)
def test_pseudo_inverse(name):
    """H H^+ H = H, H^+ H = V V^T, and what is invisible reads zero."""
    h, found, x = CASES[name](), svd(CASES[name](), LIKE), normals(7, 3, 1, 6, 8)
    y = h(x).flatten(1)
    again = found.pseudo_inverse(y)
    # The blur keeps singular values down to 1e-10, where rounding counts 1e10 times in the field, not in its readings.
    torch.testing.assert_close(h(again).flatten(1), y, rtol=0, atol=1e-8)
    torch.testing.assert_close(h(x - found.visible(x)).flatten(1), torch.zeros_like(y), rtol=0, atol=1e-9)
    if name != "blur":
        torch.testing.assert_close(again, found.visible(x), rtol=0, atol=1e-12)
    torch.testing.assert_close(found.visible(found.visible(x)), found.visible(x), rtol=0, atol=1e-12)
