"""Walks on spheres against solutions in closed form: mean, spread, and the bias of the shell at the edge."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

from pdediff.models.walk_on_spheres import (
    Disc,
    Domain,
    Field,
    GridField,
    GridFields,
    UnitSquare,
    nothing,
    walk_on_spheres,
)

PLACES = ((0.5, 0.5), (0.3, 0.75), (0.4, 0.2))


def places(rows: int = 1) -> Tensor:
    return torch.tensor(PLACES, dtype=torch.float64).expand(rows, -1, -1)


def waves(x: Tensor) -> Tensor:
    """u = sin(pi y) sin(2 pi x), zero on the edge of the square; -laplace u = 5 pi^2 u."""
    return torch.sin(math.pi * x[..., 0]) * torch.sin(2 * math.pi * x[..., 1])


def source_of_waves(x: Tensor, rows: Tensor) -> Tensor:
    return 5 * math.pi**2 * waves(x)


def cubic(x: Tensor) -> Tensor:
    """Harmonic: the real part of (x + i y)^3, and a constant."""
    return x[..., 1] ** 3 - 3 * x[..., 1] * x[..., 0] ** 2 + 2


def quartic(x: Tensor) -> Tensor:
    """-laplace of it is 16 r^2 about the centre of the square; not zero on the edge."""
    return 1 - ((x - 0.5).square().sum(-1)).square()


@pytest.mark.parametrize(
    ("domain", "solution", "source"),
    [
        (UnitSquare(), waves, source_of_waves),
        (UnitSquare(), cubic, nothing),
        (Disc(), cubic, nothing),
        (UnitSquare(), quartic, lambda x, rows: 16 * (x - 0.5).square().sum(-1)),
        (Disc(), quartic, lambda x, rows: 16 * (x - 0.5).square().sum(-1)),
    ],
    ids=["square source", "square edge", "disc edge", "square both", "disc both"],
)
def test_the_mean_is_the_solution(domain: Domain, solution, source: Field) -> None:  # type: ignore[no-untyped-def]
    walks = walk_on_spheres(places(), 40_000, source, lambda x, _: solution(x), domain, 3, epsilon=1e-5)
    error = walks.mean(-1) - solution(places())
    spread = walks.std(-1) / math.sqrt(walks.shape[-1])
    assert (error.abs() <= 5.5 * spread + 1e-4).all(), (error, spread)  # 1e-5 away from the edge u moves by less
    assert float(spread.max()) < 0.02


def test_a_constant_source_at_the_centre_of_the_disc_is_told_without_spread() -> None:
    """One ball is the whole disc: every walk is R^2 / 4."""
    middle = torch.full((1, 1, 2), 0.5, dtype=torch.float64)
    walks = walk_on_spheres(middle, 64, lambda x, _: torch.ones(len(x), dtype=x.dtype), nothing, Disc(), 0, 1e-6)
    torch.testing.assert_close(walks, torch.full_like(walks, 1 / 16), rtol=0, atol=1e-12)


def test_the_variance_falls_with_the_number_of_walks() -> None:
    walks = walk_on_spheres(places()[:, :1].expand(-1, 20_000, -1), 8, source_of_waves, nothing, UnitSquare(), 5)
    one, eight = float(walks[..., 0].var()), float(walks.mean(-1).var())
    assert 8 * eight / one == pytest.approx(1.0, abs=0.12)  # each variance is known to about 1.5 %


def test_the_bias_is_of_the_order_of_the_shell() -> None:
    """With zero data on the edge the walk ends epsilon too early: u is missed by a share of epsilon |grad u|."""
    middle = torch.full((1, 1, 2), 0.5, dtype=torch.float64)

    def bump(x: Tensor, rows: Tensor) -> Tensor:
        return 2 * math.pi**2 * torch.sin(math.pi * x).prod(-1)

    def bias(epsilon: float) -> float:
        return 1 - float(walk_on_spheres(middle, 250_000, bump, nothing, UnitSquare(), 7, epsilon).mean())

    found = [bias(epsilon) for epsilon in (0.1, 0.05, 0.025)]  # each within 0.0006, one standard error
    assert 1.7 < found[0] / found[1] < 2.3
    assert 1.5 < found[1] / found[2] < 2.6
    assert found[0] == pytest.approx(0.076, abs=0.01)


def test_samples_have_sources_of_their_own() -> None:
    grid = torch.rand(1, 9, 9, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    fields = torch.cat((grid, 2 * grid, 0 * grid))
    walks = walk_on_spheres(places(3), 4, GridField(fields), nothing, UnitSquare(), 11)
    assert walks.shape == (3, 3, 4)
    assert (walks[2] == 0).all()
    assert (walks[:2] > 0).all()
    swapped = walk_on_spheres(places(3), 4, GridField(fields[[1, 0, 2]]), nothing, UnitSquare(), 11)
    torch.testing.assert_close(swapped[0], 2 * walks[0])  # the paths do not depend on the source
    torch.testing.assert_close(2 * swapped[1], walks[1])
    assert not torch.equal(walk_on_spheres(places(3), 4, GridField(fields), nothing, UnitSquare(), 12), walks)
    edge = walk_on_spheres(places(3), 4, nothing, lambda x, rows: rows.to(x), UnitSquare(), 11)
    assert torch.equal(edge, torch.arange(3.0, dtype=torch.float64)[:, None, None].expand(-1, 3, 4))


def test_several_fields_share_their_walks() -> None:
    """Every field of one call is what it would be alone; one edge value serves all."""
    fields = torch.rand(3, 9, 7, generator=torch.Generator().manual_seed(0), dtype=torch.float64)

    def edge(x: Tensor, rows: Tensor) -> Tensor:
        return x.sum(-1)

    together = walk_on_spheres(places(), 4, GridFields(fields.movedim(0, -1)), edge, UnitSquare(), 11)
    assert together.shape == (1, 3, 4, 3)
    for k, field in enumerate(fields):
        alone = walk_on_spheres(places(), 4, GridField(field[None]), edge, UnitSquare(), 11)
        torch.testing.assert_close(together[..., k], alone)


def test_grid_fields_are_bilinear() -> None:
    y, x = torch.meshgrid(torch.linspace(0, 1, 5).double(), torch.linspace(0, 1, 9).double(), indexing="ij")
    field = GridField(torch.stack((2 + 3 * y - x + 4 * x * y, y * y)))
    at = torch.rand(200, 2, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    at[:4] = torch.tensor([[0, 0], [0, 1], [1, 0], [1, 1]], dtype=torch.float64)
    first = torch.zeros(200, dtype=torch.long)
    torch.testing.assert_close(field(at, first), 2 + 3 * at[:, 0] - at[:, 1] + 4 * at.prod(-1))
    torch.testing.assert_close(field(at[:4], first[:4] + 1), torch.tensor([0, 0, 1, 1], dtype=torch.float64))
    middle = torch.tensor([[0.125, 0.3]], dtype=torch.float64)
    torch.testing.assert_close(field(middle, first[:1] + 1), torch.tensor([0.0625 / 2], dtype=torch.float64))


@pytest.mark.parametrize("domain", [UnitSquare(), Disc()], ids=str)
def test_the_nearest_point_lies_on_the_edge_at_the_distance(domain: Domain) -> None:
    turn = torch.rand(100, 2, generator=torch.Generator().manual_seed(2), dtype=torch.float64)
    x = 0.5 + 0.49 * turn[:, :1] * torch.stack((torch.sin(7 * turn[:, 1]), torch.cos(7 * turn[:, 1])), -1)
    foot = domain.nearest(x)
    torch.testing.assert_close((foot - x).norm(dim=-1), domain.distance(x))
    torch.testing.assert_close(domain.distance(foot), torch.zeros(100, dtype=torch.float64))
    assert float(domain.distance(torch.tensor([[0.5, 0.25]]))) == pytest.approx(0.25)
