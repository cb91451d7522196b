"""The neural observer with networks in closed form: Kalman's filter, 3D-Var, and what masks and semigroups must do."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor, nn

from pdediff.diffusion import DenseCovariance
from pdediff.models import DilatedResNet
from pdediff.models.forecasters import (
    Dynamics,
    ObserverNetwork,
    OneStep,
    SemilinearObserver,
    assembled,
    prepare,
    rollout,
)
from pdediff.models.semigroup import Semigroup
from pdediff.observe import GaussianNoise, Observation, mask_sensors
from pdediff.posterior import StateSpace, ThreeDVar, kalman_smoother

POINTS, FRAMES, NOISE = 12, 7, 0.3


def normals(seed: int, *shape: int) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


class Zero(nn.Module):
    def forward(self, x: Tensor, label: Tensor) -> Tensor:
        return torch.zeros_like(x[:, :1])


class Interpolation(nn.Module):
    """P H^T (H P H^T + R)^-1 innovation, H the mask of each row."""

    def __init__(self, covariance: Tensor, noise: float) -> None:
        super().__init__()
        self.covariance, self.noise = covariance, noise

    def forward(self, x: Tensor, label: Tensor) -> Tensor:
        innovation, mask = x[:, 1], x[:, 2]
        seen = mask[:, :, None] * self.covariance * mask[:, None] + torch.diag_embed(
            self.noise**2 * mask + (1 - mask)  # what is not seen is a block of its own
        )
        weights = torch.linalg.solve(seen, innovation)
        return (weights @ self.covariance)[:, None]


def circulant(multiplier: Tensor) -> Tensor:
    """The matrix of a multiplier on the ring."""
    eye = torch.eye(POINTS, dtype=torch.float64)
    return torch.fft.irfft(torch.fft.rfft(eye) * multiplier, n=POINTS).T


def turn() -> Semigroup:
    """An unstable rotation of 11 modes; the Nyquist mode is dropped."""
    semigroup = Semigroup(1, 11, 1).double()
    k = torch.arange(6, dtype=torch.float64)
    semigroup.multiplier.copy_(torch.view_as_real((1.1 / (1 + 0.1 * k)) * torch.exp(0.7j * k))[None])
    return semigroup


def observer(covariance: Tensor, noise: float = NOISE) -> Dynamics:
    """Linear dynamics by S alone, and optimal interpolation with one covariance."""
    return Dynamics(ObserverNetwork(turn(), Zero(), Interpolation(covariance, noise)), torch.full((1, 1), 0.4).double())


def matrix() -> Tensor:
    return turn()(torch.eye(POINTS, dtype=torch.float64)[:, None])[:, 0].T


def masks(share: float = 0.5) -> Tensor:
    mask = torch.rand(FRAMES, 1, POINTS, generator=torch.Generator().manual_seed(3)) < share
    mask[2] = False
    return mask


def seen(readings: Tensor, mask: Tensor) -> tuple[Observation | None, ...]:
    """The same readings for the filters of the package."""
    std = torch.full((POINTS,), NOISE, dtype=torch.float64)
    return tuple(
        Observation(y[m], mask_sensors(m), GaussianNoise(std[: int(m.sum())])) if m.any() else None
        for y, m in zip(readings, mask, strict=True)
    )


def none(rows: int) -> Tensor:
    return torch.zeros(rows, 0, dtype=torch.float64)


def steady(A: Tensor, Q: Tensor, mask: Tensor) -> Tensor:
    """Forecast covariance of the stationary Kalman filter, by iteration of Riccati's equation."""
    H, P = torch.eye(POINTS, dtype=torch.float64)[mask], torch.eye(POINTS, dtype=torch.float64)
    for _ in range(400):
        gain = P @ H.T @ torch.linalg.inv(H @ P @ H.T + NOISE**2 * torch.eye(len(H), dtype=torch.float64))
        P = A @ (P - gain @ H @ P) @ A.T + Q
    return P


