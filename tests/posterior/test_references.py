"""Chains, modes and exact draws against closed forms."""

from __future__ import annotations

import math

import pytest
import torch

from pdediff.diffusion import DiagonalCovariance, GaussianPrior, LowRankCovariance, matern_field
from pdediff.errors import ConfigError
from pdediff.observe import (
    BlackBox,
    CorrelatedGaussianNoise,
    Differentiable,
    GaussianNoise,
    Observation,
    PointSensors,
    StudentTNoise,
)
from pdediff.posterior import (
    PCN,
    Chains,
    Latent,
    Likelihood,
    PreconditionedMALA,
    Reference,
    chain_ess,
    likelihood_gradient,
    log_reference,
    posterior_anchor,
    root,
    split_r_hat,
)

PLAIN = Chains(chains=64, burn_in=300, samples=32, thin=15, reference="prior")


def normals(seed: int, *shape: int) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def vector(*values: float) -> torch.Tensor:
    return torch.tensor(values, dtype=torch.float64)


def small(errors: float = 0.5) -> tuple[GaussianPrior, Observation, GaussianPrior]:
    """Six dimensions, two readings, and the exact posterior."""
    basis = torch.linalg.qr(normals(1, 6, 6)).Q
    prior = GaussianPrior(normals(2, 1, 6), (basis * vector(2.0, 1.5, 1.0, 0.7, 0.5, 0.3)) @ basis.T)
    sensors = PointSensors(torch.arange(6).expand(2, 6).contiguous(), normals(3, 2, 6) / math.sqrt(6))
    observation = Observation(vector(1.0, -1.5), sensors, GaussianNoise(vector(errors, errors)))
    noise = errors**2 * torch.eye(2).double()
    exact, _ = prior.condition(observation.rows(prior.mean).flatten(1), observation.y, noise)
    return prior, observation, exact


def autoregression(rho: float, chains: int, steps: int) -> torch.Tensor:
    """Stationary AR(1) chains of unit variance."""
    noise, out = normals(4, chains, steps), []
    x = noise[:, 0]
    for k in range(1, steps + 1):
        out.append(x)
        x = rho * x + math.sqrt(1 - rho**2) * noise[:, k % steps]
    return torch.stack(out, 1)


@pytest.mark.parametrize("rho", [-0.5, 0.0, 0.5, 0.9])
def test_effective_sample_size_of_an_autoregression(rho):
    """(1 - rho) / (1 + rho) of the draws. Geyer's sum stops where noise is reached: its own error is about 4 % here."""
    draws = autoregression(rho, 16, 4000)
    exact = 16 * 4000 * (1 - rho) / (1 + rho)
    assert float(chain_ess(draws)) == pytest.approx(min(exact, 16 * 4000 * math.log10(16 * 4000)), rel=0.2)
    # The variance of the mean of the whole, by which the number is defined, over 400 groups.
    means = autoregression(rho, 400, 500).mean(1)
    assert float(means.var()) * 500 * (1 - rho) / (1 + rho) == pytest.approx(1, rel=6 * math.sqrt(2 / 399))


def test_effective_sample_size_by_point_and_of_still_chains():
    both = torch.stack([autoregression(0.0, 8, 400), autoregression(0.9, 8, 400)], 2)
    found = chain_ess(both)
    assert found.shape == (2,)
    torch.testing.assert_close(found[1], chain_ess(autoregression(0.9, 8, 400)))
    assert found[0] > 5 * found[1]
    assert float(split_r_hat(torch.ones(4, 10))) == 1.0


def test_split_r_hat_by_hand():
    """Two chains of four: halves (0, 2), (0, 2), (4, 6), (4, 6): W = 2, B / k = 16 / 3, k = 2."""
    draws = torch.tensor([[0.0, 2.0, 0.0, 2.0], [4.0, 6.0, 4.0, 6.0]])
    assert float(split_r_hat(draws)) == pytest.approx(math.sqrt((1 / 2 * 2 + 16 / 3) / 2))


def test_split_r_hat_sees_chains_that_drift_or_disagree():
    still = normals(5, 8, 1000)
    assert float(split_r_hat(still)) < 1.01
    assert float(split_r_hat(still + torch.linspace(0, 2, 1000))) > 1.1
    assert float(split_r_hat(still + torch.arange(8)[:, None] % 2)) > 1.1


def covariances() -> list:
    factor, variance = normals(6, 3, 2, 5), normals(7, 2, 5).exp()
    return [
        DiagonalCovariance(variance),
        LowRankCovariance(variance, factor),
        matern_field((8,), length=0.1, smoothness=2.0, channels=2).error(math.inf),
        small()[0].error(math.inf),
    ]


@pytest.mark.parametrize("covariance", covariances(), ids=lambda c: type(c).__name__)
def test_roots(covariance):
    """B B^T v = C v, and <B z, v> = <z, B^T v>."""
    found = root(covariance)
    v, z = normals(8, 3, *covariance.shape), normals(9, 3, found.size)
    torch.testing.assert_close(found.spread(found.gather(v)), covariance.matvec(v))
    torch.testing.assert_close((found.spread(z) * v).flatten(1).sum(1), (z * found.gather(v)).sum(1))


