"""Denoisers made of denoisers: classifier-free guidance, windows of trajectories, constraints, an equation."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

from pdediff.diffusion import GaussianPrior
from pdediff.errors import ConfigError
from pdediff.observe import Differentiable, GaussianNoise, Observation, PointSensors
from pdediff.posterior import (
    DPS,
    Amplified,
    CalibratedGuidance,
    ClassifierFree,
    DiffusionPDE,
    FunDPS,
    GuidedSampling,
    HardConstraint,
    TSDiff,
    Windowed,
    with_residual,
)
from pdediff.samplers import DDIM, DPMSolverPP, run, sample, uniform_lambda
from pdediff.types import normal


def gaussian(mean: float, variance: float) -> GaussianPrior:
    return GaussianPrior(torch.full((1, 1), mean).double(), torch.full((1, 1), variance).double())


def levels(*sigmas: float) -> Tensor:
    return torch.tensor(sigmas, dtype=torch.float64)


def test_classifier_free_guidance_combines_scores():
    """D_w's score is (1 - w) s_0 + w s_c at every level: for Gaussians the weighted sum of two straight lines."""
    both = ClassifierFree(gaussian(0.0, 1.0), gaussian(1.0, 0.25), 2.5)
    x = levels(-1.0, 0.3, 2.0)[:, None, None]
    for sigma in (0.01, 0.7, 9.0):
        found = (both(x, levels(*[sigma] * 3)) - x) / sigma**2
        wanted = 1.5 * x / (1 + sigma**2) + 2.5 * (1 - x) / (0.25 + sigma**2)
        torch.testing.assert_close(found, wanted, rtol=1e-9, atol=1e-9)
    torch.testing.assert_close(both.mean, torch.full((1, 1), 2.5).double())


def test_classifier_free_guidance_alone_does_not_sample_the_product():
    """q_0^(1-w) q_c^w has precision (1 - w) P_0 + w P_c = 8.5 and mean w P_c / 8.5; the flow misses both.

    Its own law has a closed form, for d log x / d log sigma = sigma^2 [w / (0.25 + sigma^2) + (1 - w) / (1 + sigma^2)]:
    variance 0.25^w from the start N(0, sigma^2), with w = 2.5.
    """
    both = ClassifierFree(gaussian(0.0, 1.0), gaussian(1.0, 0.25), 2.5)
    plan = DPMSolverPP().plan(uniform_lambda(200.0, 1e-4, 400))
    ends = run(plan, both, levels(-200.0, 200.0)[:, None, None], [0, 0]).flatten()
    spread = float(ends[1] - ends[0]) / 400.0 * 200.0
    assert spread**2 == pytest.approx(0.25**2.5, rel=2e-3)
    assert abs(spread**2 - 1 / 8.5) > 0.05
    middle = float(ends.mean())
    assert abs(middle - 2.5 * 4 / 8.5) > 0.05


def test_amplified_guidance_is_linear_in_its_weight(mixture):
    x, sigma = torch.ones(2, 1, 8).double(), levels(0.7, 0.7)
    plain = mixture.prior(x, sigma)
    once = CalibratedGuidance()(mixture.prior, mixture.observation)(x, sigma)
    for weight in (0.5, 1.0, 3.0):
        found = Amplified(CalibratedGuidance(), weight)(mixture.prior, mixture.observation)(x, sigma)
        torch.testing.assert_close(found, plain + weight * (once - plain))
    # The keys reach the guidance inside: two seeds, two quantiles.
    draws = GuidedSampling(Amplified(TSDiff(), 1.0), DDIM(), steps=4)(mixture.prior, mixture.observation, 2, 0).x
    direct = GuidedSampling(TSDiff(), DDIM(), steps=4)(mixture.prior, mixture.observation, 2, 0).x
    torch.testing.assert_close(draws, direct)
    with pytest.raises(ConfigError, match="cannot be combined"):
        ClassifierFree(mixture.prior, gaussian(0.0, 1.0), 1.0)


def autoregressive(size: int, phi: float) -> GaussianPrior:
    lags = (torch.arange(size)[:, None] - torch.arange(size)).abs()
    return GaussianPrior(torch.zeros(size, 1).double(), phi ** lags.double())