def test_it_is_the_stationary_kalman_filter() -> None:
    A, Q = matrix(), 0.01 * torch.eye(POINTS, dtype=torch.float64)
    mask = torch.arange(POINTS) % 3 == 0
    P = steady(A, Q, mask)
    readings, every = normals(1, FRAMES, 1, POINTS), mask.expand(FRAMES, 1, POINTS)
    start = normals(2, 1, POINTS)
    laws = DenseCovariance(P, (1, POINTS)), DenseCovariance(Q, (1, POINTS))
    model = StateSpace(start, laws[0], _advance, laws[1], seen(readings, every))
    found = SemilinearObserver().assimilate(observer(P), start[None], readings[None], every[None], none(1))
    torch.testing.assert_close(found.corrected[0], kalman_smoother(model).filtered, rtol=0, atol=1e-9)


def _advance(x: Tensor) -> Tensor:
    return (x.flatten(1) @ matrix().T).reshape(x.shape)


def test_it_is_3d_var_with_readings_and_frames_missing() -> None:
    spread = normals(4, POINTS, POINTS)
    B = DenseCovariance(spread @ spread.T / POINTS, (1, POINTS))
    readings, mask, start = normals(5, FRAMES, 1, POINTS), masks(), normals(6, 1, POINTS)
    model = StateSpace(start, B, _advance, B, seen(readings, mask))
    holes = torch.where(mask, readings, torch.full_like(readings, math.nan))  # what is missing may be anything
    found = SemilinearObserver().assimilate(observer(B.matrix), start[None], holes[None], mask[None], none(1))
    torch.testing.assert_close(found.corrected[0], ThreeDVar(B)(model), rtol=0, atol=1e-9)
    assert torch.equal(found.corrected[0, 2], found.predicted[0, 2])


def test_whole_frames_without_noise_give_the_truth() -> None:
    truth, start = normals(7, 3, FRAMES, 1, POINTS), normals(8, 3, 1, POINTS)
    spread = normals(4, POINTS, POINTS)
    dynamics = observer(spread @ spread.T, 0.0)
    found = SemilinearObserver().assimilate(dynamics, start, truth, torch.ones_like(truth, dtype=torch.bool), none(3))
    torch.testing.assert_close(found.corrected, truth, rtol=0, atol=1e-9)


def test_nothing_read_corrects_nothing_whatever_the_network() -> None:
    class Wild(nn.Module):
        def forward(self, x: Tensor, label: Tensor) -> Tensor:
            return 1e3 + x[:, :1] ** 2

    x, kind = normals(9, 4, 1, POINTS), SemilinearObserver()
    dynamics = Dynamics(ObserverNetwork(turn(), Zero(), Wild()), torch.ones(1, 1).double())
    mask = torch.zeros(4, 1, POINTS, dtype=torch.bool)
    mask[1, 0, 5] = True
    found = kind.correct(dynamics, x, normals(10, 4, 1, POINTS), mask, none(4))
    assert torch.equal(found[[0, 2, 3]], x[[0, 2, 3]])
    assert not torch.equal(found[1], x[1])
    full = torch.ones_like(mask)
    assert torch.equal(kind.correct(dynamics, x, x, full, none(4)), x)  # nor do readings that are as predicted


def test_correction_is_told_the_size_of_what_it_sees() -> None:
    """By hand: readings off by 3 and 4 have r = sqrt(12.5); K sees them over r, the mask, and log r / 4."""

    class Echo(nn.Module):
        def forward(self, x: Tensor, label: Tensor) -> Tensor:
            torch.testing.assert_close(x[0, 1, :3], torch.tensor([3.0, 4.0, 0.0]).double() / math.sqrt(12.5))
            assert torch.equal(x[0, 2, :3], torch.tensor([1.0, 1.0, 0.0]).double())
            assert label[0, 1:].tolist() == [7.0]
            return label[:, :1, None].expand(-1, 1, POINTS)

    x, y = torch.ones(1, 1, POINTS).double(), torch.full((1, 1, POINTS), 9.0).double()
    y[0, 0, :2] = torch.tensor([4.0, 5.0])
    mask = torch.zeros(1, 1, POINTS, dtype=torch.bool)
    mask[0, 0, :2] = True
    dynamics = Dynamics(ObserverNetwork(turn(), Zero(), Echo()), torch.ones(1, 1).double())
    found = SemilinearObserver().correct(dynamics, x, y, mask, torch.full((1, 1), 7.0).double())
    r = math.sqrt(12.5)
    torch.testing.assert_close(found, x + r * math.log(r) / 4)


