"""Darcy flow against a worked example, a manufactured solution, its symmetries and its balance."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from pdediff.errors import ConfigError, NumericalError
from pdediff.pdes import Darcy, Problem, check
from pdediff.pdes import finite_volume as fv
from pdediff.pdes.random_field import cosine_field


def test_two_by_two_cells_by_hand() -> None:
    # a = 1 | 3: inner x face 2*1*3/4 = 1.5, edges 2a on two sides of each cell, nothing between equal rows, 1/h^2 = 4
    a = torch.tensor([[[1.0, 3.0], [1.0, 3.0]]], dtype=torch.float64)
    left, right = np.linalg.solve(4.0 * np.array([[4.0 + 1.5, -1.5], [-1.5, 12.0 + 1.5]]), np.ones(2))
    expected = torch.tensor([[[left, right], [left, right]]], dtype=torch.float64)
    torch.testing.assert_close(Darcy().solve(Problem({"permeability": a}))["pressure"], expected, rtol=1e-12, atol=0.0)


def _manufactured(n: int) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """a = 2 + sin(3x + y), u = sin(pi x) sin(2 pi y) and f = -grad a . grad u - a laplace u."""
    x = (torch.arange(n, dtype=torch.float64) + 0.5) / n
    y, x = torch.meshgrid(x, x, indexing="ij")
    pi = torch.pi
    a, slope = 2.0 + torch.sin(3 * x + y), torch.cos(3 * x + y)
    u = torch.sin(pi * x) * torch.sin(2 * pi * y)
    u_x, u_y = pi * torch.cos(pi * x) * torch.sin(2 * pi * y), 2 * pi * torch.sin(pi * x) * torch.cos(2 * pi * y)
    f = -slope * (3 * u_x + u_y) + 5 * pi**2 * a * u
    return a[None], u[None], f[None]


def test_manufactured_solution_converges_at_second_order() -> None:
    errors = []
    for n in (16, 32, 64):
        a, u, f = _manufactured(n)
        errors.append((fv.solve(a, f) - u).abs().max().item())
    assert errors[-1] < 1e-3
    assert min(np.log2(errors[0] / errors[1]), np.log2(errors[1] / errors[2])) > 1.9


@pytest.mark.parametrize("kind", ["two_phase", "log_normal"])
def test_flux_through_the_edge_is_the_source(kind: str) -> None:
    pde = Darcy(permeability=kind)
    fields = pde.solve(pde.draw(range(3), 32))
    assert (pde.invariants(fields)["outflow"] - 1.0).abs().max() < 1e-9
    assert fields["pressure"].min() > 0.0


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


def test_residual_is_differentiable() -> None:
    g = torch.Generator().manual_seed(1)
    a, u = (torch.rand(1, 4, 4, generator=g, dtype=torch.float64).add(0.5).requires_grad_() for _ in range(2))
    assert torch.autograd.gradcheck(lambda a, u: Darcy().residual({"permeability": a, "pressure": u}), (a, u))


def test_gradient_of_the_source_is_the_adjoint() -> None:
    g = torch.Generator().manual_seed(2)
    a = torch.rand(1, 6, 6, generator=g, dtype=torch.float64).add(0.5).requires_grad_()
    f = torch.randn(1, 6, 6, generator=g, dtype=torch.float64).requires_grad_()
    assert torch.autograd.gradcheck(fv.solve, (a, f), atol=1e-8)


def test_bad_permeability_and_phases_are_refused() -> None:
    a = torch.ones(2, 8, 8, dtype=torch.float64)
    a[1, 2, 3] = 0.0
    with pytest.raises(NumericalError, match="positive"):
        Darcy().solve(Problem({"permeability": a}))
    with pytest.raises(ConfigError, match="high must be above low"):
        Darcy(low=3.0, high=3.0)
