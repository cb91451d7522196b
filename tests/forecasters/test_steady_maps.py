"""Maps of steady equations: their losses by hand, and walks on spheres against the solver they stand in for."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

from pdediff.models.forecasters import Response, SteadyMap, WalkOnSpheresMap
from pdediff.pdes import Poisson


class Given(nn.Module):
    """A network that answers with its input, times a weight."""

    def __init__(self, weight: float = 1.0) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.tensor(weight, dtype=torch.float64))

    def forward(self, x: Tensor, label: Tensor) -> Tensor:
        assert (label[:, 0] == 0).all()
        return self.weight * x


def none(rows: int) -> Tensor:
    return torch.zeros(rows, 0, dtype=torch.float64)


def test_the_relative_error_is_that_of_physical_units() -> None:
    """Answer 1 and 3 for 2 and 3 in units of the deviation, zero lying at 4: errors 1 and 0 of norms 6 and 7."""
    given = torch.tensor([[[[1.0, 3.0]]]], dtype=torch.float64)
    known = torch.tensor([[[[2.0, 3.0]]]], dtype=torch.float64)
    response = Response(Given(), torch.tensor([[[4.0]]], dtype=torch.float64))
    found = SteadyMap().loss(response, given, known, none(1), seed=0)
    torch.testing.assert_close(found.detach(), torch.tensor([1 / math.sqrt(36 + 49)], dtype=torch.float64))


def test_the_sobolev_error_has_the_slopes() -> None:
    """A ramp of slope 3 along y and 1 along x, answered with zero or with the half."""
    y, x = torch.meshgrid(torch.arange(4.0).double() / 8, torch.arange(8.0).double() / 8, indexing="ij")
    known = (3 * y + x)[None, None]
    response = Response(Given(0.5), torch.zeros(1, 1, 1, dtype=torch.float64))
    zero = Response(Given(0.0), torch.ones(1, 1, 1, dtype=torch.float64))
    rule = SteadyMap(gradient=2.0)
    torch.testing.assert_close(rule.loss(response, known, known, none(1), 0).detach(), torch.full((1,), 0.5).double())
    top, below = known.square().mean() + 2 * 10, (known + 1).square().mean() + 2 * 10  # a constant has no slope
    torch.testing.assert_close(rule.loss(zero, known, known, none(1), 0).detach()[0].square(), top / below)


def test_rows_of_the_loss_are_those_of_the_samples() -> None:
    known = torch.randn(3, 1, 4, 4, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    response = Response(Given(0.9), torch.ones(1, 1, 1, dtype=torch.float64))
    whole = SteadyMap(0.1).loss(response, known, known, none(3), 0)
    torch.testing.assert_close(whole[1:2], SteadyMap(0.1).loss(response, known[1:2], known[1:2], none(1), 0))


def sources(rows: int, grid: int) -> tuple[Tensor, Tensor]:
    """f of -laplace u = f, and u of the solver."""
    pde = Poisson()
    solved = pde.solve(pde.draw(range(rows), grid))
    return -solved["source"].double(), solved["potential"].double()


def test_walks_agree_with_the_solver() -> None:
    """Five-point error and bilinear source: about 2e-3 of the solution at 33 nodes; walks to 5.5 standard errors."""
    source, solution = sources(2, 33)
    nodes, walks = WalkOnSpheresMap(points=40, walks=4000, epsilon=1e-4).estimates(source, seed=3)
    truth = solution.flatten(1).gather(1, nodes)
    error, spread = (walks.mean(-1) - truth).abs(), walks.std(-1) / math.sqrt(4000)
    size = solution.square().mean().sqrt()
    assert (error <= 5.5 * spread + 4e-3 * size).all(), (error / spread).max()
    assert float(spread.max()) < 0.1 * float(size)  # so that another sign, order of axes or scale would be seen


def test_nodes_are_inner_ones_and_all_are_reached() -> None:
    nodes, _ = WalkOnSpheresMap(points=3000).estimates(torch.zeros(1, 6, 5), seed=4)
    inner = {i * 5 + j for i in range(1, 5) for j in range(1, 4)}
    assert set(nodes.unique().tolist()) == inner


def test_the_loss_without_solver_is_least_at_the_solution() -> None:
    """The network answers a times the solution: the gradient in a is zero at 1 but for chance, linear around it."""
    source, solution = sources(8, 17)
    rule = WalkOnSpheresMap(points=400, walks=2, epsilon=1e-4)

    def slopes(weight: float) -> Tensor:
        """One for each seed: the samples of a call share their walks."""
        network = Given(weight)
        response = Response(network, torch.zeros(1))
        losses = [rule.loss(response, solution[:, None], source[:, None], none(8), seed) for seed in range(25)]
        return torch.stack([torch.autograd.grad(loss.mean(), network.weight)[0] for loss in losses])

    at_one, above, below = slopes(1.0), slopes(1.2), slopes(0.8)
    torch.testing.assert_close(above - at_one, at_one - below)  # quadratic in a
    steep, error = float((above - at_one).mean()) / 0.2, 6.5 * float(at_one.std()) / 5  # 1e-6 of Student's t at 24
    assert abs(float(at_one.mean())) < error + 0.01 * steep
    assert error < 0.2 * steep


def test_the_loss_without_solver_does_not_depend_on_the_size_of_the_source() -> None:
    source, solution = sources(4, 9)
    size = torch.tensor([1.0, 2.0, 0.5, 10.0], dtype=torch.float64)[:, None, None, None]
    one, other = (
        WalkOnSpheresMap(points=8).loss(
            Response(Given(), torch.zeros(1)), s * solution[:, None], s * source[:, None], none(4), 1
        )
        for s in (torch.ones_like(size), size)
    )
    torch.testing.assert_close(one, other)


def test_what_is_drawn_is_a_function_of_the_seed() -> None:
    source, solution = sources(2, 9)
    response = Response(Given(), torch.zeros(1))
    rule = WalkOnSpheresMap(points=8)
    first, second, other = (rule.loss(response, solution[:, None], source[:, None], none(2), s) for s in (1, 1, 2))
    assert torch.equal(first, second)
    assert not torch.equal(first, other)