def built(spatial: int = 1, modes: int = 15, seed: int = 0) -> ObserverNetwork:
    config = DilatedResNet(8, 1, (1, 2), 8, "circular", positions=False)
    made = assembled(SemilinearObserver(modes=modes), config, 1, spatial, seed, inputs=1, labels=1).double()
    assert isinstance(made, ObserverNetwork)
    draw = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for p in made.parameters():
            p.add_(0.2 * torch.randn(p.shape, generator=draw, dtype=p.dtype))
    return made


def test_learned_parts_commute_with_shifts() -> None:
    network, kind = built(), SemilinearObserver()
    prepare(kind, network, normals(11, 5, 6, 1, 16).cumsum(1))
    dynamics = Dynamics(network, torch.full((1, 1), 0.3).double())
    y, start, mask = normals(12, 2, FRAMES, 1, 16), normals(13, 2, 1, 16), normals(18, 2, FRAMES, 1, 16) > 0.3
    plain = kind.assimilate(dynamics, start, y, mask, none(2)).corrected
    moved = kind.assimilate(dynamics, start.roll(5, -1), y.roll(5, -1), mask.roll(5, -1), none(2)).corrected
    torch.testing.assert_close(moved, plain.roll(5, -1), rtol=0, atol=1e-9)
    assert float((plain - start[:, None]).detach().abs().max()) > 0.1


def test_the_semigroup_of_the_heat_equation_is_found() -> None:
    """exp(-nu k^2 t) mode by mode, forecasts without error, and S(2 t) = S(t)^2."""
    nu, k = 0.03, torch.arange(9, dtype=torch.float64)
    decay = torch.exp(-nu * k**2)
    start = normals(14, 20, 1, 17)
    frames = torch.stack([torch.fft.irfft(torch.fft.rfft(start) * decay**t, n=17) for t in range(6)], 1)
    kind, network = SemilinearObserver(modes=17), ObserverNetwork(Semigroup(1, 17, 1).double(), Zero(), Zero())
    prepare(kind, network, frames)
    found = torch.view_as_complex(network.semigroup.multiplier)[0].clone()  # type: ignore[arg-type]
    torch.testing.assert_close(found, decay.to(found), rtol=0, atol=1e-12)
    made = rollout(kind, Dynamics(network, torch.ones(1, 1).double()), frames[:, :1], 5, none(20), tuple(range(20)))
    torch.testing.assert_close(made, frames[:, 1:], rtol=0, atol=1e-12)
    prepare(kind, network, frames[:, ::2])
    squared = torch.view_as_complex(network.semigroup.multiplier)[0]  # type: ignore[arg-type]
    torch.testing.assert_close(squared, found**2, rtol=0, atol=1e-12)


def test_the_semigroup_of_a_shift_in_two_dimensions() -> None:
    u = torch.fft.rfft2(normals(15, 6, 2, 10, 12))
    u[..., 4:7, :] = 0  # modes up to 3 in the first, up to 4 in the second dimension
    u[..., 5:] = 0
    u = torch.fft.irfft2(u, s=(10, 12))
    moved = torch.stack((u[:, 0].roll((1, 2), (-2, -1)), 0.5 * u[:, 1]), 1)
    semigroup = Semigroup(2, 9, 2).double()
    semigroup.fit(u, moved)
    torch.testing.assert_close(semigroup(u), moved, rtol=0, atol=1e-12)
    torch.testing.assert_close(Semigroup(2, 9, 2).double()(u), u, rtol=0, atol=1e-12)  # fresh: the identity
    wide = torch.fft.irfft2(torch.nn.functional.pad(torch.fft.rfft2(u), (0, 5)), s=(10, 22))  # the same on another grid
    torch.testing.assert_close(semigroup(wide)[:, 1], 0.5 * wide[:, 1], rtol=0, atol=1e-12)
    with pytest.raises(ValueError, match="modes=9 need as many cells"):
        semigroup(u[..., :8])


