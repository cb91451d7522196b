"""Resampling schemes by hand and by law; what the genealogy says of the variance, against the variance over runs."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import pytest
import torch

from pdediff.posterior import (
    SCHEMES,
    Snapshot,
    ancestors_at,
    effective_sample_size,
    genealogy_variance,
    smc,
    systematic,
)
from pdediff.posterior import collectors as collected
from pdediff.posterior.resampling import SchemeName, multinomial, resample, residual, ssp, stratified
from pdediff.types import Purpose, Seeds, derive_many, uniform

LEVEL = ("systematic", "ssp")
"""Schemes that give floor or ceil of n w_i copies."""


def vector(*values: float) -> torch.Tensor:
    return torch.tensor(values, dtype=torch.float64)


def test_schemes_by_hand():
    """Edges 0.1, 0.3, 1 and four ancestors of three particles."""
    w, u = vector(0.1, 0.2, 0.7), vector(0.5, 0.1, 0.9, 0.2)
    assert systematic(w, 4, u).tolist() == [1, 2, 2, 2]  # points 0.125, 0.375, 0.625, 0.875
    assert stratified(w, 4, u).tolist() == [1, 1, 2, 2]  # points 0.125, 0.275, 0.725, 0.8
    assert multinomial(w, 4, u).tolist() == [2, 1, 2, 1]
    # 4 w = 0.4, 0.8, 2.8: two sure copies of the last; left over 0.4, 0.8, 0.8, edges 0.2, 0.6, 1 of their sum.
    assert residual(w, 4, u[2:].repeat(2)).tolist() == [2, 2, 2, 1]
    # Fractions 0.4, 0.8 | 0.8, 0: of the first pair p is raised to 1 with probability 0.2 / 0.8, which u = 0.5 denies:
    # q is, p goes on with 0.2. The pad never wins. Then 0.2 and 0.8: p gets all with probability 0.2, and u = 0.9.
    assert ssp(w, 4, u).tolist() == [1, 2, 2, 2]
    assert ssp(w, 4, vector(0.1, 0.5, 0.9, 0.0)).tolist() == [0, 2, 2, 2]
    for scheme in SCHEMES.values():
        assert scheme(vector(0.0, 1.0, 0.0), 3, vector(0.0, 0.3, 0.9)).tolist() == [1, 1, 1]


@pytest.mark.parametrize("name", SCHEMES)
@pytest.mark.parametrize("n", [7, 20])
def test_offspring_are_n_times_the_weight_in_the_mean(name, n):
    """4000 keyed draws; the mean of each count within 5.5 of its standard errors: false alarm 5e-7 over all."""
    weights = torch.rand(7, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    weights[3] = 0.0
    weights /= weights.sum()
    us = uniform(derive_many(1, Purpose.RESAMPLE, range(4000)), (20,))
    copies = torch.stack([torch.bincount(SCHEMES[name](weights, n, u), minlength=7) for u in us]).double()
    assert (copies.sum(1) == n).all()
    error = copies.std(0).clamp(min=1e-12) / math.sqrt(len(copies))
    assert ((copies.mean(0) - n * weights).abs() <= 5.5 * error + 1e-9).all()
    if name in LEVEL:
        assert (copies >= (n * weights - 1e-9).floor()).all()
        assert (copies <= (n * weights + 1e-9).ceil()).all()
    # Independent draws have variance n w (1 - w); every other scheme has less in all.
    ratio = float(copies.var(0).sum() / (n * weights * (1 - weights)).sum())
    assert 0.95 < ratio < 1.05 if name == "multinomial" else ratio < 0.85


@pytest.mark.parametrize("name", SCHEMES)
def test_equal_weights_keep_every_particle(name):
    """All but the independent draws: nothing is lost where nothing is to be chosen, in single precision too."""
    for n in (1, 2, 6, 64):
        found = resample(name, torch.full((n,), 3.7), n, 5, 0)
        assert len(found) == n
        if name != "multinomial":
            assert found.tolist() == list(range(n))


@pytest.mark.parametrize("name", SCHEMES)
def test_more_ancestors_than_particles_and_fewer(name):
    """A published inverse of the distribution function stopped at the wrong count, which showed only there."""
    for n in (1, 3, 40):
        assert resample(name, vector(-math.inf, 0.0, -math.inf, -math.inf), n, 1, 2).tolist() == [1] * n
        found = resample(name, torch.zeros(4), n, 1, 2)
        assert len(found) == n
        assert int(found.max()) < 4
    assert torch.bincount(resample(name, torch.zeros(4), 4000, 1, 2)).min() > 800


def test_islands_and_steps_have_their_own_uniforms():
    w = torch.rand(50, generator=torch.Generator().manual_seed(1)).log()
    first = resample("multinomial", w, 50, 1, 0)
    assert torch.equal(first, resample("multinomial", w, 50, 1, 0))
    assert not torch.equal(first, resample("multinomial", w, 50, 2, 0))
    assert not torch.equal(first, resample("multinomial", w, 50, 1, 1))


def test_effective_sample_size_by_hand():
    assert effective_sample_size(vector(-3.0, -3.0, -3.0)) == pytest.approx(3)
    assert effective_sample_size(vector(5.0, 5.0, -math.inf)) == pytest.approx(2)
    assert effective_sample_size(vector(0.7, 0.2, 0.1).log() + 1000) == pytest.approx(1 / 0.54)


def test_collectors_by_hand():
    """Weights 0.5, 0.3, 0.2 before a move that multiplies them by 1, 2 and 0; two roots left."""
    before, increment = vector(0.5, 0.3, 0.2).log(), vector(1.0, 2.0, 0.0).log()
    now = Snapshot((), before + 7 + increment, increment, before, torch.tensor([2, 0, 2]), vector(4.0)[0])
    found = {name: float(c(now)) for name, c in collected.COLLECTORS.items()}
    assert found["ess"] == pytest.approx(1.1**2 / (0.25 + 0.36))
    assert found["conditional_ess"] == pytest.approx(3 * 1.1**2 / (0.5 + 1.2))
    assert found["max_weight"] == pytest.approx(0.6 / 1.1)
    assert found["distinct_roots"] == 2
    assert found["log_evidence"] == pytest.approx(4 + 7 + math.log(1.1 / 3))
    p = 0.3 / 0.8  # a particle of no weight left has no logarithm: the variance is that of the others
    assert found["increment_variance"] == pytest.approx(p * (1 - p) * math.log(2) ** 2)


@dataclass(frozen=True)
class Walk:
    """x moves by a standard normal number; weighted by exp(-(x - t)^2 / 4) at each time t."""

    steps: int = 4

    def start(self, seeds: Seeds):
        return self.move((torch.zeros(len(seeds), dtype=torch.float64),), -1, seeds)

    def move(self, state, step: int, seeds: Seeds):
        x = state[0] + torch.special.ndtri(uniform(seeds, ()).clamp(1e-12, 1 - 1e-12))
        return (x,), -((x - step) ** 2) / 4


def runs(threshold: float, scheme: SchemeName, count: int, particles: int):
    return [
        smc(Walk(), derive_many(r, Purpose.STEP, range(particles)), seed=r, threshold=threshold, scheme=scheme)
        for r in range(count)
    ]


def test_genealogy_without_resampling_is_the_sample_variance():
    one = runs(0.0, "systematic", 1, 50)[0]
    w = (one.log_weights.exp() * 50).numpy()
    assert one.evidence_variance() == pytest.approx(w.var(ddof=1) / 50)
    x = one.state[0]
    centred = one.log_weights.exp() * (x - one.log_weights.exp() @ x)
    assert float(one.variance(x)) == pytest.approx(float((centred**2).sum()) * 50 / 49)


def test_genealogy_variance_is_unbiased():
    """E[Z^2 V] = Var Z with multinomial resampling at every step, and no resampling: five standard errors.

    Both sides from 1000 runs of 12 particles; Var Z = E Z^2 - (E Z)^2 with its own error by the delta method.
    """
    for threshold in (1.0, 0.0):
        found = runs(threshold, "multinomial", 1000, 12)
        z = np.exp([r.log_evidence for r in found])
        z /= z.mean()
        difference = z**2 * [r.evidence_variance() for r in found] - (z - z.mean()) ** 2
        error = difference.std() / math.sqrt(len(z))
        print(f"threshold {threshold}: variance of Z {z.var():.4f}, by genealogy off by {difference.mean():+.5f}")
        assert abs(difference.mean()) < 5 * error
        assert z.var() > 10 * error  # the bound means something


@pytest.mark.parametrize("scheme", SCHEMES)
def test_genealogy_variance_of_a_mean_agrees_with_that_over_runs(scheme):
    """Adaptive resampling, 400 runs of 64: a consistent estimate; schemes better than multinomial lie below it."""
    found = runs(0.6, scheme, 400, 64)
    means = np.array([float(r.log_weights.exp() @ r.state[0]) for r in found])
    told = np.array([float(r.variance(r.state[0])) for r in found])
    ratio = means.var(ddof=1) / told.mean()
    print(f"{scheme}: variance of the mean {means.var():.2e}, by genealogy {told.mean():.2e}, ratio {ratio:.2f}")
    # 400 runs: the ratio has standard error sqrt(2 / 400) = 0.07; five of them, and 10 % for 64 particles.
    assert (0.55 if scheme == "multinomial" else 0.35) < ratio < 1.45


def test_ancestors_with_a_lag():
    first, second = torch.tensor([0, 0, 2]), torch.tensor([1, 2, 2])
    assert ancestors_at((first, second), 3).tolist() == [0, 2, 2]
    assert ancestors_at((first, second), 3, lag=1).tolist() == [1, 2, 2]
    assert ancestors_at((first, second), 3, lag=9).tolist() == [0, 2, 2]
    assert ancestors_at((), 3).tolist() == [0, 1, 2]
    assert ancestors_at((first,), 3, lag=0).tolist() == [0, 1, 2]
    one = runs(1.0, "systematic", 1, 20)[0]
    assert torch.equal(ancestors_at(one.ancestors, 20), one.roots)


def test_one_root_has_no_variance_to_tell():
    w = torch.zeros(5, dtype=torch.float64)
    assert float(genealogy_variance(w, torch.zeros(5, dtype=torch.long), 3)) == 1.0
    assert float(genealogy_variance(w, torch.zeros(5, dtype=torch.long), 3, torch.arange(5.0))) == pytest.approx(0)
