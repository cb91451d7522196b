"""Laws of noise: by hand, against scipy, sampled as they say, whitened by their likelihood, refused where wrong."""

from __future__ import annotations

import math
from collections.abc import Callable
from decimal import Decimal, localcontext
from typing import Any

import numpy as np
import pytest
import scipy.stats
import torch

from pdediff.diffusion import GaussianPrior
from pdediff.observe import (
    CorrelatedGaussianNoise,
    Flatten,
    GaussianNoise,
    LogNormalNoise,
    Observation,
    PoissonNoise,
    StudentTNoise,
    exponential,
    squared_exponential,
)


def vector(*values: float) -> torch.Tensor:
    return torch.tensor(values, dtype=torch.float64)


R = vector(4, 1, 0.5, 1, 2, -0.3, 0.5, -0.3, 1).reshape(3, 3)
Y = vector(2, 7, 3)
PREDICTIONS = vector(1, 5, 4, 2.5, 7, 0.2, 2, 7.0001, 2.9).reshape(3, 3)
LAWS = {
    "gaussian": GaussianNoise(vector(0.5, 1, 2)),
    "correlated": CorrelatedGaussianNoise.of(R),
    "student": StudentTNoise(vector(0.5, 1, 2), freedom=3.0),
    "poisson": PoissonNoise(),
    "log-normal": LogNormalNoise(vector(0.1, 0.5, 1.5)),
}
ADDITIVE = ("gaussian", "correlated", "student")
SCIPY: dict[str, Callable[[Any, Any], Any]] = {
    "gaussian": lambda y, f: scipy.stats.norm.logpdf(y, f, [0.5, 1, 2]).sum(-1),
    "correlated": lambda y, f: np.array([scipy.stats.multivariate_normal.logpdf(y, row, R.numpy()) for row in f]),
    "student": lambda y, f: scipy.stats.t.logpdf(y, 3, f, [0.5, 1, 2]).sum(-1),
    "poisson": lambda y, f: scipy.stats.poisson.logpmf(y, f).sum(-1),
    "log-normal": lambda y, f: scipy.stats.lognorm.logpdf(y, [0.1, 0.5, 1.5], scale=f).sum(-1),
}
EACH = pytest.mark.parametrize("name", LAWS)


@EACH
def test_log_prob_against_scipy(name):
    found = LAWS[name].log_prob(Y, PREDICTIONS)
    exact = SCIPY[name](Y.numpy(), PREDICTIONS.numpy())
    np.testing.assert_allclose(found.numpy(), exact, rtol=1e-12)


@EACH
def test_whitened_squares_are_the_likelihood(name):
    """-|whiten|^2 / 2 - log_prob does not depend on the prediction; the residual's sign stays."""
    law = LAWS[name]
    white = law.whiten(Y, PREDICTIONS)
    gap = -0.5 * white.square().sum(1) - law.log_prob(Y, PREDICTIONS)
    torch.testing.assert_close(gap, gap[:1].expand(3), rtol=1e-11, atol=1e-11)
    assert law.whiten(Y, Y[None]).abs().max() == 0
    if name != "correlated":
        assert torch.equal(white.sign(), (Y - PREDICTIONS).sign())


@EACH
def test_whiten_is_smooth_where_nothing_is_left(name):
    """Slope -1 / sqrt(variance) at prediction = y for all laws but Student's, whose deviance is steeper."""
    prediction = Y[None].clone().requires_grad_()
    (slope,) = torch.autograd.grad(LAWS[name].whiten(Y, prediction).sum(), prediction)
    if name in ("gaussian", "poisson", "log-normal"):
        torch.testing.assert_close(slope, -(LAWS[name].variance(Y[None]) ** -0.5), rtol=1e-12, atol=0)
    elif name == "student":
        torch.testing.assert_close(slope, -((4 / 3) ** 0.5) / vector(0.5, 1, 2)[None], rtol=1e-12, atol=0)
    else:
        assert torch.isfinite(slope).all()


@pytest.mark.parametrize("name", ["student", "poisson"])
def test_series_meets_the_formula(name):
    """White residuals on both sides of the switch between them agree with 60 digits, rounded."""
    for gap in (1e-9, 1e-5, 9e-4, 1.1e-3, 8e-3, 1.8e-2, 0.3):
        y, f = 100.0, 100.0 * (1 + gap)
        with localcontext() as context:
            context.prec = 60
            at, rate = Decimal(y), Decimal(f)
            if name == "student":
                found = StudentTNoise(vector(50.0), 3.0).whiten(vector(y), vector(f)[None])
                exact = -(4 * (1 + ((at - rate) / 50) ** 2 / 3).ln()).sqrt()
            else:
                found = PoissonNoise().whiten(vector(y), vector(f)[None])
                exact = -(2 * (at * (at / rate).ln() - at + rate)).sqrt()
        # y / f - 1 is rounded to 2e-16 / gap of itself.
        assert found.item() == pytest.approx(float(exact), rel=1e-12 + 3e-16 / gap)


