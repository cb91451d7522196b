"""Steering by rewards keeps its law under any resampling; islands agree with their own error bars."""

from __future__ import annotations

import itertools
import math

import numpy as np
import pytest
import torch

from pdediff.diffusion import GaussianPrior
from pdediff.observe import GaussianNoise, Observation, PointSensors
from pdediff.posterior import Draws, FKSteering, Islands, TwistedSMC, between, smc, together
from pdediff.types import Purpose, derive_many

PRIOR = GaussianPrior(torch.tensor([[0.3]], dtype=torch.float64), torch.tensor([[1.0]], dtype=torch.float64))
POTENTIALS = ("difference", "max", "sum")


def observation(noise: float = 1.0) -> Observation:
    operator = PointSensors(torch.tensor([[0]]), torch.ones(1, 1, dtype=torch.float64))
    return Observation(torch.tensor([1.0]).double(), operator, GaussianNoise(torch.tensor([noise]).double()))


@pytest.mark.parametrize("potential", POTENTIALS)
@pytest.mark.parametrize("threshold", [0.0, 0.9, 1.0])
def test_any_threshold_gives_the_same_law(potential, threshold):
    """Z and Z E[x] of 120 runs within five standard errors of those of the reference chain, a Gaussian.

    The published class drops the increment of a step without resampling: at a threshold of 0.9 its law is another.
    """
    method = FKSteering(potential, strength=0.8, every=3, steps=12, sigma_max=10.0, sigma_min=0.1)
    o = observation()
    chain = method.chain(PRIOR, o.log_prob)
    variance = 1 + chain.levels[0] ** 2
    for sigma, target in itertools.pairwise(chain.levels):
        keep = (target / sigma) ** 2
        variance = (keep + (1 - keep) / (1 + sigma**2)) ** 2 * variance + target**2 * (1 - keep)
    x = torch.linspace(-8, 8, 16001, dtype=torch.float64)
    log = -((x - 0.3) ** 2) / (2 * variance) - 0.8 * 0.5 * ((1 - x) ** 2 + math.log(2 * math.pi))
    joint = log.exp() / math.sqrt(2 * math.pi * variance) * (x[1] - x[0])
    exact = np.array([float(joint.sum()), float((joint * x).sum())])
    found = []
    for r in range(120):
        result = smc(chain, derive_many(r, Purpose.STEP, range(24)), seed=r, threshold=threshold)
        z = math.exp(result.log_evidence)
        found.append((z, z * float(result.log_weights.exp() @ result.state[0].flatten())))
    found = np.array(found) / exact
    error = found.std(0) / math.sqrt(len(found))
    print(f"{potential}, threshold {threshold}: {found.mean(0).round(4)} +- {error.round(4)}")
    assert (np.abs(found.mean(0) - 1) < 5 * error).all()
    assert (error < 0.12).all()


@pytest.mark.parametrize("potential", POTENTIALS)
def test_potentials_by_hand(potential):
    """Rewards r1 ... of one particle at the steps that count; in all the reward of the result."""
    method = FKSteering(potential, strength=0.5, every=2, steps=6, sigma_max=5.0, sigma_min=0.2)
    o = observation()
    chain = method.chain(PRIOR, o.log_prob)
    state, first = chain.start((4,))
    rewards, increments = [0.5 * float(o.log_prob(state[1]))], [float(first)]
    for step in range(6):
        state, increment = chain.move(state, step, (step,))
        increments.append(float(increment))
        if step == 5 or (step + 1) % 2 == 0:
            rewards.append(0.5 * float(o.log_prob(state[1])))
    r = rewards
    expected = {
        "difference": [r[1] - r[0], r[2] - r[1]],
        "max": [max(r[:2]), max(r[:3])],
        "sum": [r[0] + r[1], sum(r[:3])],
    }
    assert increments[0] == pytest.approx(r[0])
    assert [increments[2], increments[4]] == pytest.approx(expected[potential])
    assert [increments[1], increments[3], increments[5]] == [0, 0, 0]
    assert sum(increments) == pytest.approx(r[-1])


def run(value: float, evidence: float, n: int = 2) -> tuple[Draws, int]:
    x = value + torch.tensor([-1.0, 1.0], dtype=torch.float64).repeat(n // 2).reshape(n, 1, 1)
    return Draws.equal(x, {"log_evidence": evidence}), n


def test_spread_between_islands_by_hand():
    """Evidences 1 and 3, means 0 and 4: weights 1/4 and 3/4, merged mean 3."""
    told = between([run(0.0, math.log(1.0)), run(4.0, math.log(3.0))])
    assert told["log_evidence_spread"] == pytest.approx(math.log(3) / math.sqrt(2))
    assert told["log_evidence_error"] == pytest.approx(0.5 * math.sqrt(2) / math.sqrt(2))  # ratios 0.5 and 1.5
    assert told["island_ess"] == pytest.approx(1 / (1 / 16 + 9 / 16) / 2)
    error = 2 * (9 / 16 + 9 / 16)  # (1/4 * 3)^2 + (3/4 * 1)^2, times count / (count - 1)
    spread = torch.tensor([-1.0, 1.0, 3.0, 5.0]).var()
    assert told["mean_spread"] == pytest.approx(math.sqrt(error / float(spread)))
    assert between([run(0.0, 0.0)]) == {}
    merged = together([run(0.0, math.log(1.0)), run(4.0, math.log(3.0))])
    assert float(merged.log_weights.exp() @ merged.x.flatten()) == pytest.approx(3.0)
    assert merged.diagnostics["log_evidence_spread"] == told["log_evidence_spread"]


def test_islands_are_runs_of_their_own(mixture):
    """Every island is the posterior called with its own seed; draws that do not divide are shared out."""
    one = TwistedSMC(steps=4, particles_per_draw=3)
    found = Islands(one, 3)(mixture.prior, mixture.observation, 7, 5)
    assert len(found.x) == 7
    seeds = derive_many(5, Purpose.START, range(3))
    parts = [one(mixture.prior, mixture.observation, 3, seed) for seed in seeds]
    assert torch.equal(found.x, torch.cat([p.x[:n] for p, n in zip(parts, (2, 2, 3), strict=True)]))
    evidence = torch.tensor([p.diagnostics["log_evidence"] for p in parts])
    assert found.diagnostics["log_evidence"] == pytest.approx(float(evidence.logsumexp(0)) - math.log(3))
    assert len(Islands(one, 8)(mixture.prior, mixture.observation, 2, 0).x) == 2


def test_genealogy_agrees_with_the_spread_between_islands(mixture):
    """40 islands of 32: the standard deviation of log Z that one run tells, against that over islands, within 40 %."""
    one = TwistedSMC(steps=24, particles_per_draw=4)
    told = [one(mixture.prior, mixture.observation, 8, seed).diagnostics for seed in range(40)]
    log_z = np.array([float(d["log_evidence"]) for d in told])
    own = float(np.sqrt(np.mean([float(d["log_evidence_std"]) ** 2 for d in told])))
    print(f"log Z over islands {log_z.std(ddof=1):.3f}, by genealogy {own:.3f}")
    assert 0.6 < own / log_z.std(ddof=1) < 1.6
