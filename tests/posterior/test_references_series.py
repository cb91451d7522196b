"""Filters and smoothers of time series against the dense joint Gaussian."""

from __future__ import annotations

import math
from functools import cache

import pytest
import torch

from pdediff.diffusion import DenseCovariance, GaussianPrior, isotropic
from pdediff.errors import ConfigError
from pdediff.observe import CorrelatedGaussianNoise, Differentiable, GaussianNoise, Observation, PointSensors
from pdediff.posterior import BootstrapFilter, StateSpace, kalman_smoother

FRAMES = 6


def normals(seed: int, *shape: int) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


MATRIX, OFFSET = 0.9 * torch.linalg.qr(normals(0, 3, 3)).Q, 0.3 * normals(1, 3)
ROWS = normals(2, 2, 3)


def advance(x: torch.Tensor) -> torch.Tensor:
    return (x.flatten(1) @ MATRIX.T + OFFSET).reshape(x.shape)


def positive(seed: int, size: int, least: float) -> torch.Tensor:
    a = normals(seed, size, size)
    return a @ a.T + least * torch.eye(size, dtype=torch.float64)


@cache
def model() -> StateSpace:
    """Three numbers, six frames, two of them without readings, one with correlated errors."""
    operator = PointSensors(torch.arange(3).expand(2, 3).contiguous(), ROWS)
    laws = [GaussianNoise(torch.tensor([0.5, 0.7], dtype=torch.float64))] * (FRAMES - 1)
    laws.insert(1, CorrelatedGaussianNoise.of(positive(3, 2, 0.1)))
    seen = tuple(None if k in (2, 5) else Observation(normals(4 + k, 2), operator, law) for k, law in enumerate(laws))
    initial, error = DenseCovariance(positive(20, 3, 0.5), (1, 3)), DenseCovariance(0.1 * positive(21, 3, 0.1), (1, 3))
    return StateSpace(normals(22, 1, 3), initial, advance, error, seen)


@cache
def joint(frames: int = FRAMES) -> tuple[GaussianPrior, float]:
    """Posterior and evidence of all frames at once, given the readings of the first `frames`."""
    m, lift = model(), torch.eye(3 * FRAMES, dtype=torch.float64)
    blocks, mean = [m.initial.matrix], [m.mean.flatten()]
    for k in range(1, FRAMES):
        lift[3 * k : 3 * k + 3] += MATRIX @ lift[3 * k - 3 : 3 * k]
        blocks.append(m.error.matrix)
        mean.append(OFFSET)
    prior = GaussianPrior((lift @ torch.cat(mean)).reshape(FRAMES, 3), lift @ torch.block_diag(*blocks) @ lift.T)
    seen = [(k, o) for k, o in enumerate(m.observations[:frames]) if o is not None]
    rows, laws = torch.zeros(2 * len(seen), 3 * FRAMES, dtype=torch.float64), []
    for i, (k, observation) in enumerate(seen):
        rows[2 * i : 2 * i + 2, 3 * k : 3 * k + 3] = ROWS
        root = observation.noise.whitening()(torch.eye(2, dtype=torch.float64))
        laws.append(torch.linalg.inv(root @ root.T))
    return prior.condition(rows, torch.cat([o.y for _, o in seen]), torch.block_diag(*laws))


def test_the_smoother_is_the_joint_gaussian():
    found, (exact, evidence) = kalman_smoother(model()), joint()
    torch.testing.assert_close(found.mean.flatten(), exact.mean.flatten())
    assert found.log_evidence == pytest.approx(evidence, abs=1e-9)
    for k in range(FRAMES):
        block = exact.covariance[3 * k : 3 * k + 3]
        torch.testing.assert_close(found.covariance[k], block[:, 3 * k : 3 * k + 3])
        if k + 1 < FRAMES:
            torch.testing.assert_close(found.gains[k] @ found.covariance[k + 1], block[:, 3 * k + 3 : 3 * k + 6])


def test_the_filter_is_the_joint_gaussian_of_the_readings_so_far():
    found = kalman_smoother(model())
    for k in range(FRAMES):
        exact, _ = joint(k + 1)
        torch.testing.assert_close(found.filtered[k].flatten(), exact.mean[k])
        block = exact.covariance[3 * k : 3 * k + 3, 3 * k : 3 * k + 3]
        torch.testing.assert_close(found.filtered_covariance[k], block)


def test_smoother_draws_have_the_joint_law():
    """All 18 means and 171 covariances of 4000 draws within 6 standard errors: a false alarm in 2e6."""
    n, (exact, _) = 4000, joint()
    x = kalman_smoother(model()).draw(n, 0).flatten(1)
    spread = exact.covariance.diagonal()
    assert ((x.mean(0) - exact.mean.flatten()) / (spread / n).sqrt()).abs().max() < 6
    error = (spread[:, None] * spread + exact.covariance**2) / n
    assert ((torch.cov(x.T) - exact.covariance) / error.sqrt()).abs().max() < 6