def one_reading(name: str, i: int) -> Any:
    """The law of one reading alone."""
    own = {"gaussian": (0.5, 1.0, 2.0), "student": (0.5, 1.0, 2.0), "log-normal": (0.1, 0.5, 1.5), "poisson": ()}[name]
    return PoissonNoise() if name == "poisson" else type(LAWS[name])(vector(own[i]), *((3.0,) * (name == "student")))


@pytest.mark.parametrize("name", ["gaussian", "student", "poisson", "log-normal"])
def test_variance_is_one_over_the_fisher_information(name):
    """E (d log p / d f)^2 of each reading, summed over counts or by the trapezoidal rule in a stretched variable."""
    u = torch.linspace(-12, 12, 20001, dtype=torch.float64)
    for i, f in enumerate((3.0, 5.0, 8.0)):
        if name == "poisson":
            y, cell = torch.arange(200).double(), 1.0
        elif name == "log-normal":
            y, cell = f * u.exp(), f * u.exp() * (u[1] - u[0])
        else:
            y, cell = f + u.sinh(), u.cosh() * (u[1] - u[0])
        at = torch.full((len(y), 1), f, dtype=torch.float64, requires_grad=True)
        log_p = one_reading(name, i).log_prob(y[:, None], at)
        (score,) = torch.autograd.grad(log_p.sum(), at)
        information = (log_p.detach().exp() * score[:, 0] ** 2 * cell).sum()
        found = LAWS[name].variance(vector(3, 5, 8)[None])[0, i]
        assert found.item() == pytest.approx(1 / information.item(), rel=1e-9)


def test_variance_of_correlated_errors_is_that_of_each_alone():
    torch.testing.assert_close(LAWS["correlated"].variance(PREDICTIONS), R.diagonal().expand(3, 3))


def test_by_hand():
    """Each law at one reading."""
    assert PoissonNoise().log_prob(vector(2), vector(3)[None]).item() == pytest.approx(math.log(9 / 2) - 3, abs=1e-14)
    # Cauchy: 1 / (pi s (1 + (r / s)^2)) at r = 2, s = 2.
    cauchy = StudentTNoise(vector(2), 1.0).log_prob(vector(5), vector(3)[None])
    assert cauchy.item() == pytest.approx(-math.log(math.pi * 2 * 2), abs=1e-14)
    # A reading e times the median, spread 1: exp(-1/2) / (sqrt(2 pi) y).
    found = LogNormalNoise(vector(1)).log_prob(vector(3 * math.e), vector(3)[None])
    assert found.item() == pytest.approx(-0.5 - 0.5 * math.log(2 * math.pi) - math.log(3) - 1, abs=1e-14)
    # R = L L^T with L = ((2, 0), (1, 1)): white residuals of (2, 3) are 1 and 2, |L| = 2.
    noise = CorrelatedGaussianNoise.of(vector(4, 2, 2, 2).reshape(2, 2))
    assert noise.whiten(vector(2, 3)[None]).tolist() == [[1.0, 2.0]]
    expected = -0.5 * 5 - math.log(2) - math.log(2 * math.pi)
    assert noise.log_prob(vector(2, 3)[None]).item() == pytest.approx(expected, abs=1e-14)


@pytest.mark.parametrize("name", ADDITIVE)
def test_residuals_do_for_additive_laws(name):
    law, residual = LAWS[name], Y - PREDICTIONS
    torch.testing.assert_close(law.log_prob(residual), law.log_prob(Y, PREDICTIONS), rtol=0, atol=0)
    torch.testing.assert_close(law.whiten(residual), law.whiten(Y, PREDICTIONS), rtol=0, atol=0)


@EACH
def test_draws_follow_the_law(name):
    """Largest gap of the distribution functions of 6000 draws; a false alarm has probability 1e-7 (DKW bound)."""
    n, law, f = 6000, LAWS[name], vector(2.0, 5.0, 0.7)
    drawn = law.draw(f.expand(n, 3), range(n)).numpy()
    if name == "correlated":
        drawn = np.linalg.solve(np.linalg.cholesky(R.numpy()), (drawn - f.numpy()).T).T
    cdf: dict[str, Callable[[Any, int], Any]] = {
        "gaussian": lambda y, i: scipy.stats.norm.cdf(y, f[i], [0.5, 1, 2][i]),
        "correlated": lambda y, i: scipy.stats.norm.cdf(y),
        "student": lambda y, i: scipy.stats.t.cdf(y, 3, f[i], [0.5, 1, 2][i]),
        "poisson": lambda y, i: scipy.stats.poisson.cdf(y, f[i]),
        "log-normal": lambda y, i: scipy.stats.lognorm.cdf(y, [0.1, 0.5, 1.5][i], scale=f[i]),
    }
    limit = math.sqrt(math.log(2 / 1e-7) / (2 * n))
    for i in range(3):
        at = np.unique(drawn[:, i])
        empirical = np.searchsorted(np.sort(drawn[:, i]), at, side="right") / n
        assert np.abs(empirical - cdf[name](at, i)).max() < limit + 1 / n
        for j in range(i):
            # Independent columns: the correlation of ranks has standard deviation 1 / sqrt(n).
            assert abs(scipy.stats.spearmanr(drawn[:, i], drawn[:, j])[0]) < 6 / math.sqrt(n)


