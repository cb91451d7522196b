"""Face values of WENO5-Z, the corrections of A-WENO, the time step: against formulas written out, and their orders."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from torch import Tensor

from pdediff.pdes import a_weno, runge_kutta
from pdediff.pdes.base import Clock
from pdediff.pdes.weno import MEANS, POINTS, Parabolas, pad, weno5_z

# The three parabolas through (a, b, c), (b, c, d) and (c, d, e) at the right face of c, and their ideal weights.
TABLES = {
    "means": (MEANS, np.array([[2, -7, 11], [-1, 5, 2], [2, 5, -1]]) / 6, np.array([1, 6, 3]) / 10),
    "points": (POINTS, np.array([[3, -10, 15], [-1, 6, 3], [3, 6, -1]]) / 8, np.array([1, 10, 5]) / 16),
}


def textbook(v: np.ndarray, rows: np.ndarray, ideal: np.ndarray) -> float:
    """Value at the right face of the middle of five cells, as the papers print it."""
    a, b, c, d, e = v
    beta = np.array(
        [
            13 / 12 * (a - 2 * b + c) ** 2 + (a - 4 * b + 3 * c) ** 2 / 4,
            13 / 12 * (b - 2 * c + d) ** 2 + (b - d) ** 2 / 4,
            13 / 12 * (c - 2 * d + e) ** 2 + (3 * c - 4 * d + e) ** 2 / 4,
        ]
    )
    tau = abs(beta[0] - beta[2])
    weights = ideal * (1.0 + (tau / (beta + 1e-12)) ** 2)
    candidates = [row @ v[k : k + 3] for k, row in enumerate(rows)]
    return float(weights @ candidates / weights.sum())


@pytest.mark.parametrize("kind", list(TABLES))
def test_face_values_are_those_of_the_papers(kind: str) -> None:
    parabolas, rows, ideal = TABLES[kind]
    generator = torch.Generator().manual_seed(0)
    v = torch.randn(9, 3, generator=generator, dtype=torch.float64)
    left, right = weno5_z(v, 0, parabolas)
    assert left.shape == right.shape == (4, 3)
    for face in range(4):
        for row in range(3):
            cells = v[:, row].numpy()
            assert left[face, row].item() == pytest.approx(textbook(cells[face : face + 5], rows, ideal), rel=1e-12)
            mirrored = cells[face + 1 : face + 6][::-1]
            assert right[face, row].item() == pytest.approx(textbook(mirrored, rows, ideal), rel=1e-12)


def mean_wave(n: int) -> tuple[Tensor, Tensor, Tensor]:
    """Means, values at centres and values at faces of exp(sin x) on n cells of the ring."""
    h = 2.0 * math.pi / n
    centre = h * (torch.arange(n, dtype=torch.float64) + 0.5)
    nodes, weights = np.polynomial.legendre.leggauss(7)
    means = sum(0.5 * w * torch.exp(torch.sin(centre + 0.5 * h * g)) for g, w in zip(nodes, weights, strict=True))
    faces = torch.exp(torch.sin(h * torch.arange(n + 1, dtype=torch.float64)))
    return torch.as_tensor(means), torch.exp(torch.sin(centre)), faces


@pytest.mark.parametrize("parabolas", [MEANS, POINTS], ids=list(TABLES))
def test_fifth_order_in_smooth_waves_and_at_their_extrema(parabolas: Parabolas) -> None:
    errors = []
    for n in (64, 128):
        means, points, faces = mean_wave(n)
        v = pad(means if parabolas is MEANS else points, 0, "periodic")
        errors.append(max((value - faces).abs().max().item() for value in weno5_z(v, 0, parabolas)))
    assert math.log2(errors[0] / errors[1]) == pytest.approx(5.0, abs=0.05)


@pytest.mark.parametrize("parabolas", [MEANS, POINTS], ids=list(TABLES))
def test_a_jump_is_not_overshot(parabolas: Parabolas) -> None:
    v = pad((torch.arange(20) >= 10).double(), 0, "outflow")
    for value in weno5_z(v, 0, parabolas):
        assert value.min() > -1e-10
        assert value.max() < 1.0 + 1e-10


def test_ghosts_continue_the_field() -> None:
    v = torch.arange(5.0)[None].expand(2, 5)
    assert pad(v, 1, "periodic")[1].tolist() == [2, 3, 4, 0, 1, 2, 3, 4, 0, 1, 2]
    assert pad(v, -1, "outflow")[0].tolist() == [0, 0, 0, 0, 1, 2, 3, 4, 4, 4, 4]
    assert pad(v, -1, "reflective")[0].tolist() == [2, 1, 0, 0, 1, 2, 3, 4, 4, 3, 2]
    assert pad(v.T, 0, "reflective").T.tolist() == pad(v, 1, "reflective").tolist()


def test_walls_turn_the_normal_component_around() -> None:
    rows = torch.stack([torch.full((4, 2), 1.0), torch.full((4, 2), 2.0)])[None]
    cells = a_weno.pad_sweep(rows, "reflective", normal=1)
    assert (cells[:, 0] == 1.0).all()
    assert cells[0, 1, :, 0].tolist() == [-2, -2, -2, 2, 2, 2, 2, -2, -2, -2]


def test_corrected_face_values_give_derivatives_of_sixth_order() -> None:
    errors = []
    for n in (16, 32):
        x = 2.0 * math.pi * (torch.arange(n, dtype=torch.float64) + 0.5) / n
        flux = pad(torch.sin(x)[:, None], -2, "periodic")
        faces = a_weno.linear_face_values(flux) + a_weno.correction(flux)
        slope = faces.diff(dim=-2)[:, 0] * n / (2.0 * math.pi)
        errors.append((slope - torch.cos(x)).abs().max().item())
    assert math.log2(errors[0] / errors[1]) == pytest.approx(6.0, abs=0.1)


def test_sweeps_go_along_both_axes_and_back() -> None:
    generator = torch.Generator().manual_seed(1)
    first, second = torch.randn(2, 3, 4, 4, generator=generator, dtype=torch.float64)
    rows = a_weno.both_directions((first, second), (second, first))
    assert torch.equal(rows[2, 0], first[1])
    assert torch.equal(rows[3, 0], second[1].T)
    faces = torch.cat([torch.zeros(6, 2, 1, 4, dtype=torch.float64), rows.cumsum(-2)], -2)
    along_y, along_x = a_weno.divergence(faces, 2.0)
    torch.testing.assert_close(along_y, 2.0 * torch.stack([first, second], 1))
    torch.testing.assert_close(along_x, 2.0 * torch.stack([second, first], 1))


def riccati(v: Tensor, h: float, rate: Tensor) -> Tensor:
    """Euler step of v' = -rate v^2."""
    return v - h * rate * v * v


