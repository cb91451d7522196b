"""Ensemble Kalman filter and 3D-Var against Kalman's formulas."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest
import torch
from torch import Tensor

from pdediff.diffusion import DenseCovariance, isotropic
from pdediff.errors import ConfigError
from pdediff.observe import Differentiable, GaussianNoise, Observation, PointSensors
from pdediff.posterior import EnsembleKalmanFilter, StateSpace, ThreeDVar, gaspari_cohn, kalman_smoother

SIZE, FRAMES = 6, 5


def normals(seed: int, *shape: int) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


TURN = 1.1 * torch.linalg.qr(normals(0, SIZE, SIZE)).Q


def advance(x: Tensor) -> Tensor:
    return (x.flatten(1) @ TURN.T + 0.2).reshape(x.shape)


def reading(seed: int) -> Observation:
    operator = PointSensors(torch.arange(SIZE).expand(3, SIZE).contiguous(), normals(seed, 3, SIZE))
    return Observation(normals(seed + 50, 3), operator, GaussianNoise(torch.tensor([0.5, 0.7, 1.0]).double()))


def model(error: float = 0.0, gap: int | None = 2) -> StateSpace:
    spread = normals(1, SIZE, SIZE)
    initial = DenseCovariance(spread @ spread.T / SIZE, (1, SIZE))
    seen = tuple(None if k == gap else reading(10 + k) for k in range(FRAMES))
    return StateSpace(normals(2, 1, SIZE), initial, advance, isotropic((1, SIZE), error), seen)


def same_moments(m: StateSpace, seed: int, members: int) -> StateSpace:
    """The model whose initial law is that of the ensemble that the filter will draw."""
    first = EnsembleKalmanFilter(members, inflation=1.0)(replace(m, observations=(None,)), seed)
    start = first.members[0].flatten(1)
    return replace(m, mean=start.mean(0).reshape(m.shape), initial=DenseCovariance(torch.cov(start.T), m.shape))


def test_transform_is_kalmans_formula_for_its_own_ensemble() -> None:
    """Deterministic affine dynamics: mean and covariance of the members are the Kalman filter's, at any size > d."""
    m, members = model(), 12
    found = EnsembleKalmanFilter(members, inflation=1.0)(m, seed=3)
    exact = kalman_smoother(same_moments(m, 3, members))
    torch.testing.assert_close(found.mean, exact.filtered, rtol=0, atol=1e-10)
    for k in range(FRAMES):
        torch.testing.assert_close(
            torch.cov(found.members[k].flatten(1).T), exact.filtered_covariance[k], rtol=0, atol=1e-10
        )
    torch.testing.assert_close(found.forecast[2], found.mean[2])  # nothing is seen there
    smooth = EnsembleKalmanFilter(members, inflation=1.0, lag=FRAMES)(m, seed=3).smoothed
    torch.testing.assert_close(smooth, exact.mean, rtol=0, atol=1e-10)  # the Rauch-Tung-Striebel smoother


def test_late_readings_count_as_if_they_had_come_in_time() -> None:
    """The reading of frame 1 arrives at frame 3: from then on nothing differs, and the past is mended too."""
    m = model(gap=None)
    filter_ = EnsembleKalmanFilter(10, inflation=1.0, lag=3)
    whole = filter_(m, seed=4)
    held = tuple(None if k == 1 else o for k, o in enumerate(m.observations))
    delayed = m.observations[1]
    assert delayed is not None
    found = filter_(replace(m, observations=held), seed=4, late={3: [(2, delayed)]})
    torch.testing.assert_close(found.mean[3:], whole.mean[3:], rtol=0, atol=1e-9)
    torch.testing.assert_close(found.variance[3:], whole.variance[3:], rtol=0, atol=1e-9)
    torch.testing.assert_close(found.smoothed[1:], whole.smoothed[1:], rtol=0, atol=1e-9)


@pytest.mark.parametrize("update", ["transform", "stochastic"])
def test_many_members_give_the_kalman_filter(update: str) -> None:
    """Errors of sample moments: 6 / sqrt(members) of the largest spread, with noise in the dynamics."""
    m, members = model(error=0.1), 20_000
    found = EnsembleKalmanFilter(members, update=update, inflation=1.0)(m, seed=5)  # type: ignore[arg-type]
    exact = kalman_smoother(m)
    spread = exact.filtered_covariance.diagonal(dim1=1, dim2=2).reshape(found.mean.shape)
    limit = 6 * math.sqrt(float(exact.filtered_covariance[0].trace()) * 3 / members)
    torch.testing.assert_close(found.mean, exact.filtered, rtol=0, atol=limit)
    torch.testing.assert_close(found.variance, spread, rtol=0.1, atol=0)


