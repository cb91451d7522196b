"""Derivatives of spectral runs: against differences, forwards and backwards, twice, in bounded memory."""

from __future__ import annotations

import weakref
from collections.abc import Callable
from typing import Any, get_args

import pytest
import torch
from periodic_equations import BOX, Chemistry, IncompressibleFlow, KdV, soliton
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from pdediff.pdes import Clock, spectral
from pdediff.pdes.etdrk import Contour


def numbers(*shape: int, seed: int = 0) -> Tensor:
    """Even in (0, 1)."""
    return torch.rand(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def chemistry(dims: int, order: spectral.Order, advection: float = 0.3) -> tuple[Callable[..., Tensor], list[Tensor]]:
    """A run as a function of all that it may be differentiated by, and values of them."""
    clock = Clock(3, 0.2, 0.05)

    def run(
        start: Tensor, length: Tensor, interval: Tensor, viscosity: Tensor, growth: Tensor, field: Tensor
    ) -> Tensor:
        parameters = {"viscosity": viscosity, "growth": growth, "fertility": field}
        return spectral.evolve(
            Chemistry(advection), start, length, clock, parameters=parameters, interval=interval, order=order
        )

    space = [8] * dims
    values = [numbers(2, *space), 4.0 + numbers(2, seed=1), 0.1 + 0.1 * numbers(2, seed=2)]
    return run, [*values, 0.1 + numbers(2, seed=3), 1.0 + numbers(2, seed=4), numbers(2, *space, seed=5)]


@pytest.mark.parametrize("order", get_args(spectral.Order))
@pytest.mark.parametrize("advection", [0.0, 0.3])
def test_gradients_of_every_order_by_everything(order: spectral.Order, advection: float) -> None:
    run, values = chemistry(1, order, advection)
    assert torch.autograd.gradcheck(run, [v.requires_grad_() for v in values], eps=1e-5, atol=1e-7, rtol=1e-7)


@pytest.mark.parametrize("dims", [2, 3])
def test_gradients_in_more_dimensions(dims: int) -> None:
    run, values = chemistry(dims, 4)
    directions = [numbers(*v.shape, seed=6 + i) for i, v in enumerate(values)]
    weights = numbers(*run(*values).shape, seed=20)
    tracked = [v.clone().requires_grad_() for v in values]
    found = torch.autograd.grad((weights * run(*tracked)).sum(), tracked)
    for i, (gradient, direction) in enumerate(zip(found, directions, strict=True)):
        ends = [run(*[v + e * direction if i == j else v for j, v in enumerate(values)]) for e in (1e-4, -1e-4)]
        expected = (weights * (ends[0] - ends[1])).sum() / 2e-4
        assert float((gradient * direction).sum()) == pytest.approx(float(expected), rel=1e-6), i


def test_lengths_of_all_rows_and_components() -> None:
    start, length = IncompressibleFlow().exact(0.0, 8)[None].repeat(2, 1, 1, 1, 1), BOX.clone().requires_grad_()

    def run(length: Tensor) -> Tensor:
        return spectral.evolve(IncompressibleFlow(), start, length, Clock(2, 0.2, 0.1), components=True)[:, 1]

    (found,) = torch.autograd.grad(run(length).square().sum(), length)
    ends = [run(BOX + e).square().sum() for e in (1e-4, -1e-4)]
    assert float(found) == pytest.approx(float(ends[0] - ends[1]) / 2e-4, rel=1e-7)


@pytest.mark.parametrize("steps", [1, 16, 17, 40, 300])
def test_the_adjoint_is_the_derivative_that_autograd_finds_step_by_step(steps: int) -> None:
    """Stretches of 16 steps, their remainders and stretches of stretches; frames and the warm-up."""
    clock = Clock(3, 0.002 * steps, 0.002, warm_up=2)
    start, weights = soliton(0.0, 32, 20.0)[None].repeat(2, 1), numbers(2, 3, 32)

    def run(start: Tensor, length: Tensor, warm: bool) -> Tensor:
        return spectral.evolve(KdV(), start, length, clock, warm=warm)

    for warm, weight in ((False, weights), (True, weights[:, 0])):
        tracked = [t.requires_grad_() for t in (start.clone(), 20.0 + numbers(2))]
        found = torch.autograd.grad((weight * run(*tracked, warm)).sum(), tracked)
        seen = torch.func.vjp(lambda x, y, warm=warm: run(x, y, warm), *(t.detach() for t in tracked))[1](weight)
        torch.testing.assert_close(found, seen, rtol=1e-11, atol=1e-11)


def test_tangents_adjoints_and_second_derivatives_agree() -> None:
    run, values = chemistry(2, 4)
    directions = tuple(numbers(*v.shape, seed=6 + i) for i, v in enumerate(values))
    tangent = torch.func.jvp(run, tuple(values), directions)[1]
    with torch.no_grad():
        assert torch.equal(torch.func.jvp(run, tuple(values), directions)[1], tangent)
    weights = numbers(*tangent.shape, seed=20)
    tracked = [v.clone().requires_grad_() for v in values]
    found = torch.autograd.grad((weights * run(*tracked)).sum(), tracked, create_graph=True)
    product = torch.stack([(g * d).sum() for g, d in zip(found, directions, strict=True)]).sum()
    assert float((tangent * weights).sum()) == pytest.approx(float(product.detach()), rel=1e-12)

    def gradient(start: Tensor) -> Tensor:
        start = start.detach().requires_grad_()
        return torch.autograd.grad((weights * run(start, *values[1:])).sum(), start)[0]

    (second,) = torch.autograd.grad((found[0] * directions[0]).sum(), tracked[0])
    ends = [gradient(values[0] + e * directions[0]) for e in (1e-5, -1e-5)]
    torch.testing.assert_close(second, (ends[0] - ends[1]) / 2e-5, rtol=1e-6, atol=1e-8)


@pytest.mark.parametrize(("dims", "points"), [(1, 8), (1, 10), (1, 15), (1, 16), (2, 9), (2, 8), (3, 6)])
def test_transforms_have_the_derivatives_of_those_of_torch(dims: int, points: int) -> None:
    modes, axes = spectral.Modes(points, dims, torch.ones(1)), tuple(range(1, dims + 1))
    values = numbers(2, *[points] * dims)

    def whole(values: Tensor) -> Tensor:
        spectrum = torch.fft.rfftn(values, dim=axes, norm="forward")[..., : modes.kept]
        return torch.fft.irfftn(spectrum * spectrum, s=values.shape[1:], dim=axes, norm="forward")

    def ours(values: Tensor) -> Tensor:
        spectrum = modes.to_modes(values)
        return modes.to_space(spectrum * spectrum)

    found, expected = (
        torch.autograd.grad((numbers(2, *[points] * dims, seed=1) * f(x)).sum(), x)[0]
        for f, x in ((ours, values.clone().requires_grad_()), (whole, values.clone().requires_grad_()))
    )
    torch.testing.assert_close(found, expected, rtol=1e-12, atol=1e-14)


@pytest.mark.parametrize("order", get_args(spectral.Order))
def test_contour_integrals_have_derivatives_of_any_order(order: spectral.Order) -> None:
    z = torch.tensor([-3.0, -0.2, 0.1], dtype=torch.float64)
    for values in (z, torch.complex(z, z.flip(0))):
        tracked = values.clone().requires_grad_()
        assert torch.autograd.gradcheck(lambda z: Contour.apply(z, order, 0), tracked)
        assert torch.autograd.gradgradcheck(lambda z: Contour.apply(z, order, 0), tracked)


class Live(TorchDispatchMode):
    """Bytes of tensors that exist at one time, and the most there were."""

    def __init__(self) -> None:
        super().__init__()
        self.now = self.peak = 0
        self._known: dict[int, weakref.finalize] = {}

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        out = func(*args, **(kwargs or {}))
        for tensor in tree_leaves(out):
            if isinstance(tensor, Tensor) and tensor.dtype != torch.uint8:  # bytes: memory that is never touched
                storage = tensor.untyped_storage()
                if storage._cdata not in self._known:
                    self.now += storage.nbytes()
                    self.peak = max(self.peak, self.now)
                    key = storage._cdata
                    self._known[key] = weakref.finalize(storage, self._gone, key, storage.nbytes())
        return out

    def _gone(self, key: int, size: int) -> None:
        self.now -= size
        del self._known[key]


def test_memory_of_a_gradient_grows_with_frames_only() -> None:
    """Peak of forward and backward pass together, in initial states: not saved tensors, which recomputing hides."""
    start = soliton(0.0, 64, 20.0)[None].repeat(4, 1)

    def peak(frames: int, steps: int) -> float:
        tracked = start.clone().requires_grad_()
        with Live() as live:
            u = spectral.evolve(KdV(), tracked, BOX, Clock(frames, 0.01, 0.01 / steps))
            u[:, -1].square().sum().backward()
        return live.peak / (start.numel() * start.element_size())

    few, many = peak(3, 16), peak(3, 256)
    assert many - few < 16.0  # one more level of 16 spectra, instead of 240 times 30 arrays
    more = peak(13, 16)
    assert more - few < 10 * 4.0