@pytest.mark.parametrize(
    ("phi", "sigma", "k", "percent"),
    [(0.9, 0.1, 1, 3), (0.9, 0.5, 1, 23), (0.9, 0.5, 2, 8), (0.9, 0.5, 3, 3), (0.9, 2.0, 1, 18), (0.9, 2.0, 8, 2),
     (0.99, 0.5, 1, 41), (0.99, 0.5, 8, 2.7)],
)  # fmt: skip
def test_windows_err_as_the_card_says(phi, sigma, k, percent):
    """Gaussian AR(1), 32 frames: error of the matrix of the score over the matrix, to the card's rounding."""
    whole, composed = autoregressive(32, phi), Windowed(autoregressive(2 * k + 1, phi), 32)
    unit = torch.eye(32, dtype=torch.float64)[..., None]
    level = torch.full((32,), sigma, dtype=torch.float64)
    exact, found = whole(unit, level), composed(unit, level)
    error = 100 * float((found - exact).norm() / (exact - unit).norm())
    print(f"phi {phi}, sigma {sigma}, k {k}: {error:.2f} %, card {percent} %")
    assert error == pytest.approx(percent, rel=0.01, abs=0.5)


def test_windows_keep_shapes_and_refuse_what_they_cannot(field):
    prior = Windowed(GaussianPrior(normal((1,), (3, 2), dtype=torch.float64)[0], torch.eye(6).double()), 5)
    assert prior.shape == (5, 2)
    assert prior.error(math.inf).diagonal().shape == (5, 2)
    # Independent frames: every window knows its centre exactly, so the composition is the prior of five frames.
    mean = prior.window.mean
    torch.testing.assert_close(prior.mean, torch.stack([mean[0], mean[1], mean[1], mean[1], mean[2]]))
    x = normal((2, 3), (5, 2), dtype=torch.float64)
    torch.testing.assert_close(prior(x, levels(1.0, 1.0)), 0.5 * (x + prior.mean))
    assert sample(prior, 2, DDIM(), steps=3, sigma_min=0.1).shape == (2, 5, 2)
    for window, frames in ((4, 9), (3, 2)):
        wrong = GaussianPrior(torch.zeros(window, 1).double(), torch.eye(window).double())
        with pytest.raises(ConfigError, match="windows are odd and no longer"):
            Windowed(wrong, frames)


def test_constraints_are_met_exactly_by_the_smallest_move(field):
    operator = field.observation.operator
    x, sigma = normal((1, 2), (1, 16, 16), dtype=torch.float64), levels(0.5, 3.0)
    out, plain = HardConstraint()(field.prior, field.observation)(x, sigma), field.prior(x, sigma)
    assert (operator(out) - field.observation.y).abs().max() < 1e-8
    wanted = (torch.linalg.pinv(field.rows) @ field.observation.residual(plain)[..., None])[..., 0]
    torch.testing.assert_close((out - plain).flatten(1), wanted, rtol=1e-6, atol=1e-8)


class Squares(Differentiable):
    """The square of each reading: a curved constraint."""

    def __init__(self, rows: Tensor) -> None:
        self.rows = rows

    def __call__(self, x: Tensor) -> Tensor:
        return (x.flatten(1) @ self.rows.to(x).T) ** 2


def test_newton_steps_meet_curved_constraints(field):
    curved = Observation(torch.full((3,), 1.5).double(), Squares(field.rows[:3]), GaussianNoise(torch.ones(3).double()))
    x, sigma = 1 + normal((5,), (1, 16, 16), dtype=torch.float64), levels(0.2)
    misfits = [
        float(curved.residual(HardConstraint(newton=n)(field.prior, curved)(x, sigma)).abs().max())
        for n in (1, 3, 4, 6)
    ]
    print("misfits after 1, 3, 4, 6 steps:", misfits)
    assert misfits[0] > 1
    assert misfits[2] < misfits[1] ** 1.5  # quadratic convergence
    assert misfits[3] < 1e-9


class Laplacian(Differentiable):
    """Second difference over the spacing squared on a line, with the spacing in it."""

    linear = True

    def __init__(self, spacing: float) -> None:
        self.spacing = spacing

    def __call__(self, x: Tensor) -> Tensor:
        u = x.flatten(1)
        return (u[:, 2:] - 2 * u[:, 1:-1] + u[:, :-2]) / self.spacing**2


