"""Gas dynamics: fluxes by hand, tubes along both axes, mirror images, a fine reference, limits of the method."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import pytest
import torch
from rows.euler import CENTRAL, HLLC, NAMES, Scheme, centres, problem, tube
from torch import Tensor

from pdediff.errors import ConfigError
from pdediff.pdes import Clock, Euler, check
from pdediff.pdes.gas_dynamics import GasDynamics, Parts, central_upwind, conserved, hllc, primitive
from pdediff.types import Purpose, derive_many

SEEDS = derive_many(5, Purpose.PROBLEM, range(3))
SCHEMES: tuple[Scheme, Scheme] = (HLLC, CENTRAL)
FLUXES = {"hllc": hllc, "central_upwind": central_upwind}


def gas(*values: float) -> Parts:
    """One cell with this density, these velocities along and across, this pressure."""
    return tuple(torch.tensor([[[value]]], dtype=torch.float64) for value in values)  # type: ignore[return-value]


def exact_flux(density: float, u: float, v: float, p: float) -> list[float]:
    """Flux of mass, momenta and energy along u, gamma 1.4."""
    energy = p / 0.4 + 0.5 * density * (u * u + v * v)
    return [density * u, density * u * u + p, density * u * v, u * (energy + p)]


@pytest.mark.parametrize("flux", FLUXES.values(), ids=list(FLUXES))
@pytest.mark.parametrize("state", [(1.2, 0.3, -0.4, 0.7), (0.9, -0.8, 0.5, 1.1), (1.0, 4.0, 1.0, 0.5)])
def test_equal_states_give_their_own_flux(flux: object, state: tuple[float, ...]) -> None:
    found = flux(gas(*state), gas(*state), 1.4).flatten()  # type: ignore[operator]
    assert found.tolist() == pytest.approx(exact_flux(*state), rel=1e-13)


@pytest.mark.parametrize("flux", FLUXES.values(), ids=list(FLUXES))
def test_supersonic_flow_is_taken_from_upwind(flux: object) -> None:
    fast, other = (1.0, 3.0, 0.5, 0.8), (0.5, 3.5, -0.5, 0.6)
    found = flux(gas(*fast), gas(*other), 1.4).flatten()  # type: ignore[operator]
    assert found.tolist() == pytest.approx(exact_flux(*fast), rel=1e-13)
    back = (0.5, -3.5, -0.5, 0.6)
    found = flux(gas(1.0, -3.0, 0.5, 0.8), gas(*back), 1.4).flatten()  # type: ignore[operator]
    assert found.tolist() == pytest.approx(exact_flux(*back), rel=1e-13)


def test_hllc_keeps_contacts_and_shear_layers_at_rest() -> None:
    found = hllc(gas(1.0, 0.0, 2.0, 0.9), gas(0.1, 0.0, -3.0, 0.9), 1.4).flatten()
    assert found.tolist() == pytest.approx([0.0, 0.9, 0.0, 0.0], abs=1e-15)
    moving = hllc(gas(1.0, 0.1, 2.0, 0.9), gas(0.1, 0.1, -3.0, 0.9), 1.4).flatten()
    assert moving.tolist() == pytest.approx(exact_flux(1.0, 0.1, 2.0, 0.9), rel=1e-13)


def test_hllc_by_hand() -> None:
    # tube of Sod: waves -sqrt(1.4) and sqrt(1.4), contact 0.9 / (1.125 sqrt(1.4)); the face lies left of the contact
    c = math.sqrt(1.4)
    contact = 0.9 / (1.125 * c)
    density = c / (c + contact)
    p = 1.0 - c * contact
    energy = density * (2.5 + contact * (contact - 1.0 / c))
    found = hllc(gas(1.0, 0.0, 0.0, 1.0), gas(0.125, 0.0, 0.0, 0.1), 1.4).flatten()
    expected = [density * contact, density * contact**2 + p, 0.0, contact * (energy + p)]
    assert found.tolist() == pytest.approx(expected, rel=1e-13)


def test_central_upwind_by_hand() -> None:
    # tube of Sod: a+- = +-c, U* = (U- + U+) / 2 - (F+ - F-) / (2 c), and d is the lesser of its distances to both
    c = math.sqrt(1.4)
    start, end = np.array([1.0, 0.0, 0.0, 2.5]), np.array([0.125, 0.0, 0.0, 0.25])
    f_start, f_end = np.array([0.0, 1.0, 0.0, 0.0]), np.array([0.0, 0.1, 0.0, 0.0])
    middle = 0.5 * (start + end) - 0.5 * (f_end - f_start) / c
    anti = [-0.4375, 0.0, 0.0, -1.125]
    np.testing.assert_allclose(np.minimum(abs(end - middle), abs(middle - start))[[0, 3]], [0.4375, 1.125])
    expected = 0.5 * (f_start + f_end) - 0.5 * c * (end - start - anti)
    found = central_upwind(gas(1.0, 0.0, 0.0, 1.0), gas(0.125, 0.0, 0.0, 0.1), 1.4).flatten()
    assert found.tolist() == pytest.approx(expected.tolist(), rel=1e-12, abs=1e-14)


@pytest.mark.parametrize("scheme", SCHEMES)
def test_a_tube_along_either_axis_is_the_one_dimensional_flow(scheme: Scheme) -> None:
    n, time, steps = 32, 0.1, 32
    x = (np.arange(n) + 0.5) / n
    parts = (np.where(x < 0.5, 1.0, 0.125), 0.3 * np.sin(6.0 * x), np.where(x < 0.5, 1.0, 0.1))
    density, u, p = tube(scheme, parts, 1.0, time, steps)
    pde = Euler(scheme=scheme, clock=Clock(2, time, time / steps * n / 64))
    rows = [torch.from_numpy(part).expand(1, n, n) for part in parts]
    still = torch.zeros(1, n, n, dtype=torch.float64)
    along_x = pde.solve(problem((rows[0], rows[1], still, rows[2])))
    along_y = pde.solve(problem((rows[0].mT, still, rows[1].mT, rows[2].mT)))
    for name, part in (("density", density), ("velocity_x", u), ("pressure", p)):
        torch.testing.assert_close(along_x[name][0, 1], part.expand(n, n), rtol=0.0, atol=1e-13)
        other = name.replace("_x", "_y")
        torch.testing.assert_close(along_y[other][0, 1].T, part.expand(n, n), rtol=0.0, atol=1e-13)


@pytest.mark.parametrize("scheme", SCHEMES)
@pytest.mark.parametrize("initial", ["quadrants", "kelvin_helmholtz"])
def test_mirror_images_and_exchanged_axes_stay_so(scheme: Scheme, initial: str) -> None:
    pde = Euler(initial=initial, scheme=scheme, clock=Clock(2, 0.08, 0.002))  # type: ignore[arg-type]
    start = pde.draw(SEEDS, 24).fields
    rho, u, v, p = (start[f"initial_{name}"] for name in NAMES)
    base = [pde.solve(problem((rho, u, v, p)))[name][:, 1] for name in NAMES]
    flipped = [pde.solve(problem((rho.flip(-1), -u.flip(-1), v.flip(-1), p.flip(-1))))[name][:, 1] for name in NAMES]
    turned = [pde.solve(problem((rho.mT, v.mT, u.mT, p.mT)))[name][:, 1] for name in NAMES]
    signs = (1.0, -1.0, 1.0, 1.0)
    for part, image, sign in zip(base, flipped, signs, strict=True):
        torch.testing.assert_close(sign * image.flip(-1), part, rtol=0.0, atol=1e-12)
    for part, image in zip(base, (turned[0], turned[2], turned[1], turned[3]), strict=True):
        torch.testing.assert_close(image.mT, part, rtol=0.0, atol=1e-12)


@pytest.mark.parametrize("scheme", SCHEMES)
def test_units_do_not_matter(scheme: Scheme) -> None:
    # density 1e4 times, pressure 1e-2 times: velocities 1e-3 times, times 1e3 times
    pde = Euler(scheme=scheme, clock=Clock(2, 0.08, 0.002))
    start = pde.draw(SEEDS, 24).fields
    factors = (1e4, 1e-3, 1e-3, 1e-2)
    scaled = problem(tuple(f * start[f"initial_{name}"] for f, name in zip(factors, NAMES, strict=True)))
    base = pde.solve(problem(tuple(start[f"initial_{name}"] for name in NAMES)))
    other = replace(pde, clock=Clock(2, 80.0, 2.0)).solve(scaled)
    for name, factor in zip(NAMES, factors, strict=True):
        torch.testing.assert_close(other[name] / factor, base[name], rtol=0.0, atol=1e-11)


def rough_gas(seed: int, grid: int) -> Tensor:
    """Cells of density and pressure over five orders of magnitude and velocities of order one, all independent."""
    numbers = torch.rand(2, 4, grid, grid, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    density, p = (10.0 ** (5.0 * numbers[:, k] - 4.0) for k in (0, 3))
    return conserved((density, 2.0 * numbers[:, 1] - 1.0, 2.0 * numbers[:, 2] - 1.0, p), 1.4)


@pytest.mark.parametrize("scheme", SCHEMES)
def test_steps_within_the_limit_keep_any_gas_positive_and_conserve_it(scheme: Scheme) -> None:
    dynamics = GasDynamics(1.4, "periodic", scheme)
    state = rough_gas(0, 16)
    total = state.sum((-2, -1))
    for _ in range(20):
        density, u, v, p = primitive(state, 1.4)
        fastest = (torch.maximum(u.abs(), v.abs()) + (1.4 * p / density).sqrt()).max().item()
        state = dynamics.advance(state, 0.25 / 16 / fastest)
        density, _, _, p = primitive(state, 1.4)
        assert density.min() > 0.0
        assert p.min() > 0.0
    torch.testing.assert_close(state.sum((-2, -1)), total, rtol=1e-12, atol=1e-10)


def test_limiting_one_row_leaves_the_other_alone() -> None:
    dynamics = GasDynamics(1.4, "periodic", HLLC)
    y, x = (2.0 * math.pi * part for part in centres(16))
    parts = (1.0 + 0.1 * torch.sin(x), torch.cos(y), torch.sin(x), 1.0 + 0.0 * x)
    smooth = conserved([part[None] for part in parts], 1.4)
    both = torch.cat([rough_gas(1, 16)[:1], smooth])
    h = 0.2 / 16 / 100.0
    assert torch.equal(dynamics.advance(both, h)[1:], dynamics.advance(smooth, h))


def test_courant_number_by_hand_and_a_step_too_long_is_rejected() -> None:
    pde = Euler(clock=Clock(frames=4, interval=0.05, step=0.01))
    parts = tuple(torch.full((1, 32, 32), value, dtype=torch.float64) for value in (1.4, 0.5, -2.0, 1.0))
    fields = {name: part[:, None] for name, part in zip(NAMES, parts, strict=True)}
    # (2 + 1) h / dx with steps of 0.05 / 3, as 0.01 is meant for 64 cells
    assert pde.invariants(fields)["courant"].item() == pytest.approx(3.0 * 0.05 / 3 * 32)
    wild = replace(pde, clock=Clock(frames=4, interval=0.5, step=0.2))
    assert all(check(wild, wild.solve(wild.draw(SEEDS, 32))))


def test_problems_are_the_same_on_every_grid_and_within_their_ranges() -> None:
    for initial in ("quadrants", "kelvin_helmholtz"):
        pde = Euler(initial=initial, density=(0.5, 0.6), pressure=(2.0, 2.0), velocity=0.3)  # type: ignore[arg-type]
        coarse, fine = (pde.draw(SEEDS, grid).fields for grid in (16, 48))
        for name, value in coarse.items():
            assert torch.equal(fine[name][:, 1::3, 1::3], value), name
        torch.testing.assert_close(coarse["initial_pressure"], torch.full_like(value, 2.0))
        assert ((coarse["initial_density"] >= 0.5) & (coarse["initial_density"] <= 0.6)).all()
        assert coarse["initial_velocity_x"].abs().max() <= 0.3
        assert coarse["initial_density"][0].unique().numel() == (4 if initial == "quadrants" else 2)


def test_gradient_of_the_central_upwind_scheme() -> None:
    # minmod has corners at every scale of the interpolation error: differences see some of them
    pde = Euler(scheme=CENTRAL, thickness=0.3, density=(0.5, 1.0), clock=Clock(2, 0.02, 0.004))
    start = pde.draw(SEEDS[:1], 16).fields
    rho = start["initial_density"].clone().requires_grad_()
    weights = torch.randn(1, 16, 16, generator=torch.Generator().manual_seed(2), dtype=torch.float64)

    def objective(density: Tensor) -> Tensor:
        parts = (density, *(start[f"initial_{name}"] for name in NAMES[1:]))
        return (pde.solve(problem(parts))["pressure"][:, 1] * weights).sum()

    (gradient,) = torch.autograd.grad(objective(rho), rho)
    direction = torch.sin(7.0 * centres(16)[1] + 1.0)[None]
    slope = (objective(rho.detach() + 1e-7 * direction) - objective(rho.detach() - 1e-7 * direction)) / 2e-7
    assert float((gradient * direction).sum()) == pytest.approx(float(slope), rel=1e-2)


def test_settings_that_make_no_gas_are_refused() -> None:
    with pytest.raises(ConfigError, match="gamma=1 must be above 1"):
        Euler(gamma=1.0)
    with pytest.raises(ConfigError, match="pressure"):
        Euler(pressure=(0.0, 1.0))
