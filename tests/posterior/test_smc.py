"""Resampling, the engine, and twisted particles: exact on Gaussians, unbiased on a mixture."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import pytest
import torch

from pdediff.diffusion import GaussianFieldPrior, GaussianRandomField
from pdediff.errors import ConfigError, NumericalError
from pdediff.observe import Differentiable, Observation
from pdediff.posterior import (
    CalibratedGuidance,
    GuidedSampling,
    TwistedChain,
    TwistedSMC,
    smc,
)
from pdediff.samplers import DPMSolverPP, uniform_lambda
from pdediff.types import Purpose, Seeds, derive_many, uniform


def vector(*values: float) -> torch.Tensor:
    return torch.tensor(values, dtype=torch.float64)


@dataclass(frozen=True)
class Scripted:
    """State: which particle it was at the start; weights are read from a table (step, start)."""

    first: torch.Tensor
    table: torch.Tensor

    @property
    def steps(self) -> int:
        return len(self.table)

    def start(self, seeds: Seeds):
        return (torch.arange(len(seeds)),), self.first

    def move(self, state, step: int, seeds: Seeds):
        return state, self.table[step][state[0]]


def test_without_resampling_weights_multiply():
    model = Scripted(vector(1, 2, 3, 4).log(), torch.stack([vector(2, 2, 1, 1).log(), vector(1, 3, 1, 1).log()]))
    result = smc(model, range(4), seed=0, threshold=0.0)
    products = vector(2, 12, 3, 4)
    torch.testing.assert_close(result.log_weights.exp(), products / products.sum())
    assert result.log_evidence == pytest.approx(math.log(21 / 4))
    assert result.resampled.tolist() == [False, False, False]
    assert result.roots.tolist() == [0, 1, 2, 3]
    assert result.ess.tolist() == pytest.approx([100 / 30, 13**2 / 45, 21**2 / 173])


def test_resampling_resets_weights_and_books_the_evidence():
    """All weight on particle 2 at the start: afterwards four copies of it, whatever the offset."""
    model = Scripted(vector(0, 0, 8, 0).log(), torch.stack([vector(9, 9, 3, 9).log(), vector(9, 9, 5, 9).log()]))
    result = smc(model, range(4), seed=0, threshold=0.5)
    assert result.resampled.tolist() == [True, False, False]
    assert result.roots.tolist() == [2, 2, 2, 2]
    assert result.state[0].tolist() == [2, 2, 2, 2]
    assert result.log_evidence == pytest.approx(math.log(8 / 4 * 3 * 5))
    torch.testing.assert_close(result.log_weights.exp(), torch.full((4,), 0.25, dtype=torch.float64))
    assert result.ess.tolist() == pytest.approx([1, 4, 4])


def test_a_weight_that_is_not_a_number_counts_for_nothing():
    table = torch.stack([vector(1, math.nan, 1, 1).log()])
    result = smc(Scripted(vector(1, 1, 1, 1).log(), table), range(4), seed=0, threshold=0.0)
    torch.testing.assert_close(result.log_weights.exp(), vector(1, 0, 1, 1) / 3)
    result = smc(Scripted(vector(1, 1, math.nan, 1).log(), torch.zeros(1, 4)), range(4), seed=0, threshold=0.9)
    assert result.log_evidence == pytest.approx(math.log(3 / 4))


def test_zero_weights_are_an_error():
    none, some = torch.full((4,), -math.inf), torch.zeros(4)
    with pytest.raises(NumericalError, match="all 4 particles have zero weight at step 1 of 2"):
        smc(Scripted(some, torch.stack([some, none])), range(4), seed=0, threshold=0.5)
    with pytest.raises(NumericalError, match="all 4 particles have zero weight at the start"):
        smc(Scripted(none, torch.stack([some])), range(4), seed=0, threshold=0.5)


@dataclass(frozen=True)
class TwoStates:
    """A chain on {0, 1} that flips with probability 0.2, weighted by a potential at each of its five times."""

    potentials: torch.Tensor

    @property
    def steps(self) -> int:
        return len(self.potentials) - 1

    def start(self, seeds: Seeds):
        x = (uniform(seeds, ()) < 0.5).long()
        return (x,), self.potentials[0][x].log()

    def move(self, state, step: int, seeds: Seeds):
        x = state[0] ^ (uniform(seeds, ()) < 0.2).long()
        return (x,), self.potentials[step + 1][x].log()

    def exact(self) -> tuple[float, float]:
        """Evidence and the weighted mean of the last state by summing over paths."""
        law = torch.full((2,), 0.5, dtype=torch.float64) * self.potentials[0]
        kernel = torch.tensor([[0.8, 0.2], [0.2, 0.8]], dtype=torch.float64)
        for p in self.potentials[1:]:
            law = (law @ kernel) * p
        return float(law.sum()), float(law[1] / law.sum())


@pytest.mark.parametrize("threshold", [0.0, 0.7, 1.0])
def test_the_engine_is_unbiased(threshold):
    """Mean evidence over 1500 runs of eight particles against the sum over all paths, at five standard errors.

    The unnormalised estimate of P(last state = 1) is unbiased too. Two tests, three thresholds: false alarm 3e-6.
    """
    model = TwoStates(torch.tensor([[1.0, 0.3], [0.2, 2.0], [1.0, 1.5], [3.0, 0.1], [0.5, 2.5]], dtype=torch.float64))
    evidence, last = model.exact()
    found = []
    for run in range(1500):
        result = smc(model, derive_many(run, Purpose.STEP, range(8)), seed=run, threshold=threshold)
        z = math.exp(result.log_evidence)
        found.append((z, z * float((result.log_weights.exp() * result.state[0]).sum())))
    found = np.array(found)
    error = found.std(0) / math.sqrt(len(found))
    assert (np.abs(found.mean(0) - [evidence, evidence * last]) < 5 * error).all()


def gaussian_priors(case):
    """The same problem under white and coloured noise, as a field and as a matrix."""
    coloured = GaussianFieldPrior(case.prior.mean, case.prior.spectrum, GaussianRandomField(0.05, 1.5))
    return {"field": case.prior, "matrix": case.prior.dense(), "coloured": coloured}


@pytest.mark.parametrize("kind", ["field", "matrix", "coloured"])
@pytest.mark.parametrize("steps", [2, 5, 24])
def test_gaussian_evidence_is_exact_at_any_number_of_steps(field, kind, steps):
    """All weights are equal and their product is p(y): to 1e-8, for conjugate gradients stop at 1e-10."""
    method = TwistedSMC(steps=steps, particles_per_draw=1)
    found = method(gaussian_priors(field)[kind], field.observation, 6, 0).diagnostics
    assert found["log_evidence"] == pytest.approx(field.log_evidence, abs=1e-8)
    assert np.abs(found["ess"] - 1).max() < 1e-8
    assert found["distinct_roots"] == 6


@pytest.mark.parametrize("steps", [2, 6])
def test_gaussian_draws_are_exact_at_any_number_of_steps(field, moments, steps):
    """Moments of 600 draws from a handful of steps within five standard errors (a chi-square's tail: doubled)."""
    x = TwistedSMC(steps=steps, particles_per_draw=1)(field.prior, field.observation, 600, 1).x
    found = moments(x, field.posterior)
    assert abs(found.z_mean) < 10
    assert abs(found.z_spread) < 10
    white = field.observation.noise.whiten(field.observation.residual(x)).square().mean(0)
    exact = field.posterior
    misfit = (
        field.observation.residual(exact.mean[None])[0] ** 2 + (field.rows @ exact.covariance @ field.rows.T).diagonal()
    )
    assert (white / (misfit / 0.01) - 1).abs().max() < 6 * math.sqrt(2 / 600)


def test_weights_are_the_ratio_of_twists(mixture):
    """One start and one move by dense matrices: G(x_s) / p(y | x_s, x_t), with p(y) in front of the first."""
    prior, o, rows = mixture.prior, mixture.observation, mixture.rows
    chain = TwistedChain(prior, o, (3.0, 1.2, 0.0), o.rows(prior.mean))
    (x, estimate), log_weights = chain.start((1, 2, 3))
    eye = torch.eye(8, dtype=torch.float64)

    def normal(mean: torch.Tensor, covariance: torch.Tensor, at: torch.Tensor) -> torch.Tensor:
        return torch.distributions.MultivariateNormal(mean, covariance).log_prob(at)

    def twist(d: torch.Tensor, c: torch.Tensor) -> torch.Tensor:
        return normal(d @ rows.T, mixture.noise + rows @ c @ rows.T, o.y)

    def predicted(d: torch.Tensor, c: torch.Tensor, x: torch.Tensor, keep: float, target: float, old: torch.Tensor):
        """p(y | x_s, x_t) = p(y, x_s | x_t) / p(x_s | x_t) from the joint Gaussian of both."""
        share = 1 - keep
        joint = torch.zeros(11, 11, dtype=torch.float64)
        joint[:3, :3] = mixture.noise + rows @ c @ rows.T
        joint[3:, 3:] = share**2 * c + target**2 * share * eye
        joint[:3, 3:] = share * rows @ c
        joint[3:, :3] = joint[:3, 3:].T
        centre = keep * old + share * d
        both = normal(torch.cat([d @ rows.T, centre], 1), joint, torch.cat([o.y.expand(len(x), 3), x], 1))
        return both - normal(centre, joint[3:, 3:], x)

    d0, c0 = prior.mean.flatten().expand(3, 8), prior.error(math.inf).matrix
    flat, d1, c1 = x.flatten(1), estimate.flatten(1), prior.error(3.0).matrix
    expected = twist(d0, c0) + twist(d1, c1) - predicted(d0, c0, flat, 0.0, 3.0, torch.zeros_like(flat))
    torch.testing.assert_close(log_weights, expected, rtol=1e-8, atol=1e-8)
    (moved, ahead), increment = chain.move((x, estimate), 0, (4, 5, 6))
    keep = (1.2 / 3.0) ** 2
    expected = twist(ahead.flatten(1), prior.error(1.2).matrix) - predicted(d1, c1, moved.flatten(1), keep, 1.2, flat)
    torch.testing.assert_close(increment, expected, rtol=1e-8, atol=1e-8)
    (_, _), last = chain.move((moved, ahead), 1, (7, 8, 9))
    assert last.abs().max() == 0


ISLANDS, PARTICLES, STEPS = 60, 64, 64
# Beyond sampling error the evidence is that of the chain with so many steps: 1 % at 48 and at 96 steps in long runs.
STEP_ERROR = 0.025


@pytest.mark.slow
def test_mixture_evidence_is_unbiased_and_modes_have_their_weights(mixture, mode_weights):
    """Mean of Z / p(y) over islands within 3 standard errors of 1: fixed seeds, now 0.990 +- 0.016.

    Mode weights pooled over islands by their evidence within 5 standard errors plus the step error: false alarm below
    6e-7. Guidance on the same problem is off by ten times that.
    """
    prior, o = mixture.prior, mixture.observation
    grid = (*uniform_lambda(80.0, 0.02, STEPS - 1), 0.0)
    chain = TwistedChain(prior, o, grid, o.rows(prior.mean))
    ratios, modes = [], []
    for island in range(ISLANDS):
        seeds = derive_many(island, Purpose.STEP, range(PARTICLES))
        result = smc(chain, seeds, seed=island, threshold=0.5)
        z = math.exp(result.log_evidence - mixture.log_evidence)
        ratios.append(z)
        modes.append(z * mode_weights(mixture.posterior, result.state[0], result.log_weights.exp()))
    ratios, modes = np.array(ratios), torch.stack(modes).numpy()
    error = ratios.std() / math.sqrt(ISLANDS)
    weights = modes.sum(0) / ratios.sum()
    spread = (modes - ratios[:, None] * weights).std(0) / math.sqrt(ISLANDS) / ratios.mean()
    exact = mixture.posterior.weights.numpy()
    print(
        f"evidence ratio {ratios.mean():.4f} +- {error:.4f}; "
        f"modes {weights.round(3)} +- {spread.round(3)}, exact {exact.round(3)}"
    )
    assert abs(ratios.mean() - 1) < 3 * error
    assert error < 0.03
    assert (np.abs(weights - exact) < 5 * spread + STEP_ERROR).all()
    x = GuidedSampling(CalibratedGuidance(), DPMSolverPP())(prior, o, 1500, 0).x
    guided = mode_weights(mixture.posterior, x).numpy()
    off = 0.5 * np.abs(guided - exact).sum()
    print(f"calibrated guidance: modes {guided.round(3)}, total variation {off:.3f}")
    assert off > 0.25  # the known bias: should it vanish, the documentation is to be changed
    assert off < 0.45
    assert 0.5 * np.abs(weights - exact).sum() < off / 4


class Square(Differentiable):
    def __call__(self, x: torch.Tensor) -> torch.Tensor:
        return x.flatten(1)[:, :12] ** 2


def test_nonlinear_operators_are_refused(field):
    bent = Observation(field.observation.y, Square(), field.observation.noise)
    with pytest.raises(ConfigError, match="TwistedSMC needs a linear observation operator"):
        TwistedSMC()(field.prior, bent, 2, 0)


def test_one_step_is_refused(field):
    with pytest.raises(ConfigError):
        TwistedSMC(steps=1)(field.prior, field.observation, 2, 0)