def test_loss_is_the_error_of_predictions_corrections_and_a_step() -> None:
    """Without readings and with G = 0 all states but the corrected first one are S^k of the guess."""
    kind = SemilinearObserver(unroll=2, blank=1.0, missing=1.0, noise=0.0)
    window, A = normals(16, 5, 3, 1, POINTS), matrix()
    found = kind.loss(observer(torch.zeros(POINTS, POINTS).double()), window, none(5), seed=1)
    readings, mask = kind.read(window, 1)
    x = [kind._poor(window[:, 0], 1)]
    for _ in range(2):
        x.append(x[-1] @ A.T)
    states = torch.stack(x, 1)  # a gain of zero: readings change nothing
    assert mask.shape == window.shape
    assert torch.equal(readings, window)
    size = torch.log1p(((states - window) / 0.4).square().mean((2, 3)).sqrt() / 0.05)
    step = torch.log1p(((window[:, 1] @ A.T - window[:, 2]) / 0.4).square().mean((1, 2)).sqrt() / 0.05)
    torch.testing.assert_close(found, (size.mean(1) + size[:, 1:].mean(1) + step) / 3, rtol=1e-6, atol=0)


def test_rows_may_have_a_difference_each() -> None:
    """As in training: the sizes of a batch's strides, (batch, channel, 1)."""
    kind, window = SemilinearObserver(unroll=3), normals(17, 4, 4, 1, POINTS)
    one = observer(torch.eye(POINTS).double())
    each = Dynamics(one.network, torch.full((4, 1, 1), 0.4).double())
    torch.testing.assert_close(kind.loss(each, window, none(4), 2), kind.loss(one, window, none(4), 2))


@pytest.mark.parametrize("space", [(24,), (8, 12)])
def test_readings_lie_on_a_lattice_and_are_there_as_often_as_said(space: tuple[int, ...]) -> None:
    kind = SemilinearObserver(spacing=4, missing=0.5, blank=0.6, noise=0.1)
    rows = 4000
    window = torch.zeros(rows, 3, 2, *space, dtype=torch.float64)
    readings, mask = kind.read(window, seed=4)
    assert mask.shape == window.shape
    assert float(readings.std()) == pytest.approx(0.1, rel=5.5 / math.sqrt(2 * readings.numel()))
    for axis in range(3, 3 + len(space)):
        along = mask.movedim(axis, 1).flatten(2).any(2)
        residues = along.reshape(rows, -1, 4).any(1)
        assert int(residues.sum(1).max()) == 1  # one point of four along every axis
        assert (residues.sum(0) > rows / 8).all()  # and each of them as likely
    # a frame is there with probability 1 - 0.3, a reading of it with 1 - 0.25, both averaged over the windows
    share = float(mask.double().mean()) * 4 ** len(space)
    assert share == pytest.approx(0.7 * 0.75, abs=5.5 * 0.35 / math.sqrt(rows))
    gone = ~mask.flatten(2).any(2)
    assert float(gone.double().mean()) == pytest.approx(0.3, abs=5.5 * 0.35 / math.sqrt(rows) + 0.01)


def test_a_network_without_the_parts_is_refused() -> None:
    kind, plain = SemilinearObserver(), Dynamics(Zero(), torch.ones(1, 1).double())
    with pytest.raises(TypeError, match="needs an ObserverNetwork, not Zero"):
        kind.step(plain, normals(1, 1, 1, 1, 8), none(1), (0,))
    assert not isinstance(assembled(OneStep(), DilatedResNet(8), 1, 1, 0, inputs=1, labels=1), ObserverNetwork)
