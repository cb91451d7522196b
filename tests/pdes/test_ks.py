"""Kuramoto-Sivashinsky against an independent integrator, its energy balance and its invariances."""

from __future__ import annotations

import numpy as np
import torch
from scipy.integrate import solve_ivp

from pdediff.pdes import KuramotoSivashinsky, Problem


def _galerkin(initial: np.ndarray, length: float, time: float) -> np.ndarray:
    """Modes |m| < n/3 by DOP853 at tolerance 1e-12; the product is a convolution, so no grid and no dealiasing."""
    n = len(initial)
    top = (n - 1) // 3
    m = np.arange(-top, top + 1)
    k = 2.0 * np.pi * m / length

    def rate(_: float, v: np.ndarray) -> np.ndarray:
        square = np.convolve(v, v)[top : 3 * top + 1]
        return (k**2 - k**4) * v - 0.5j * k * square

    start = np.fft.fft(initial)[m] / n
    end = solve_ivp(rate, (0.0, time), start, method="DOP853", rtol=1e-12, atol=1e-13).y[:, -1]
    return (end @ np.exp(2j * np.pi * np.outer(m, np.arange(n)) / n)).real


def test_fourth_order_towards_an_independent_solution() -> None:
    base = KuramotoSivashinsky(length=22.0, frames=2, frame_step=2.0, warm_up=10, step=0.05)
    problem = base.draw((1, 2), 32)
    errors = []
    exact = torch.stack(
        [
            torch.from_numpy(_galerkin(u.numpy(), length.item(), 2.0))
            for u, length in zip(problem.fields["initial"], problem.scalars["domain_length"], strict=True)
        ]
    )
    for h in (0.05, 0.0125, 0.00625):
        pde = KuramotoSivashinsky(length=22.0, frames=2, frame_step=2.0, warm_up=10, step=h)
        errors.append((pde.solve(problem)["u"][:, 1] - exact).norm().item() / exact.norm().item())
    assert errors[0] < 6e-7
    # the stiff fourth derivative delays the asymptotic order: 3.3 at h = 0.1, 3.6 at 0.05, 3.9 at 0.01
    assert np.log2(errors[0] / errors[1]) > 2 * 3.6
    assert np.log2(errors[1] / errors[2]) > 3.8


def test_default_data_are_resolved_and_their_mean_is_conserved() -> None:
    pde = KuramotoSivashinsky(frames=40, warm_up=100)
    fields = pde.solve(pde.draw((3,), 256))
    spectrum = torch.fft.rfft(fields["u"][0], norm="forward").abs()
    assert spectrum[:, 70:].max() < 1e-8 * spectrum.max()  # steep fronts differ from draw to draw: 1e-11 to 2e-9 seen
    assert 0.5 < fields["u"].std() < 3.0
    assert (pde.invariants(fields)["mean"]).abs().max() < 1e-13


def test_error_of_the_default_step() -> None:
    problem = KuramotoSivashinsky(warm_up=200).draw(range(4), 256)
    coarse, fine = (KuramotoSivashinsky(frames=2, step=h).solve(problem)["u"][:, 1] for h in (0.05, 0.05 / 8))
    # per frame of 0.2 relative to the field; the label error that is promised in the documentation
    assert (coarse - fine).norm() < 1e-6 * fine.norm()


def test_energy_balance() -> None:
    pde = KuramotoSivashinsky(frames=3, frame_step=0.002, step=0.002, warm_up=10_000)
    fields = pde.solve(pde.draw((5,), 128))
    u, energy = fields["u"][0, 1], pde.invariants(fields)["energy"][0]
    k = 2j * torch.pi * torch.fft.rfftfreq(128, 1.0 / 128, dtype=torch.float64) / fields["domain_length"][0]
    slope, bend = (torch.fft.irfft(k**order * torch.fft.rfft(u), n=128) for order in (1, 2))
    # d/dt mean u^2/2 = mean u_x^2 - mean u_xx^2; the centred difference errs by 4e-6 / 6 times the third derivative
    expected = (slope.square() - bend.square()).mean()
    assert abs((energy[2] - energy[0]) / 0.004 - expected) < 1e-5


def test_galilean_invariance() -> None:
    pde = KuramotoSivashinsky(length=22.0, spread=0.0, frames=2, frame_step=1.0, step=0.0125, warm_up=20)
    initial = pde.draw((7,), 64).fields["initial"]
    length = torch.tensor([22.0], dtype=torch.float64)
    speed = 3 * 22.0 / 64
    u, moved = (
        pde.solve(Problem({"initial": initial + c}, {"domain_length": length}))["u"][:, 1] for c in (0.0, speed)
    )
    torch.testing.assert_close(moved, u.roll(3, -1) + speed, rtol=0.0, atol=1e-7)


def test_one_seed_is_one_trajectory_at_every_resolution() -> None:
    pde = KuramotoSivashinsky(frames=2, warm_up=50)
    coarse, fine = (pde.draw((9, 10), n) for n in (256, 512))
    torch.testing.assert_close(fine.fields["initial"][:, ::2], coarse.fields["initial"], rtol=0.0, atol=1e-10)
    assert torch.equal(fine.scalars["domain_length"], coarse.scalars["domain_length"])


def test_length_varies_within_its_spread() -> None:
    lengths = KuramotoSivashinsky(warm_up=0).draw(range(200), 16).scalars["domain_length"]
    assert 57.6 <= lengths.min() < 59.0
    assert 69.0 < lengths.max() <= 70.4


def test_gradient_reaches_the_length() -> None:
    pde = KuramotoSivashinsky(length=22.0, frames=3, warm_up=10)
    problem = pde.draw((1,), 32)

    def last(length: torch.Tensor) -> torch.Tensor:
        return pde.solve(Problem(problem.fields, {"domain_length": length}))["u"][0, -1, 5]

    length = problem.scalars["domain_length"]
    tracked = length.clone().requires_grad_()
    (gradient,) = torch.autograd.grad(last(tracked), tracked)
    expected = (last(length + 1e-4) - last(length - 1e-4)) / 2e-4
    assert abs(gradient[0] - expected) < 1e-6 * abs(expected)