@EACH
def test_draws_depend_on_their_seed_alone(name):
    law, f = LAWS[name], PREDICTIONS
    all_rows = law.draw(f, (5, 6, 7))
    torch.testing.assert_close(law.draw(f[2:], (7,)), all_rows[2:], rtol=0, atol=0)
    assert law.draw(f.float(), (5, 6, 7)).dtype == torch.float32
    if name in ADDITIVE:
        torch.testing.assert_close(f + law.sample((5, 6, 7)), all_rows, rtol=0, atol=0)


def test_covariance_between_sensors_by_hand():
    """Sensors 0 and 3 apart by length 3: 0.5^2 (1, 1/e) plus 0.1^2 on the diagonal."""
    noise = CorrelatedGaussianNoise.at(vector(0, 0, 0, 3).reshape(2, 2), 0.5, exponential(3.0), white=0.1)
    found = noise.factor @ noise.factor.T
    expected = vector(0.26, 0.25 / math.e, 0.25 / math.e, 0.26).reshape(2, 2)
    torch.testing.assert_close(found, expected, rtol=1e-13, atol=0)
    assert squared_exponential(2.0)(vector(4.0)).item() == pytest.approx(math.exp(-2))


def test_whitened_observations_have_the_same_posterior():
    """Independent unit noise behind L^-1: the closed-form posterior and, up to a constant, the likelihood."""
    g = torch.Generator().manual_seed(0)
    basis = torch.randn(3, 3, generator=g, dtype=torch.float64)
    prior = GaussianPrior(torch.zeros(1, 3).double(), basis @ basis.T + torch.eye(3).double())
    x = torch.randn(4, 1, 3, generator=g, dtype=torch.float64)
    for noise, r in ((LAWS["correlated"], R), (LAWS["gaussian"], torch.diag(vector(0.25, 1, 4)))):
        seen = Observation(Y, Flatten(), noise).normalised(torch.ones(1, 3).double(), torch.full((1, 3), 2.0).double())
        white = seen.whitened()
        assert torch.equal(white.noise.std, torch.ones(3).double())
        assert white.operator.linear
        gap = white.log_prob(x) - seen.log_prob(x)
        expected = 0.5 * torch.linalg.slogdet(r).logabsdet
        torch.testing.assert_close(gap, expected.expand(4), rtol=1e-11, atol=1e-11)
        posteriors = [
            prior.condition(o.rows(prior.mean).flatten(1), o.y - o.operator(torch.zeros_like(x))[0], cov)[0]
            for o, cov in ((seen, r), (white, torch.eye(3).double()))
        ]
        torch.testing.assert_close(posteriors[0].mean, posteriors[1].mean, rtol=1e-11, atol=1e-11)
        torch.testing.assert_close(posteriors[0].covariance, posteriors[1].covariance, rtol=1e-11, atol=1e-11)


@EACH
def test_observations_take_any_law(name):
    seen = Observation(Y, Flatten(), LAWS[name])
    x = PREDICTIONS[:, None]
    torch.testing.assert_close(seen.log_prob(x), LAWS[name].log_prob(Y, PREDICTIONS), rtol=0, atol=0)
    torch.testing.assert_close(seen.white_residual(x), LAWS[name].whiten(Y, PREDICTIONS), rtol=0, atol=0)


def test_impossible_predictions_have_no_likelihood_and_no_nan_gradients():
    for law, f in ((PoissonNoise(), vector(1, -1, 2)), (LAWS["log-normal"], vector(1, 0, -2))):
        at = f[None].clone().requires_grad_()
        value = law.log_prob(Y, at)
        assert value.item() == -math.inf
        (slope,) = torch.autograd.grad(value.sum(), at)
        assert not torch.isnan(slope).any()
        assert law.whiten(Y, f[None])[0, 1].item() == math.inf
    assert PoissonNoise().log_prob(vector(0, 3), vector(0, 0)[None]).item() == -math.inf
    assert PoissonNoise().log_prob(vector(0), vector(0)[None]).item() == 0
    assert PoissonNoise().whiten(vector(0, 3, 0), vector(0, 0, 8)[None])[0].tolist() == pytest.approx(
        [0.0, math.inf, -4.0]
    )
    assert PoissonNoise().variance(vector(-1, 0.2, 7)[None]).tolist() == [[1.0, 1.0, 7.0]]