def worst(draws: torch.Tensor, exact: GaussianPrior, ess: float) -> tuple[float, float]:
    """Largest error of a mean and of a variance in its standard error by the effective sample size."""
    spread, x = exact.covariance.diagonal(), draws.flatten(1)
    z_mean = (x.mean(0) - exact.mean.flatten()).abs() / (spread / ess).sqrt()
    z_spread = (x.var(0) / spread - 1).abs() / math.sqrt(2 / ess)
    return float(z_mean.max()), float(z_spread.max())


@pytest.mark.parametrize("reference", ["prior", "laplace"])
@pytest.mark.parametrize("kind", [PCN, PreconditionedMALA])
def test_chains_have_the_moments_of_a_gaussian(kind, reference):
    """Bounds of 6 standard errors on 12 numbers: a false alarm in 4e7."""
    prior, observation, exact = small()
    method = kind(Chains(**{**vars(PLAIN), "reference": reference}))
    n = PLAIN.chains * PLAIN.samples
    draws = method(prior, observation, n, 0)
    ess = float(draws.diagnostics["chain_ess"])
    assert draws.diagnostics["r_hat"] < 1.05
    assert ess > 200
    z_mean, z_spread = worst(draws.x, exact, min(ess, n))
    print(f"{kind.__name__}, {reference}: ess {ess:.0f}, z {z_mean:.1f}, {z_spread:.1f}, {dict(draws.diagnostics)}")
    assert z_mean < 6
    assert z_spread < 6
    expected = 1.0 if reference == "laplace" else kind.acceptance
    assert draws.diagnostics["acceptance"] == pytest.approx(expected, abs=0.1)


class Bent(Differentiable):
    """A banana: x_1 + 0.4 x_2^2, and a product."""

    def __call__(self, x: torch.Tensor) -> torch.Tensor:
        flat = x.flatten(1)
        return torch.stack([flat[:, 0] + 0.4 * flat[:, 1] ** 2, 0.3 * flat[:, 0] * flat[:, 1]], 1)


def quadrature(prior: GaussianPrior, observation: Observation) -> tuple[torch.Tensor, torch.Tensor]:
    """Mean and covariance of a two-dimensional posterior on 601 x 601 points, where the trapezoidal rule is exact."""
    axis = torch.linspace(-7, 7, 601, dtype=torch.float64)
    x = torch.cartesian_prod(axis, axis)[:, None]
    log = prior.log_prob(x, torch.zeros(len(x)).double()) + observation.log_prob(x)
    weights, flat = log.softmax(0), x.flatten(1)
    mean = weights @ flat
    return mean, (flat - mean).T @ ((flat - mean) * weights[:, None])


LAWS = [GaussianNoise(vector(0.6, 0.5)), StudentTNoise(vector(0.6, 0.5), 4.0)]


@pytest.mark.parametrize("noise", LAWS, ids=["gaussian", "student"])
@pytest.mark.parametrize("reference", ["prior", "laplace"])
@pytest.mark.parametrize(("kind", "chains", "thin"), [(PCN, 128, 15), (PreconditionedMALA, 64, 45)])
def test_chains_on_a_banana(kind, chains, thin, reference, noise):
    """Against quadrature: a wrong acceptance test shows here and not on a linear problem."""
    prior = GaussianPrior(torch.zeros(1, 2).double(), vector(1.0, 0.3, 0.3, 1.5).reshape(2, 2))
    observation = Observation(vector(1.5, 0.2), Bent(), noise)
    mean, covariance = quadrature(prior, observation)
    method = kind(Chains(chains=chains, burn_in=300, samples=32, thin=thin, reference=reference))
    draws = method(prior, observation, chains * 32, 0)
    ess = min(float(draws.diagnostics["chain_ess"]), chains * 32)
    assert draws.diagnostics["r_hat"] < 1.05
    assert ess > 200
    x = draws.x.flatten(1)
    z = (x.mean(0) - mean) / (covariance.diagonal() / ess).sqrt()
    # Of a law that is not Gaussian: the spread of squares is measured, and squares of slow chains count for less.
    squares = (x - mean).square()
    z_spread = (squares.mean(0) - covariance.diagonal()) / squares.std(0) * math.sqrt(ess / 2)
    print(f"{kind.__name__}, {reference}: {dict(draws.diagnostics)}, z {z.tolist()}, {z_spread.tolist()}")
    assert z.abs().max() < 6
    assert z_spread.abs().max() < 6