def test_third_order_in_time_and_the_frames_asked_for() -> None:
    start, rate = torch.tensor([[1.0], [2.0], [0.5]], dtype=torch.float64), torch.ones(3, 1, dtype=torch.float64)
    errors = []
    for step in (0.05, 0.025):
        clock = Clock(frames=3, interval=0.5, step=step, warm_up=2)
        v = runge_kutta.evolve(riccati, start, clock, statics=(rate,))
        exact = start[:, None] / (1.0 + start[:, None] * torch.from_numpy(clock.times())[:, None])
        errors.append((v - exact).abs().max().item())
        warm = runge_kutta.evolve(riccati, start, clock, statics=(rate[:1],), warm=True)
        assert torch.equal(warm, v[:, 2])
    assert math.log2(errors[0] / errors[1]) == pytest.approx(3.0, abs=0.1)


def test_residual_is_what_a_frame_misses_per_time() -> None:
    start, rate = torch.tensor([[1.0], [2.0]], dtype=torch.float64), torch.ones(1, 1, dtype=torch.float64)
    clock = Clock(frames=4, interval=0.25, step=0.05)
    v = runge_kutta.evolve(riccati, start, clock, statics=(rate,))
    assert runge_kutta.step_residual(riccati, v, clock, statics=(rate,)).abs().max() < 1e-15
    v[1, 3] += 0.01
    left = runge_kutta.step_residual(riccati, v, clock, statics=(rate.expand(2, 1),))
    assert left.shape == (2, 3, 1)
    assert left[1, 2].item() == pytest.approx(0.04)
    assert left[0].abs().max() < 1e-15