def line() -> tuple[GaussianPrior, Observation, Tensor]:
    """A smooth line of 12 points with two readings, and the matrix of its second difference."""
    at = torch.linspace(0, 1, 12, dtype=torch.float64)
    covariance = torch.exp(-0.5 * ((at[:, None] - at) / 0.3) ** 2) + 1e-6 * torch.eye(12).double()
    prior = GaussianPrior(torch.zeros(1, 12).double(), covariance)
    sensors = PointSensors(torch.tensor([[1], [8]]), torch.ones(2, 1).double())
    observation = Observation(levels(0.5, -0.5), sensors, GaussianNoise(levels(0.05, 0.05)))
    matrix = torch.zeros(10, 12).double()
    for i in range(10):
        matrix[i, i : i + 3] = levels(1.0, -2.0, 1.0) * 121
    return prior, observation, matrix


@pytest.mark.parametrize("accuracy", [10.0, 0.1, 1e-3])
def test_an_equation_is_one_more_observation(accuracy):
    """Readings and residual as one Gaussian likelihood: the closed-form posterior; constrained as std -> 0."""
    prior, observation, matrix = line()
    joint = with_residual(observation, Laplacian(1 / 11), 10, accuracy)
    rows = joint.rows(prior.mean).flatten(1)
    torch.testing.assert_close(rows[2:], matrix)
    exact, _ = prior.condition(rows, joint.y, torch.diag(joint.noise.std**2))
    plan = DPMSolverPP().plan(uniform_lambda(40.0, 1e-3, 60))
    guided = CalibratedGuidance()(prior, joint)
    x = run(plan, guided, torch.zeros(1, 1, 12).double(), [0], denoise_last=True)
    # The start at zero is 1 / 40 of a standard deviation from where the mean's own path begins.
    assert (x[0] - exact.mean).norm() / exact.covariance.trace().sqrt() < 0.1
    bent = (matrix @ x.flatten()).abs().max()
    assert bent < 4 * accuracy + 1e-3 or accuracy > 1


def test_the_two_terms_are_weighed_by_level():
    """Above the switch the readings alone, below it both; the pull of the equation is its own gradient."""
    prior, observation, matrix = line()
    joint = with_residual(observation, Laplacian(1 / 11), 10, 2.0)
    x = normal((1,), (1, 12), dtype=torch.float64)
    for guidance, switch in ((DiffusionPDE(1.0, 0.7, 0.5, 0.2), 0.5), (FunDPS(1.0, 0.7, 0.5), 0.5)):
        above, below = levels(2 * switch), levels(0.5 * switch)
        with_equation, without = guidance(prior, joint), guidance(prior, observation)
        torch.testing.assert_close(with_equation(x, above), without(x, above))
        pull = (with_equation(x, below) - without(x, below)).flatten()
        residual = matrix @ prior(x, below).flatten() / 2.0
        jacobian = prior.error(float(below)).matrix / below**2
        if isinstance(guidance, DiffusionPDE):
            wanted = -0.7 * jacobian @ matrix.T @ residual / 2.0 / residual.norm()
        else:
            wanted = -0.7 * (float(below) / 0.5) * 2 / 10 * jacobian @ matrix.T @ residual / 2.0
        torch.testing.assert_close(pull, wanted, rtol=1e-8, atol=1e-8)
    scaled = joint.normalised(torch.zeros(1, 12).double(), torch.full((1, 12), 2.0).double())
    assert not torch.equal(
        FunDPS()(prior, scaled)(x, levels(0.1)), FunDPS(residual_strength=0.0)(prior, scaled)(x, levels(0.1))
    )


def test_a_residual_without_the_spacing_is_another_equation():
    """The published residuals drop the grid spacing: with it, the same line on two grids has the same residual."""
    fine, coarse = (torch.linspace(0, 1, n, dtype=torch.float64) ** 2 for n in (41, 21))
    for u, n in ((fine, 41), (coarse, 21)):
        torch.testing.assert_close(Laplacian(1 / (n - 1))(u[None, None]), torch.full((1, n - 2), 2.0).double())
    assert Laplacian(1.0)(fine[None, None]).mean() < 0.3 * Laplacian(1.0)(coarse[None, None]).mean()


def test_dps_is_guided_by_both_parts_as_well():
    prior, observation, _ = line()
    joint = with_residual(observation, Laplacian(1 / 11), 10, 2.0)
    x, sigma = normal((1,), (1, 12), dtype=torch.float64), levels(0.5)
    assert (DPS()(prior, joint)(x, sigma) - DPS()(prior, observation)(x, sigma)).abs().max() > 1e-3
