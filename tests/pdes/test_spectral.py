"""The spectral core against exact solutions: all orders, one to three dimensions, components, float32, CUDA."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import get_args

import mpmath
import numpy as np
import pytest
import torch
from periodic_equations import BOX, RING, Chemistry, DiagonalBurgers, IncompressibleFlow, KdV, soliton
from torch import Tensor

from pdediff.pdes import Clock, spectral
from pdediff.pdes.etdrk import Contour

ORDERS = get_args(spectral.Order)


def relative(u: Tensor, exact: Tensor) -> float:
    return float((u - exact).norm() / exact.norm())


def slopes(errors: list[float], sizes: tuple[float, ...]) -> list[float]:
    return list(np.diff(np.log(errors)) / np.diff(np.log(sizes)))


@pytest.mark.parametrize(("h", "bound"), [(0.1, 8.4e-5), (0.05, 2.61e-6), (0.025, 1.83e-7), (0.0125, 1.0e-8)])
def test_kdv_soliton(h: float, bound: float) -> None:
    u = spectral.evolve(KdV(), soliton(0.0)[None], RING, Clock(2, 1.0, h))[0, 1]
    assert relative(u, soliton(1.0)) < bound


@pytest.mark.parametrize(
    ("order", "steps"), [(1, (0.02, 0.01)), (2, (0.04, 0.02)), (3, (0.04, 0.02)), (4, (0.05, 0.025, 0.0125))]
)
def test_every_order_with_an_imaginary_symbol(order: spectral.Order, steps: tuple[float, ...]) -> None:
    frames = [spectral.evolve(KdV(), soliton(0.0)[None], RING, Clock(2, 1.0, h), order=order) for h in steps]
    errors = [relative(u[0, 1], soliton(1.0)) for u in frames]
    assert slopes(errors, steps) == pytest.approx([order] * (len(steps) - 1), abs=0.25 if order == 4 else 0.2)


@pytest.mark.parametrize(
    ("order", "steps"), [(1, (0.05, 0.025)), (2, (0.1, 0.05)), (3, (0.1, 0.05)), (4, (0.4, 0.2, 0.1))]
)
def test_every_order_in_three_dimensions(order: spectral.Order, steps: tuple[float, ...]) -> None:
    equation = DiagonalBurgers()
    start, exact = (equation.exact(t, 32, 0.1) for t in (0.0, 0.8))
    frames = [spectral.evolve(equation, start[None], BOX, Clock(2, 0.8, h), order=order) for h in steps]
    errors = [relative(u[0, 1], exact) for u in frames]
    assert slopes(errors, steps) == pytest.approx([order] * (len(steps) - 1), abs=0.2)


@pytest.mark.parametrize("order", ORDERS)
def test_linear_dispersion_is_exact_for_any_step_and_order(order: spectral.Order) -> None:
    class Airy(KdV):
        def nonlinear(self, modes: spectral.Modes) -> Callable[[Tensor], Tensor]:
            return torch.zeros_like

    length = torch.tensor([3.0, 5.0], dtype=torch.float64)
    times = torch.tensor([0.7, 0.3], dtype=torch.float64)
    x = torch.arange(32, dtype=torch.float64) / 32
    k = 2.0 * torch.pi * 3.0 / length[:, None]
    start = torch.sin(2.0 * torch.pi * 3.0 * x).expand(2, -1)
    u = spectral.evolve(Airy(), start, length, Clock(2, 0.7, 0.7), interval=times, order=order)[:, 1]
    # the wave sin(k x) moves with phase k^3 t: u_t = -u_xxx
    exact = torch.sin(2.0 * torch.pi * 3.0 * x + k**3 * times[:, None])
    torch.testing.assert_close(u, exact, rtol=0.0, atol=1e-12)


def _functions(z: complex, order: int) -> list[complex]:
    """What the contour integrals stand for, in 60 digits."""
    with mpmath.workdps(60):
        z = mpmath.mpmathify(z)
        e, root = mpmath.exp(z), mpmath.exp(z / 2)
        p, q = (e - 1) / z, (root - 1) / z
        f1 = (-4 - z + e * (4 - 3 * z + z**2)) / z**3
        f2 = 2 * (2 + z + e * (z - 2)) / z**3
        f3 = (-4 - 3 * z - z**2 + e * (4 - z)) / z**3
        p2 = (e - 1 - z) / z**2
        return [
            complex(f) for f in {1: [p], 2: [p, p2], 3: [p, q, f1, f2, f3], 4: [q, q * (root - 1), f1, f2, f3]}[order]
        ]


@pytest.mark.parametrize("order", ORDERS)
@pytest.mark.parametrize("axis", [1.0, 1j, complex(-0.6, 0.8)])
def test_contour_integrals_are_accurate_near_and_far(order: spectral.Order, axis: complex) -> None:
    sizes = [1e-9, 1e-4, 0.3, 0.995, 1.0, 1.005, 2.0, 7.0, 300.0]
    points = [-s * axis for s in sizes] + [0.5 * axis]
    z = torch.tensor(points, dtype=torch.complex128)
    z = z if axis.imag else z.real
    found = torch.stack(Contour.apply(z, order, 0), -1).to(torch.complex128)
    exact = torch.tensor([_functions(p, order) for p in points], dtype=torch.complex128)
    torch.testing.assert_close(found, exact, rtol=1e-11, atol=1e-14)
    # at |z| = 1 the circle passes near 0, where the terms cancel
    off = (z.abs() - 1.0).abs() > 0.5
    torch.testing.assert_close(found[off], exact[off], rtol=1e-13, atol=1e-14)


@pytest.mark.parametrize("dims", [1, 2, 3])
@pytest.mark.parametrize("points", [12, 16, 21])
def test_products_of_live_modes_are_free_of_aliases(points: int, dims: int) -> None:
    modes = spectral.Modes(points, dims, torch.ones(1))
    g = torch.Generator().manual_seed(0)
    v = modes.project(torch.randn(1, *[points] * dims, generator=g, dtype=torch.float64))
    u = modes.to_space(v)
    fine = spectral.Modes(2 * points, dims, torch.ones(1))
    # the same coefficients on a grid that holds every product
    wide = torch.zeros(1, *[2 * points] * (dims - 1), fine.kept, dtype=torch.complex128)
    half = (points - 1) // 3
    rows = torch.arange(-half, half + 1)
    axes = torch.meshgrid(*[rows] * (dims - 1), torch.arange(half + 1), indexing="ij")
    cut = (slice(None), *axes)
    wide[cut] = v[cut]
    exact = fine.to_modes(fine.to_space(wide).square())
    torch.testing.assert_close(modes.to_modes(u.square())[cut], exact[cut], rtol=0.0, atol=1e-14)
    assert modes.live.sum() == (2 * half + 1) ** (dims - 1) * (half + 1)


@pytest.mark.parametrize("order", ORDERS)
def test_modes_beyond_a_third_stay_empty(order: spectral.Order) -> None:
    """Of a rough field: products fill them in every stage."""
    rough = torch.rand(2, 16, 16, 16, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    u = spectral.evolve(DiagonalBurgers(), rough, BOX, Clock(3, 0.01, 0.005), order=order)[:, -1]
    m = torch.fft.fftfreq(16, 1.0 / 16).abs()
    beyond = (torch.stack(torch.meshgrid(m, m, m, indexing="ij")) >= 16 / 3).any(0)
    coefficients = torch.fft.fftn(u, dim=(1, 2, 3), norm="forward").abs()
    assert coefficients[:, beyond].max() < 1e-16
    assert coefficients[:, ~beyond].min() > 1e-8


def test_weighed_coefficients_are_factor_times_coefficients() -> None:
    modes = spectral.Modes(16, 2, BOX)
    values = torch.randn(3, 16, 16, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    for factor in (1j * modes.k[0], modes.squared, 0.5 * modes.k[1] ** 2 + 1j * modes.k[0]):
        torch.testing.assert_close(modes.weigh(factor)(values), factor * modes.to_modes(values))


def test_components_are_coupled_and_projected() -> None:
    equation = IncompressibleFlow()
    start = equation.exact(0.0, 12)[None].repeat(2, 1, 1, 1, 1)
    u = spectral.evolve(equation, start, BOX, Clock(3, 0.5, 0.05), components=True)
    assert u.shape == (2, 3, 3, 12, 12, 12)
    for t in range(3):
        torch.testing.assert_close(u[1, t], equation.exact(0.5 * t, 12), rtol=0.0, atol=1e-12)


def test_components_that_do_not_meet_are_scalars() -> None:
    """Two components of one row evolve as two rows do."""
    fields = torch.rand(2, 2, 16, 16, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    numbers = torch.tensor([0.1, 0.2], dtype=torch.float64)
    common = {"viscosity": numbers, "growth": numbers.flip(0)}
    clock = Clock(3, 0.1, 0.05)
    both = spectral.evolve(
        Chemistry(0.3), fields, BOX, clock, parameters={**common, "fertility": fields[:, 1]}, components=True
    )
    for i in range(2):
        alone = spectral.evolve(
            Chemistry(0.3), fields[:, i], BOX, clock, parameters={**common, "fertility": fields[:, 1]}
        )
        torch.testing.assert_close(both[:, :, i], alone, rtol=0.0, atol=1e-13)


def test_float32_state_with_float64_coefficients() -> None:
    """One soliton over 20 frames: an error of rounding for each frame, no drift of the coefficients."""
    clocks = [Clock(21, 0.1, 0.025, precision=precision) for precision in ("float64", "float32")]
    double, single = (spectral.evolve(KdV(), soliton(0.0)[None], RING, clock)[0] for clock in clocks)
    assert single.dtype == torch.float32
    errors = [relative(s.double(), d) for s, d in zip(single, double, strict=True)]
    assert errors[1] < 1e-6
    assert errors[-1] < 1e-5


def test_tiles_cover_rows_evenly(monkeypatch: pytest.MonkeyPatch) -> None:
    start = torch.stack([soliton(t, 64, 20.0) for t in (0.0, 1.0, 2.0, 3.0, 4.0)])
    length = torch.linspace(20.0, 22.0, 5, dtype=torch.float64)
    whole = spectral.evolve(KdV(), start, length, Clock(3, 0.1, 0.1))
    monkeypatch.setattr(spectral, "TILE_BYTES", {"cpu": 64 * 4 * 8})
    assert torch.equal(spectral.evolve(KdV(), start, length, Clock(3, 0.1, 0.1)), whole)


def test_substeps_fill_the_interval() -> None:
    assert [Clock(2, 0.2, h).steps for h in (0.05, 0.06, 0.2, 0.5)] == [4, 4, 1, 1]
    halved = Clock(2, 0.112, 0.01).halved()
    assert halved.steps == 2 * 12
    assert np.isclose(halved.step, 0.112 / 24)


def test_the_warm_up_ends_where_its_last_frame_is() -> None:
    clock = Clock(4, 0.1, 0.05, warm_up=3)
    start = torch.stack([soliton(t, 64, 20.0) for t in (0.0, 1.0)])
    warm = spectral.evolve(KdV(), start, BOX, clock, warm=True)
    assert torch.equal(warm, spectral.evolve(KdV(), start, BOX, clock)[:, -1])


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no GPU")
@pytest.mark.parametrize("order", ORDERS)
def test_cuda_agrees_with_the_cpu(order: spectral.Order) -> None:
    for equation, start, box, components in (
        (KdV(), soliton(0.0)[None].repeat(3, 1), RING, False),
        (DiagonalBurgers(), DiagonalBurgers().exact(0.0, 16, 0.1)[None], BOX, False),
        (IncompressibleFlow(), IncompressibleFlow().exact(0.0, 12)[None], BOX, True),
    ):
        clock = Clock(3, 0.1, 0.05)
        here = spectral.evolve(equation, start, box, clock, components=components, order=order)
        tracked = start.cuda().requires_grad_()
        there = spectral.evolve(equation, tracked, box.cuda(), clock, components=components, order=order)
        assert there.is_cuda
        torch.testing.assert_close(there.detach().cpu(), here, rtol=0.0, atol=1e-12)
        (gradient,) = torch.autograd.grad(there.square().sum(), tracked)
        assert math.isfinite(float(gradient.norm()))