def test_taper_is_a_correlation_with_finite_reach() -> None:
    taper = gaspari_cohn((2, 40), 4.0, periodic=True)
    torch.testing.assert_close(taper.diagonal(), torch.ones(80).double())
    assert float(taper[0, 4]) == pytest.approx(5 / 24)  # the published value at one radius
    assert taper[0, 8] == 0
    assert float(taper[0, 39]) == float(taper[0, 1])  # around the ring
    assert gaspari_cohn((1, 40), 4.0, periodic=False)[0, 39] == 0
    torch.testing.assert_close(taper[:40, 40:], taper[:40, :40])
    assert float(torch.linalg.eigvalsh(gaspari_cohn((1, 40), 10.0, periodic=True)).min()) > -1e-12
    with pytest.raises(ConfigError, match=r"radius=10\.5 is more than a quarter of the 40 cells"):
        gaspari_cohn((1, 40), 10.5, periodic=True)


def test_wide_taper_changes_nothing_and_a_narrow_one_keeps_away() -> None:
    """One sensor at point 0: beyond two radii nothing moves; with a radius far beyond the domain all is as without."""
    sensor = Observation(
        torch.ones(1).double(),
        PointSensors.at([0], torch.zeros(1, 1).double(), (1, 30), periodic=True),
        GaussianNoise(torch.full((1,), 0.3).double()),
    )
    m = StateSpace(torch.zeros(1, 30).double(), isotropic((1, 30), 1.0), advance, isotropic((1, 30), 0.0), (sensor,))

    def mean(radius: float | None) -> Tensor:
        return EnsembleKalmanFilter(12, "stochastic", 1.0, radius=radius, periodic=radius == 3.0)(m, seed=6).mean[0, 0]

    before = EnsembleKalmanFilter(12, "stochastic", 1.0)(replace(m, observations=(None,)), seed=6).mean[0, 0]
    torch.testing.assert_close(mean(1e6), mean(None), rtol=0, atol=1e-8)
    moved = (mean(3.0) - before).abs() > 1e-12
    assert moved[[0, 1, 5, 29, 25]].all()
    assert not moved[6:25].any()


def test_inflation_and_relaxation() -> None:
    m = model()
    plain = EnsembleKalmanFilter(12, inflation=1.0)(replace(m, observations=(None, None)), seed=7)
    wide = EnsembleKalmanFilter(12, inflation=1.5)(replace(m, observations=(None, None)), seed=7)
    torch.testing.assert_close(wide.variance[1], 2.25 * plain.variance[1])
    torch.testing.assert_close(wide.mean[1], plain.mean[1])
    one = replace(m, observations=m.observations[:1])
    before = EnsembleKalmanFilter(12, inflation=1.0)(replace(m, observations=(None,)), seed=7).variance[0].sqrt()
    after = EnsembleKalmanFilter(12, inflation=1.0)(one, seed=7).variance[0].sqrt()
    found = EnsembleKalmanFilter(12, inflation=1.0, relaxation=0.4)(one, seed=7).variance[0].sqrt()
    torch.testing.assert_close(found, after + 0.4 * (before - after))


def test_three_d_var_is_the_kalman_step_with_a_fixed_covariance() -> None:
    m = replace(model(), observations=model().observations[:2])
    background = DenseCovariance(torch.diag(torch.arange(1.0, 1 + SIZE).double()), m.shape)
    found = ThreeDVar(background)(m)
    x = m.mean.flatten()
    for k, B in enumerate((m.initial.matrix, background.matrix)):  # type: ignore[attr-defined]
        observation = m.observations[k]
        assert observation is not None
        H = observation.rows(m.mean).flatten(1)
        R = torch.diag(torch.tensor([0.5, 0.7, 1.0]).double() ** 2)
        x = x if k == 0 else TURN @ x + 0.2
        x = x + B @ H.T @ torch.linalg.inv(H @ B @ H.T + R) @ (observation.y - H @ x)
        torch.testing.assert_close(found[k].flatten(), x, rtol=0, atol=1e-10)


def test_what_does_not_go_together_is_refused() -> None:
    class Square(Differentiable):
        def __call__(self, x: Tensor) -> Tensor:
            return x.flatten(1)[:, :2] ** 2

    m = model()
    curved = Observation(torch.ones(2).double(), Square(), GaussianNoise(torch.ones(2).double()))
    bent = replace(m, observations=(curved,))
    with pytest.raises(ConfigError, match="radius=2 tapers a gain"):
        EnsembleKalmanFilter(radius=2.0)
    with pytest.raises(ConfigError, match="radius needs linear operators"):
        EnsembleKalmanFilter(12, "stochastic", radius=1.0)(bent, seed=0)
    with pytest.raises(ConfigError, match="lag=1 needs update=transform"):
        EnsembleKalmanFilter(12, "stochastic", lag=1)
    with pytest.raises(ConfigError, match="a reading comes 1 frames late, and lag=0"):
        EnsembleKalmanFilter(12)(m, seed=0, late={1: [(1, curved)]})
    with pytest.raises(ConfigError, match="ThreeDVar needs linear operators"):
        ThreeDVar(isotropic(m.shape, 1.0))(bent)
    found = EnsembleKalmanFilter(2000, inflation=1.0)(bent, seed=0)  # a nonlinear operator is fine without a radius
    assert torch.isfinite(found.mean).all()
