"""Draws of trajectories by backward simulation against the Kalman smoother, and their independence of ancestors."""

from __future__ import annotations

import torch
from test_references_series import MATRIX, OFFSET, joint, model, normals

from pdediff.diffusion import isotropic
from pdediff.observe import GaussianNoise, Observation, PointSensors
from pdediff.posterior import BootstrapFilter, ParticleSmoother, StateSpace, kalman_smoother


def test_trajectories_have_the_joint_law():
    """All 18 means and 171 covariances over 16 runs, in standard errors of the runs; 9 is passed once in 5e6."""
    exact, _ = joint()
    runs = [ParticleSmoother(particles=2000)(model(), 500, seed).flatten(1) for seed in range(16)]
    means = torch.stack([x.mean(0) for x in runs])
    assert ((means.mean(0) - exact.mean.flatten()) / (means.std(0) / 4)).abs().max() < 9
    spreads = torch.stack([(x - exact.mean.flatten()).T @ (x - exact.mean.flatten()) / len(x) for x in runs])
    assert ((spreads.mean(0) - exact.covariance) / (spreads.std(0) / 4)).abs().max() < 9


def test_early_frames_do_not_stem_from_few_roots():
    """Forty frames: 2000 lines of ancestors end in few roots, 400 draws in as many states as 400 draws have."""
    sensors = PointSensors(torch.zeros(1, 1, dtype=torch.long), torch.ones(1, 1, dtype=torch.float64))
    law = GaussianNoise(torch.tensor([1.0], dtype=torch.float64))
    seen = tuple(Observation(y, sensors, law) for y in normals(30, 40, 1))
    long = StateSpace(normals(31, 3), isotropic((3,), 1.0), lambda x: x @ MATRIX.T + OFFSET, isotropic((3,), 0.2), seen)
    exact, n = kalman_smoother(long), 400
    drawn = ParticleSmoother(particles=2000)(long, n, 0)
    assert BootstrapFilter(particles=2000)(long, 0).distinct_roots[0] < 300
    assert len(torch.unique(drawn[:, 0], dim=0)) > 320
    variance = exact.covariance.diagonal(dim1=1, dim2=2)
    off = (drawn.mean(0) - exact.mean) / variance.sqrt()
    assert off.abs().max() < 0.3  # six standard errors of 400 draws
    assert (drawn.var(0) / variance).log().abs().max() < 0.45


def test_a_draw_is_a_function_of_the_seed():
    first, again, other = (ParticleSmoother(particles=300)(model(), 5, seed) for seed in (0, 0, 1))
    assert torch.equal(first, again)
    assert not torch.equal(first, other)
    assert torch.equal(ParticleSmoother(particles=300)(model(), 3, 0), first[:3])