@pytest.mark.parametrize("beta", [0.2, 0.9])
@pytest.mark.parametrize("reference", ["prior", "laplace"])
@pytest.mark.parametrize("kind", [PCN, PreconditionedMALA])
def test_acceptance_is_detailed_balance(kind, reference, beta):
    """The ratio against posterior and proposal densities, the latter from where the kernel goes without noise."""
    prior = GaussianPrior(normals(10, 1, 2), vector(1.0, 0.3, 0.3, 1.5).reshape(2, 2))
    likelihood = Likelihood(Latent.of(prior), Observation(vector(1.5, 0.2), Bent(), GaussianNoise(vector(0.6, 0.5))))
    found, kernel, size = Chains(reference=reference).references(prior, likelihood)[0], kind(), vector(beta)[0]
    state, still = kernel.start(likelihood, 2 * normals(15, 50, 2)), torch.zeros(50, 2).double()
    moved, ratio = kernel.propose(likelihood, found, state, normals(16, 50, 2), size)

    def density(a: tuple, b: tuple) -> torch.Tensor:
        centre = kernel.propose(likelihood, found, a, still, size)[0][0]
        return -0.5 * (found.white(b[0]) - found.white(centre)).square().sum(1) / beta**2

    posterior = [likelihood.value(s[0]) - 0.5 * s[0].square().sum(1) for s in (state, moved)]
    torch.testing.assert_close(ratio, posterior[1] - posterior[0] + density(moved, state) - density(state, moved))


def test_a_step_is_adapted_in_the_burn_in_only():
    """After it the chain is Markov: the step of a run does not depend on how long the run is."""
    prior, observation, _ = small()
    likelihood = Likelihood(Latent.of(prior), observation)
    runs = [Chains(8, 50, samples, 5) for samples in (4, 16)]
    short, long = (chains.run(PCN(), likelihood, chains.references(prior, likelihood), 3) for chains in runs)
    assert short[2] == long[2]
    torch.testing.assert_close(short[0], long[0][:, :4])


def test_draws_do_not_depend_on_how_many_are_asked_for():
    prior, observation, _ = small()
    method = PCN(Chains(4, 20, 4, 2, "prior"))
    many = method(prior, observation, 40, 1).x
    assert torch.equal(method(prior, observation, 7, 1).x, many[:7])
    assert len(torch.unique(many[:, 0], dim=0)) > 16  # more than one run of 16


def test_chains_need_no_derivative_with_the_prior_as_reference():
    prior, observation, _ = small()
    black = Observation(observation.y, BlackBox(observation.operator), observation.noise)
    assert torch.equal(PCN(PLAIN)(prior, black, 5, 0).x, PCN(PLAIN)(prior, observation, 5, 0).x)
    with pytest.raises(ConfigError, match="no derivative"):
        PCN()(prior, black, 5, 0)


NOISES = [
    GaussianNoise(vector(0.5, 0.7)),
    CorrelatedGaussianNoise.of(vector(0.5, 0.2, 0.2, 0.4).reshape(2, 2)),
    StudentTNoise(vector(0.5, 0.7), 4.0),
]


@pytest.mark.parametrize("noise", NOISES, ids=lambda n: type(n).__name__)
def test_gradients(noise):
    """Of the likelihood and of the target with both references, against autograd."""
    prior = GaussianPrior(normals(10, 1, 2), vector(1.0, 0.3, 0.3, 1.5).reshape(2, 2))
    observation = Observation(vector(1.5, 0.2), Bent(), noise)
    x = normals(11, 3, 1, 2).requires_grad_()
    value, gradient = likelihood_gradient(observation, x.detach())
    torch.testing.assert_close(value, observation.log_prob(x.detach()))
    torch.testing.assert_close(gradient, torch.autograd.grad(observation.log_prob(x).sum(), x)[0])
    likelihood = Likelihood(Latent.of(prior), observation)
    xi = normals(12, 3, 2).requires_grad_()
    value, gradient = likelihood.gradient(xi.detach())
    torch.testing.assert_close(value, likelihood.value(xi.detach()))
    torch.testing.assert_close(gradient, torch.autograd.grad(likelihood.value(xi).sum(), xi)[0])


def test_the_laplace_reference_of_a_linear_problem_is_its_posterior():
    """With correlated errors: log ratios are constant, and fields of eta ~ N(0, I) have the exact moments."""
    prior, observation, _ = small()
    noise = CorrelatedGaussianNoise.of(vector(0.5, 0.2, 0.2, 0.4).reshape(2, 2))
    correlated = Observation(observation.y, observation.operator, noise)
    exact, _ = prior.condition(observation.rows(prior.mean).flatten(1), observation.y, noise.factor @ noise.factor.T)
    latent = Latent.of(prior)
    found = Reference.laplace(latent, *posterior_anchor(prior, correlated.whitened()))
    eta = normals(14, 20, 6)
    xi = found.coloured(eta)
    torch.testing.assert_close(found.white(xi), eta)
    assert float((Likelihood(latent, correlated).value(xi) - log_reference(eta, xi)).std()) < 1e-5
    fields = latent.field(found.coloured(torch.cat([torch.zeros(1, 6), torch.eye(6)]).double())).flatten(1)
    torch.testing.assert_close(fields[0], exact.mean.flatten(), atol=1e-5, rtol=0)
    spread = fields[1:] - fields[0]
    torch.testing.assert_close(spread.T @ spread, exact.covariance)
