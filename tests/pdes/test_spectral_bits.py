"""Bits of a spectral run: the same in any batch, and whichever way derivatives are followed."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any, get_args

import pytest
import torch
from periodic_equations import BOX, Chemistry, DiagonalBurgers, IncompressibleFlow, KdV
from torch import Tensor

from pdediff.pdes import Clock, KolmogorovFlow, KuramotoSivashinsky, spectral

CLOCK = Clock(3, 0.1, 0.05)


def numbers(*shape: int, seed: int = 0) -> Tensor:
    """Even in (0, 1)."""
    return torch.rand(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


class Follower(KdV):
    """KdV whose nonlinear term holds a tensor of its own."""

    def __init__(self, factor: Tensor) -> None:
        self.factor = factor

    def nonlinear(self, modes: spectral.Modes) -> Callable[[Tensor], Tensor]:
        flux = modes.weigh(-0.5j * modes.k[0])
        return lambda v: self.factor * flux(modes.to_space(v).square())


class Echo(KdV):
    """An N that returns its argument itself."""

    def nonlinear(self, modes: spectral.Modes) -> Callable[[Tensor], Tensor]:
        return lambda v: v


@pytest.mark.parametrize("precision", ["float64", "float32"])
@pytest.mark.parametrize("points", [32, 48, 64, 256])
@pytest.mark.parametrize("order", get_args(spectral.Order))
def test_a_row_has_the_same_bits_in_any_batch(points: int, order: spectral.Order, precision: str) -> None:
    """Kernels of each row, real and complex; tiles of several sizes."""
    clock = Clock(3, 0.1, 0.05, precision=precision)  # type: ignore[arg-type]
    start, length, field = numbers(33, points), 5.0 + numbers(33, seed=1), numbers(33, points, seed=2)
    for equation in (Chemistry(), Chemistry(0.3)):

        def run(rows: slice, equation: Chemistry = equation) -> Tensor:
            parameters = {"viscosity": length[rows] / 100.0, "growth": length[rows], "fertility": field[rows]}
            return spectral.evolve(equation, start[rows], length[rows], clock, parameters=parameters, order=order)

        whole = run(slice(0, 33))
        for first, last in ((0, 1), (32, 33), (3, 5), (1, 8), (5, 30)):
            assert torch.equal(run(slice(first, last)), whole[first:last]), (first, last)


@pytest.mark.parametrize("precision", ["float64", "float32"])
@pytest.mark.parametrize(("dims", "points"), [(2, 16), (2, 24), (2, 64), (3, 16)])
def test_a_row_of_more_dimensions_has_the_same_bits_in_any_batch(dims: int, points: int, precision: str) -> None:
    clock = Clock(2, 0.01, 0.01, precision=precision)  # type: ignore[arg-type]
    space = [points] * dims
    start, length, field = numbers(7, *space), 5.0 + numbers(7, seed=1), numbers(7, *space, seed=2)

    def run(rows: slice) -> Tensor:
        parameters = {"viscosity": length[rows] / 100.0, "growth": length[rows], "fertility": field[rows]}
        return spectral.evolve(Chemistry(0.3), start[rows], length[rows], clock, parameters=parameters)

    whole = run(slice(0, 7))
    for first, last in ((0, 1), (6, 7), (1, 3), (2, 7)):
        assert torch.equal(run(slice(first, last)), whole[first:last]), (first, last)


@pytest.mark.parametrize("order", get_args(spectral.Order))
def test_arithmetic_in_place_has_the_bits_of_the_arithmetic_that_autograd_sees(order: spectral.Order) -> None:
    cases = [
        (KdV(), numbers(5, 32), False, 0.05),
        (Echo(), numbers(5, 32), False, 0.05),
        (KuramotoSivashinskyLike(), numbers(5, 48), False, 0.05),
        (KolmogorovFlow(), numbers(2, 24, 24), False, 0.01),
        (DiagonalBurgers(), numbers(2, 16, 16, 16), False, 0.05),
        (IncompressibleFlow(), numbers(2, 3, 8, 8, 8), True, 0.05),
    ]
    for equation, start, components, step in cases:
        clock = Clock(3, 3 * step, step)

        run = partial(_run, equation, clock, components, order)
        plain, (seen, _) = run(start), torch.func.vjp(run, start)
        assert torch.equal(run(start.clone().requires_grad_()), plain), equation
        assert torch.equal(seen, plain), equation


def _run(equation: Any, clock: Clock, components: bool, order: spectral.Order, start: Tensor) -> Tensor:
    return spectral.evolve(equation, start, BOX, clock, components=components, order=order)


class KuramotoSivashinskyLike(KuramotoSivashinsky):
    """With viscosity 1."""

    def symbol(self, modes: spectral.Modes) -> Tensor:
        return modes.squared - modes.squared**2


def test_an_equation_that_holds_what_is_differentiated_is_followed() -> None:
    start, factor = numbers(3, 32), torch.tensor(1.5, dtype=torch.float64, requires_grad=True)
    u = spectral.evolve(Follower(factor), start, BOX, CLOCK)
    assert torch.equal(u.detach(), spectral.evolve(Follower(factor.detach()), start, BOX, CLOCK))
    (found,) = torch.autograd.grad(u[:, -1].square().sum(), factor)
    ends = [spectral.evolve(Follower(factor.detach() + e), start, BOX, CLOCK)[:, -1] for e in (1e-5, -1e-5)]
    expected = sum(sign * u.square().sum() for sign, u in zip((1.0, -1.0), ends, strict=True)) / 2e-5
    assert float(found) == pytest.approx(float(expected), rel=1e-8)


def test_a_result_outlives_its_run_and_takes_part_in_autograd() -> None:
    """Nothing of the run's own memory is handed out."""
    start = numbers(3, 32)
    first = spectral.evolve(KdV(), start, BOX, CLOCK)
    kept = first.clone()
    spectral.evolve(KdV(), numbers(3, 32, seed=5), BOX, CLOCK)
    assert torch.equal(first, kept)
    weight = torch.ones((), dtype=torch.float64, requires_grad=True)
    (found,) = torch.autograd.grad((weight * first).sum(), weight)
    assert found == first.sum()
