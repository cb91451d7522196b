"""Darcy flow: a worked example, the square's symmetries, both solvers, and derivatives in both directions."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from pdediff.errors import ConfigError, NumericalError
from pdediff.pdes import Darcy, Problem, check
from pdediff.pdes import finite_volume as fv
from pdediff.pdes.cell_sines import Preconditioner
from pdediff.pdes.random_field import cosine_field


def test_two_by_two_cells_by_hand() -> None:
    # a = 1 | 3: inner x face 2*1*3/4 = 1.5, edges 2a on two sides of each cell, nothing between equal rows, 1/h^2 = 4
    a = torch.tensor([[[1.0, 3.0], [1.0, 3.0]]], dtype=torch.float64)
    left, right = np.linalg.solve(4.0 * np.array([[4.0 + 1.5, -1.5], [-1.5, 12.0 + 1.5]]), np.ones(2))
    expected = torch.tensor([[[left, right], [left, right]]], dtype=torch.float64)
    torch.testing.assert_close(Darcy().solve(Problem({"permeability": a}))["pressure"], expected, rtol=1e-12, atol=0.0)


@pytest.mark.parametrize("kind", ["two_phase", "log_normal"])
def test_the_eight_symmetries_of_the_square(kind: str) -> None:
    pde = Darcy(permeability=kind)
    a = pde.draw((4,), 32).fields["permeability"]
    u = pde.solve(Problem({"permeability": a}))["pressure"]
    for quarter in range(4):
        for flip in (False, True):

            def move(field: torch.Tensor, quarter: int = quarter, flip: bool = flip) -> torch.Tensor:
                turned = torch.rot90(field, quarter, (1, 2))
                return turned.flip(2) if flip else turned

            moved = pde.solve(Problem({"permeability": move(a).contiguous()}))["pressure"]
            torch.testing.assert_close(moved, move(u), rtol=0.0, atol=1e-10)


@pytest.mark.parametrize("scale", [1.0, 3.0])
def test_iterative_and_direct_solvers_agree_on_log_normal_fields(scale: float) -> None:
    a = Darcy(permeability="log_normal", log_scale=scale).draw(range(4), 32).fields["permeability"]
    f = torch.ones_like(a)
    iterative, converged = fv.solve_iterative(a, f)
    direct = fv.solve_direct(a, f)
    assert converged.all()
    assert ((iterative - direct).abs().amax((1, 2)) / direct.amax((1, 2))).max() < 1e-10


def test_solvers_agree_on_phases_of_high_contrast() -> None:
    a = Darcy(high=300.0).draw(range(4), 32).fields["permeability"]
    iterative, converged = fv.solve_iterative(a, torch.ones_like(a))
    direct = fv.solve_direct(a, torch.ones_like(a))
    assert converged.all()
    assert ((iterative - direct).abs().amax((1, 2)) / direct.amax((1, 2))).max() < 1e-10


def test_rough_fields_of_high_contrast_are_solved_directly() -> None:
    g = torch.Generator().manual_seed(0)
    a = torch.exp(3.0 * torch.randn(2, 24, 24, generator=g, dtype=torch.float64))
    a[0] = 1.0
    assert fv.is_smooth(a).tolist() == [True, False]
    pde = Darcy(permeability="log_normal")
    fields = pde.solve(Problem({"permeability": a}))
    assert pde.residual(fields).abs().max() < 1e-8
    assert torch.equal(fields["pressure"][1], fv.solve_direct(a[1:], torch.ones_like(a[1:]))[0])


def test_two_phase_takes_the_two_values_by_the_sign_of_the_field() -> None:
    a = Darcy(low=0.1, high=0.7).draw(range(64), 32).fields["permeability"]
    assert torch.equal(a == 0.7, cosine_field(range(64), 32, 2.0, 3.0) >= 0.0)
    assert torch.equal(a == 0.1, a != 0.7)


@pytest.mark.parametrize("low", [0.1, 0.3, 3.0])
def test_bounds_hold_after_rounding_to_float32(low: float) -> None:
    pde = Darcy(low=low, high=7 * low)
    fields = {k: v.float() for k, v in pde.solve(pde.draw(range(4), 16)).items()}
    assert check(pde, fields) == [None] * 4


def test_pressure_bound_is_that_of_the_disc() -> None:
    # a uniform square of the low phase has the largest pressure: 0.07367 / low, the disc of equal area 0.0796 / low
    pde = Darcy()
    a = torch.full((1, 32, 32), 3.0, dtype=torch.float64)
    top = pde.solve(Problem({"permeability": a}))["pressure"].max().item()
    assert abs(top * 3.0 - 0.07367) < 2e-4
    assert top < pde.variables()[1].upper


@pytest.mark.parametrize("n", [7, 16, 24])
def test_preconditioner_inverts_the_laplacian(n: int) -> None:
    r = torch.randn(3, n, n, generator=torch.Generator().manual_seed(3), dtype=torch.float64)
    scaling = torch.rand(3, n, n, generator=torch.Generator().manual_seed(4), dtype=torch.float64) + 0.5
    exact = scaling * fv.solve_direct(torch.ones_like(r), scaling * r)
    torch.testing.assert_close(Preconditioner(scaling)(r), exact, rtol=0.0, atol=1e-6 * exact.abs().max().item())


@pytest.mark.parametrize(
    ("kind", "high"), [("two_phase", 6.0), ("two_phase", 12.0), ("two_phase", 300.0), ("log_normal", 12.0)]
)
def test_iterations_do_not_grow_with_the_grid(kind: str, high: float, monkeypatch: pytest.MonkeyPatch) -> None:
    pde = Darcy(permeability=kind, high=high)
    most = {("two_phase", 6.0): 18, ("two_phase", 12.0): 28, ("two_phase", 300.0): 110, ("log_normal", 12.0): 22}[
        kind, high
    ]
    monkeypatch.setattr(fv, "MAX_ITERATIONS", most)
    for n in (32, 64):
        a = pde.draw(range(4), n).fields["permeability"]
        assert fv.solve_iterative(a, torch.ones_like(a))[1].all()


@pytest.mark.parametrize("tolerance", [1e-6, 1e-10])
@pytest.mark.parametrize("kind", ["two_phase", "log_normal"])
def test_residual_is_below_the_tolerance(kind: str, tolerance: float) -> None:
    a = Darcy(permeability=kind).draw(range(4), 64).fields["permeability"]
    f = torch.randn(a.shape, generator=torch.Generator().manual_seed(5), dtype=torch.float64)
    residual = fv.apply(a, fv.solve(a, f, tolerance)) - f
    assert (residual.flatten(1).norm(dim=1) <= 1.1 * tolerance * f.flatten(1).norm(dim=1)).all()


def test_sources_of_any_size_and_none() -> None:
    a = Darcy().draw(range(3), 16).fields["permeability"]
    f = torch.ones_like(a) * torch.tensor([1e-60, 0.0, 1e60], dtype=torch.float64)[:, None, None]
    u = fv.solve(a, f)
    expected = fv.solve(a, torch.ones_like(a))
    torch.testing.assert_close(u[0] * 1e60, expected[0], rtol=1e-9, atol=0.0)
    torch.testing.assert_close(u[2] * 1e-60, expected[2], rtol=1e-9, atol=0.0)
    assert not u[1].any()
    assert fv.solve(a, f.fill_(torch.nan)).isnan().all()


def _problem(n: int = 6) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor, torch.Tensor]:
    g = torch.Generator().manual_seed(2)
    a, f, da, df = (torch.rand(2, n, n, generator=g, dtype=torch.float64) for _ in range(4))
    return a + 0.5, f - 0.3, da - 0.5, df - 0.5


def test_residual_is_differentiable() -> None:
    a, u, _, _ = (t.requires_grad_() for t in _problem(4))
    assert torch.autograd.gradcheck(lambda a, u: Darcy().residual({"permeability": a, "pressure": u}), (a, u))


def test_derivatives_of_first_and_second_order_in_both_directions() -> None:
    a, f = (t[:1, :4, :4].contiguous().requires_grad_() for t in _problem()[:2])

    def solve(a: torch.Tensor, f: torch.Tensor) -> torch.Tensor:
        return fv.solve(a, f, 1e-13)

    assert torch.autograd.gradcheck(solve, (a, f), check_forward_ad=True, atol=1e-8, fast_mode=True)
    assert torch.autograd.gradgradcheck(solve, (a, f), check_fwd_over_rev=True, atol=1e-7, fast_mode=True)


def test_tangent_agrees_with_differences_and_with_the_adjoint() -> None:
    a, f, da, df = _problem(16)
    u, du = torch.func.jvp(fv.solve, (a, f), (da, df))
    assert torch.equal(u, fv.solve(a, f))
    d1, d2 = (
        (fv.solve(a + e * da, f + e * df, 1e-14) - fv.solve(a - e * da, f - e * df, 1e-14)) / (2 * e)
        for e in (1e-3, 2e-3)
    )
    torch.testing.assert_close(du, (4.0 * d1 - d2) / 3.0, rtol=0.0, atol=1e-7 * du.abs().max().item())
    weights = torch.randn(a.shape, generator=torch.Generator().manual_seed(6), dtype=torch.float64)
    grad_a, grad_f = torch.func.vjp(fv.solve, a, f)[1](weights)
    forwards, backwards = (weights * du).sum(), (grad_a * da).sum() + (grad_f * df).sum()
    assert abs(forwards - backwards) < 1e-9 * abs(forwards)


@pytest.mark.parametrize("over", ["iterative", "direct"])
def test_gauss_newton_product_of_many_directions(over: str) -> None:
    a, _, da, _ = _problem(8)
    if over == "direct":
        a = a * torch.where(torch.arange(8) % 2 == 0, 1.0, 1000.0)
        assert not fv.is_smooth(a).any()

    def pressure(a: torch.Tensor) -> torch.Tensor:
        return Darcy().solve(Problem({"permeability": a}))["pressure"]

    directions = torch.stack([da, da.mT, da.flip(-1)])
    tangents = torch.func.vmap(lambda d: torch.func.jvp(pressure, (a,), (d,))[1])(directions)
    for direction, tangent in zip(directions, tangents, strict=True):
        assert torch.equal(tangent, torch.func.jvp(pressure, (a,), (direction,))[1])
    product = torch.func.vjp(pressure, a)[1](tangents[0])[0]
    assert (product * da).sum() == pytest.approx(tangents[0].square().sum().item(), rel=1e-9)


def test_bad_permeability_and_phases_are_refused() -> None:
    a = torch.ones(2, 8, 8, dtype=torch.float64)
    a[1, 2, 3] = 0.0
    with pytest.raises(NumericalError, match="positive"):
        Darcy().solve(Problem({"permeability": a}))
    with pytest.raises(ConfigError, match="high must be above low"):
        Darcy(low=3.0, high=3.0)