@pytest.mark.parametrize("shape", [(1, 3), (3, 1)])
def test_one_frame_without_model_error_is_conditioning(shape):
    m = model()
    initial = DenseCovariance(m.initial.matrix, shape)
    single = StateSpace(m.mean.reshape(shape), initial, advance, isotropic(shape, 0.0), m.observations[:1])
    exact, evidence = GaussianPrior(m.mean, m.initial.matrix).condition(
        ROWS, m.observations[0].y, torch.diag(m.observations[0].noise.std ** 2)
    )
    found = kalman_smoother(single)
    torch.testing.assert_close(found.mean[0].flatten(), exact.mean.flatten())
    assert found.log_evidence == pytest.approx(evidence)
    assert found.draw(3, 0).shape == (3, 1, *shape)


class Square(Differentiable):
    def __call__(self, x: torch.Tensor) -> torch.Tensor:
        return x.flatten(1)[:, :2] ** 2


def test_what_is_not_linear_is_refused():
    m = model()
    bent = StateSpace(m.mean, m.initial, lambda x: x**2, m.error, m.observations)
    with pytest.raises(ConfigError, match="affine step"):
        kalman_smoother(bent)
    first = m.observations[0]
    seen = StateSpace(m.mean, m.initial, advance, m.error, (Observation(first.y, Square(), first.noise),))
    with pytest.raises(ConfigError, match="linear operators") as caught:
        kalman_smoother(seen)
    assert "BootstrapFilter" in str(caught.value.hint)
    with pytest.raises(ConfigError, match="at least one frame"):
        StateSpace(m.mean, m.initial, advance, m.error, ())


def test_the_particle_filter_has_the_kalman_moments():
    """16 runs of 4000: means, variances and evidence in standard errors over the runs, t bounds for a 1e-6 alarm."""
    exact, (posterior, evidence) = kalman_smoother(model()), joint()
    runs = [BootstrapFilter(particles=4000)(model(), seed) for seed in range(16)]
    # A t of 15 degrees of freedom: 9 is passed once in 5e6, and there are 55 numbers.
    for name, value in (("mean", exact.filtered), ("variance", exact.filtered_covariance.diagonal(dim1=1, dim2=2))):
        found = torch.stack([getattr(run, name).flatten() for run in runs])
        z = (found.mean(0) - value.flatten()) / (found.std(0) / 4)
        print(f"{name}: largest z {float(z.abs().max()):.1f}, spread of a run {float(found.std(0).max()):.3f}")
        assert z.abs().max() < 9
    ratios = torch.tensor([math.exp(run.log_evidence - evidence) for run in runs], dtype=torch.float64)
    z = float((ratios.mean() - 1) / (ratios.std() / 4))
    print(f"evidence / exact {float(ratios.mean()):.3f}, spread of a run {float(ratios.std()):.3f}")
    assert abs(z) < 9
    assert ratios.std() < 0.3
    told = sum(run.evidence_variance for run in runs) / 16
    assert 0.2 < told / float(ratios.var()) < 5
    paths = torch.stack([torch.tensordot(run.log_weights.exp(), run.paths, dims=1).flatten() for run in runs])
    assert ((paths.mean(0) - posterior.mean.flatten()) / (paths.std(0) / 4)).abs().max() < 9


def test_paths_are_lines_of_ancestors():
    """Without model error every step of a path is the model's own, so a wrong ancestor shows."""
    m = model()
    still = StateSpace(m.mean, m.initial, advance, isotropic((1, 3), 0.0), m.observations)
    found = BootstrapFilter(particles=200, threshold=0.9)(still, 0)
    for k in range(FRAMES - 1):
        torch.testing.assert_close(found.paths[:, k + 1], advance(found.paths[:, k]))
    roots = found.distinct_roots
    assert roots[0] < 150
    assert bool((roots.diff() >= 0).all())
    torch.testing.assert_close(torch.tensordot(found.log_weights.exp(), found.paths[:, -1], dims=1), found.mean[-1])


def test_the_particle_filter_takes_any_operator_and_repeats():
    m = model()
    first = m.observations[0]
    law = GaussianNoise(torch.tensor([0.3, 0.3], dtype=torch.float64))
    seen = tuple(Observation(first.y.abs() + 0.1 * k, Square(), law) for k in range(3))
    bent = StateSpace(m.mean, m.initial, lambda x: x + 0.1 * torch.sin(x), m.error, seen)
    runs = [BootstrapFilter(particles=500)(bent, seed) for seed in (0, 0, 1)]
    assert torch.equal(runs[0].mean, runs[1].mean)
    assert not torch.equal(runs[0].mean, runs[2].mean)
    assert torch.isfinite(runs[0].mean).all()
