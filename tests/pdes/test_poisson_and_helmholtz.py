"""Poisson and Helmholtz in a box: the benchmark's setting, the edge, resonances, derivatives."""

from __future__ import annotations

import pytest
import torch

from pdediff.errors import ConfigError
from pdediff.pdes import Helmholtz, Poisson, Problem
from pdediff.pdes.random_field import cosine_deviation, cosine_field


def test_sources_are_those_of_the_benchmark() -> None:
    field = cosine_field((1, 2), 32, 2.0, 3.0)
    assert torch.equal(Poisson().draw((1, 2), 32).fields["source"], field)
    source = Helmholtz().draw((1, 2), 32).fields["source"]
    assert torch.equal(source[:, 1:-1, 1:-1], field[:, 1:-1, 1:-1])
    assert not any(edge.any() for edge in (source[:, 0], source[:, -1], source[:, :, 0], source[:, :, -1]))


def test_deviation_of_the_field_is_that_of_many_draws() -> None:
    field = cosine_field(range(600), 32, 2.0, 3.0)
    assert field.square().mean().sqrt() == pytest.approx(cosine_deviation(2.0, 3.0), rel=0.03)
    corners = field[:, [0, 0, -1, -1], [0, -1, 0, -1]]
    assert corners.square().mean().sqrt() == pytest.approx(cosine_deviation(2.0, 3.0, corner=True), rel=0.06)


@pytest.mark.parametrize("pde", [Poisson(), Helmholtz()])
def test_the_size_of_solutions_is_that_of_the_benchmark(pde: Poisson | Helmholtz) -> None:
    # the scale by which the benchmark divides u, 1 / 36.5, is about the largest value of its training set
    u = pde.solve(pde.draw(range(100), 64))[pde.variables()[1].name]
    assert 0.012 < u.abs().max() < 0.028
    assert u.abs().max() < 0.1 * pde.variables()[1].upper


@pytest.mark.parametrize("symbol", ["five_point", "spectral"])
def test_residual_sees_the_edge_and_the_inside(symbol: str) -> None:
    pde = Poisson(symbol=symbol)  # type: ignore[arg-type]
    fields = pde.solve(pde.draw((1,), 16))
    assert pde.residual(fields).abs().max() < 1e-11
    for place in ((0, 0), (0, 5), (15, 3), (7, 15), (4, 4)):
        wrong = fields["potential"].clone()
        wrong[0][place] += 1.0
        assert pde.residual(fields | {"potential": wrong})[0][place].abs() >= 1.0
    wrong = fields["source"].clone()
    wrong[0, 4, 4] += 1.0
    assert pde.residual(fields | {"source": wrong})[0, 4, 4] == pytest.approx(-1.0)


def test_symbols_agree_as_the_grid_is_refined() -> None:
    differences = []
    for n in (17, 33, 65):
        x = torch.linspace(0.0, 1.0, n, dtype=torch.float64)
        f = torch.sin(torch.pi * x) * torch.sin(3.0 * torch.pi * x)[:, None]
        five, spectral = (Poisson(symbol=s).solve(Problem({"source": f[None]})) for s in ("five_point", "spectral"))
        differences.append((five["potential"] - spectral["potential"]).abs().max())
    assert 3.8 < differences[0] / differences[1] < 4.2
    assert 3.8 < differences[1] / differences[2] < 4.2


def test_helmholtz_at_resonance_is_refused() -> None:
    with pytest.raises(ConfigError, match=r"wave_number=7\.0248: its square is within 0\.1 of pi\^2"):
        Helmholtz(wave_number=7.0248)  # pi^2 (1 + 4)
    Helmholtz(wave_number=18.85).coordinates(64)
    with pytest.raises(ConfigError, match=r"grid=32 moves a resonance close to wave_number=18\.85"):
        Helmholtz(wave_number=18.85).draw((1,), 32)
    assert Helmholtz(wave_number=18.85, symbol="spectral").draw((1,), 32).fields["source"].shape == (1, 32, 32)


def test_solve_is_linear_in_the_source_in_both_directions() -> None:
    pde = Helmholtz(wave_number=6.2832)
    f = pde.draw((1, 2), 16).fields["source"]

    def wave(f: torch.Tensor) -> torch.Tensor:
        return pde.solve(Problem({"source": f}))["wave"]

    direction = pde.draw((3, 4), 16).fields["source"]
    tangent = torch.func.jvp(wave, (f,), (direction,))[1]
    torch.testing.assert_close(tangent, wave(direction), rtol=1e-12, atol=1e-15)
    weights = cosine_field((5, 6), 16, 2.0, 3.0)
    assert (torch.func.vjp(wave, f)[1](weights)[0] * direction).sum() == pytest.approx((tangent * weights).sum().item())


@pytest.mark.parametrize("pde", [Poisson(), Poisson(symbol="spectral"), Helmholtz()])
def test_the_symmetries_of_the_square(pde: Poisson | Helmholtz) -> None:
    problem = pde.draw((4,), 24)
    name = pde.variables()[1].name
    u = pde.solve(problem)[name]
    for quarter in range(4):
        turned = torch.rot90(problem.fields["source"], quarter, (1, 2)).flip(2)
        expected = torch.rot90(u, quarter, (1, 2)).flip(2)
        torch.testing.assert_close(pde.solve(Problem({"source": turned}))[name], expected, rtol=0.0, atol=1e-15)
