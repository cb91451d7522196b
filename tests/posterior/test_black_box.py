"""Methods that only evaluate the operator: laws of one step in closed form, and no derivative asked of a black box."""

from __future__ import annotations

import math

import gaussian_bar as bar
import pytest
import torch
from test_references_alternations import bar as gaussian
from test_references_alternations import conditional, inflated
from torch import Tensor

from pdediff.diffusion import GaussianPrior, GaussianRandomField, matern_field
from pdediff.errors import NumericalError
from pdediff.observe import BlackBox, GaussianNoise, Observation, PointSensors
from pdediff.posterior import CPS, DPG, DPS, DPSGSG, SCG, Blade, Decoupled, GuidedSampling
from pdediff.posterior.probes import ddpm_kernel, denoised_rows, probes
from pdediff.posterior.scg import best_next
from pdediff.samplers import DDIM, edm_grid, gaussian_start
from pdediff.types import Purpose, derive_many, fold


def normals(seed: int, *shape: int) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


@pytest.mark.parametrize(
    "method",
    [
        SCG(4, steps=8),
        CPS(4, 2, steps=8),
        Blade(16, steps=2, moves=3, prior_steps=2),
        GuidedSampling(DPG(16), DDIM(eta=1.0), 6, denoise_last=False),
        GuidedSampling(DPSGSG(queries=16), DDIM(eta=1.0), 6, denoise_last=False),
    ],
    ids=lambda m: type(getattr(m, "guidance", m)).__name__,
)
def test_a_black_box_is_only_evaluated(method):
    """The same draws as from the operator itself, of which nothing but values was asked."""
    prior, observation, _ = gaussian(8, 3)
    calls = 0

    def hidden(x: Tensor) -> Tensor:
        nonlocal calls
        calls += len(x)
        return observation.operator(x)

    black = Observation(observation.y, BlackBox(hidden, "hidden"), observation.noise)
    x = method(prior, black, 3, 1)
    assert calls > 0
    if "forward_calls" in x.diagnostics:
        assert calls == pytest.approx(3 * x.diagnostics["forward_calls"])
    bent = Observation(observation.y, BlackBox(lambda x: observation.operator(x) * torch.nan, "nan"), observation.noise)
    if isinstance(method, SCG | CPS | Blade):
        with pytest.raises(NumericalError, match=r"left the numbers|no number"):
            method(prior, bent, 3, 1)


def test_probes_do_not_depend_on_the_batch_and_have_the_law_of_the_noise():
    """In parts, because all at once may not fit; two fields of one row share nothing."""
    noise, shape = GaussianRandomField(0.2, 1.5), (2, 64)
    drawn = torch.cat(list(probes(noise, (5, 6, 7), 300, shape, torch.float64)), 1)
    assert drawn.shape == (3, 300, *shape)
    assert len(list(probes(noise, (5,), 300, shape, torch.float64))) == 3
    alone = torch.cat(list(probes(noise, (6,), 300, shape, torch.float64)), 1)
    assert torch.equal(alone[0], drawn[1])
    assert len(torch.unique(drawn[:, :, 0, 0])) == 900
    power = torch.fft.fft(drawn, norm="ortho").abs().square().mean((0, 1, 2))
    wanted = noise.covariance(shape).spectrum[0]
    # Mean of 1800 (modes 0 and 32) or 3600 squared normals.
    assert ((power / wanted - 1).abs() < 6 * math.sqrt(2 / 1800)).all()


def test_scg_takes_the_best_of_n_by_its_law():
    """One step in one dimension: P(no candidate nearer than u) = (1 - P(|D - y| < u))^n, uniform for each row."""
    prior, n, rows, levels = GaussianPrior(torch.zeros(1, 1).double(), torch.ones(1, 1).double()), 5, 2000, (2.0, 0.7)
    sensor = PointSensors(torch.tensor([[0]]), torch.ones(1, 1).double())
    observation = Observation(torch.tensor([0.4]).double(), sensor, GaussianNoise(torch.ones(1).double()))
    x = torch.full((rows, 1, 1), 1.3).double()
    denoised = denoised_rows(prior, x, levels[0])
    moved, found = best_next(prior, observation, (x, denoised), levels, n, tuple(range(rows)))
    torch.testing.assert_close(found, denoised_rows(prior, moved, levels[1]))
    mean, spread = ddpm_kernel(x[:1], denoised[:1], *levels)
    gain = 1 / (1 + levels[1] ** 2)
    law = torch.distributions.Normal(gain * mean.flatten(), gain * spread)
    near = (found.flatten() - 0.4).abs()
    survival = (1 - (law.cdf(0.4 + near) - law.cdf(0.4 - near))) ** n
    # Kolmogorov-Smirnov: 2.7 / sqrt(n) is a false alarm below 1e-6.
    gaps = survival.sort().values - (torch.arange(rows).double() + 0.5) / rows
    assert float(gaps.abs().max()) < 2.7 / math.sqrt(rows)


def test_scg_with_one_candidate_is_the_prior():
    """Its moments: DDPM from the exact Gaussian start, pushed through; the readings say nothing."""
    here, method = bar.problem(0), SCG(1, steps=12, sigma_max=20.0)
    x = method(here.prior, here.observation, 3, 4)
    assert x.diagnostics == {"denoiser_calls": 12.0, "network_vjps": 0.0, "forward_calls": 0.0}
    levels, seeds = edm_grid(20.0, 0.02, 11), derive_many(4, Purpose.STEP, range(3))
    state = gaussian_start(here.prior, 20.0, derive_many(4, Purpose.START, range(3)))
    for step in range(11):
        mean, spread = ddpm_kernel(state, denoised_rows(here.prior, state, levels[step]), *levels[step : step + 2])
        (z,) = probes(here.prior.noise, fold(seeds, step), 1, here.prior.shape, torch.float64)
        state = mean + spread * z[:, 0]
        c_x, c_denoised, variance = DDIM(eta=1.0).coefficients(*levels[step : step + 2])
        assert spread**2 == pytest.approx(variance)
        assert (1 - c_denoised) == pytest.approx(c_x)
    torch.testing.assert_close(x.x, denoised_rows(here.prior, state, levels[-1]))
    fits = [
        float(here.observation.log_prob(SCG(k, steps=12, sigma_max=20.0)(here.prior, here.observation, 16, 4).x).mean())
        for k in (1, 4, 16)
    ]
    assert fits[0] < fits[1] < fits[2]


@pytest.mark.parametrize("noise", ["white", "coloured"])
def test_cps_moves_along_the_operator_by_the_length_of_a_draw(noise):
    """|move|^2 in the metric of the noise is the number of points; its direction tends to N (dH(D) / dx)^T r."""
    prior = matern_field((16,), length=0.2, smoothness=1.5)
    if noise == "coloured":
        prior = type(prior)(prior.mean, prior.spectrum, GaussianRandomField(0.1, 1.0))
    covariance, levels = prior.noise.covariance(prior.shape), (1.5, 0.8)
    sensors = PointSensors.at([0, 0, 0], torch.tensor([[2.0], [7.5], [12.0]]).double(), (1, 16))
    std = torch.tensor([0.1, 0.3, 0.2]).double()
    observation = Observation(torch.tensor([1.0, -0.5, 0.7]).double(), sensors, GaussianNoise(std))
    x = normals(0, 4, 1, 16)
    mean, spread = ddpm_kernel(x, denoised_rows(prior, x, levels[0]), *levels)
    eps = torch.cat(list(probes(prior.noise, (1, 2, 3, 4), 20000, (1, 16), torch.float64)), 1)
    found = CPS().direction(prior, observation, mean, spread * eps, levels[1])
    lengths = (found * covariance.solve(found)).flatten(1).sum(1)
    torch.testing.assert_close(lengths, torch.full((4,), 16.0).double())
    rows = observation.whitened().rows(prior.mean)
    residual = observation.white_residual(denoised_rows(prior, mean, levels[1]))
    # The denoiser of a field is symmetric in the metric of the noise: (dH(D) / dx)^T r = J^T H^T r.
    pulled = torch.einsum("km,mcs->kcs", residual, rows)
    zero = torch.zeros(1, 1, 16).double()
    jacobian = (
        denoised_rows(prior, torch.eye(16).double()[:, None], levels[1]) - denoised_rows(prior, zero, levels[1])
    ).flatten(1)
    wanted = covariance.matvec((pulled.flatten(1) @ jacobian.T)[:, None])
    cosine = (found * covariance.solve(wanted)).flatten(1).sum(1)
    cosine = cosine / (lengths * (wanted * covariance.solve(wanted)).flatten(1).sum(1)).sqrt()
    # Each of 16 directions is known to about |signal| sqrt(2 + 3) / sqrt(20000).
    assert float(cosine.min()) > 1 - 16 * 5 / 20000


@pytest.mark.parametrize("scheme", ["central", "forward"])
def test_smoothed_gradients_have_the_mean_and_the_variance_of_their_formula(scheme):
    """Linear H: no bias at any mu for either scheme; central: covariance (|g|^2 I + g g^T) / queries, at any mu."""
    here, rows, queries = bar.problem(0), 600, 20
    point = here.prior.mean[None] + 0.3 * normals(0, 1, 1, bar.SIZE)
    guided = DPSGSG(queries=queries, mu=0.5, scheme=scheme)(here.prior, here.observation)
    points = point.expand(rows, 1, bar.SIZE)
    found = guided.smoothed(points, guided.loss(points), tuple(range(rows))).flatten(1)
    white = here.observation.whitened()
    gradient = -2 * white.operator.vjp(point, white.residual(point)).flatten()
    error = (found.mean(0) - gradient) / found.std(0) * math.sqrt(rows)
    assert float(error.abs().max()) < 6
    total = float((found - gradient).square().sum(1).mean())
    wanted = float((bar.SIZE + 1) * gradient.square().sum()) / queries
    if scheme == "central":
        # A sum of 64 scaled squares, 600 times: 6 times its relative standard error, which is below 3 / sqrt(600).
        assert total == pytest.approx(wanted, rel=6 * 0.5 / math.sqrt(rows) * 3)
    else:
        assert total > wanted


def test_dps_gsg_with_all_directions_is_dps():
    """In four dimensions with 40 000 queries: the estimate of DPS to the error of the gradient, 1 / sqrt(8000)."""
    prior, observation, _ = gaussian(4, 2)
    x = prior.mean + normals(3, 3, 1, 4)
    sigma = torch.tensor([0.3, 0.8, 2.0], dtype=torch.float64)
    move = DPSGSG(queries=40000)(prior, observation)(x, sigma) - prior(x, sigma)
    exact = DPS(0.3)(prior, observation)(x, sigma) - prior(x, sigma)
    assert float(((move - exact).norm(dim=2) / exact.norm(dim=2)).max()) < 0.08


def test_policy_gradient_is_that_of_the_expected_reward():
    """E w for a quadratic loss is a Gaussian integral: its gradient in D is the mean of g; the step has one length."""
    prior, observation, _ = gaussian(8, 3)
    white = observation.whitened()
    point, radius, rows = prior.mean[None] + 0.2 * normals(5, 1, 1, 8), 0.05, 400
    at = point.clone().requires_grad_()
    a = white.rows(prior.mean).flatten(1)
    with torch.no_grad():
        here = float(white.residual(point).square().sum())
    # E exp(1 - |r - A r eps|^2 / l0) with l0 held: mean r, covariance radius^2 A A^T.
    inner = torch.eye(3).double() + 2 * radius**2 / here * a @ a.T
    residual = white.residual(at)[0]
    expected = (
        math.e * torch.linalg.det(inner) ** -0.5 * torch.exp(-residual @ torch.linalg.solve(inner, residual) / here)
    )
    (gradient,) = torch.autograd.grad(expected, at)
    guided = DPG(draws=200)(prior, observation)
    radii = torch.full((rows,), radius, dtype=torch.float64)
    found = guided.policy_gradient(point.expand(rows, 1, 8), radii, tuple(range(rows))).flatten(1)
    error = (found.mean(0) - gradient.flatten()) / found.std(0) * math.sqrt(rows)
    assert float(error.abs().max()) < 6
    assert float(found.mean(0).norm()) > 20 * float(found.std(0).norm()) / math.sqrt(rows)
    x, sigma = prior.mean + normals(6, 3, 1, 8), torch.tensor([0.2, 1.0, 5.0], dtype=torch.float64)
    step = (guided(x, sigma) - prior(x, sigma)).flatten(1).norm(dim=1)
    torch.testing.assert_close(step, 0.2 * math.sqrt(8) * sigma**2 / (1 + sigma**2).sqrt())


@pytest.mark.parametrize("metric", ["members", "displacements"])
def test_the_likelihood_step_of_blade_has_the_exact_conditional_law(metric):
    """20 ensembles of 40 members around points of their own, 8 dimensions: mean and covariance, whitened."""
    prior, observation, _ = gaussian(8, 3)
    noise, rho, count, members = prior.noise.covariance(prior.shape), 0.5, 20, 40
    inner = Decoupled.of(prior, observation, lambda level: noise.scaled(level**2))
    x = prior.mean + 0.7 * normals(0, count * members, 1, 8)
    z = x + rho * normals(1, count * members, 1, 8)
    method = Blade(members, moves=150, rate=0.2, metric=metric)
    out = method.likelihood_draw(prior, observation.whitened(), x, z, rho, tuple(range(count)))
    factor = torch.linalg.cholesky(conditional(inner, rho))
    white = torch.linalg.solve_triangular(factor, (out - inner.mean(x, rho)).flatten(1).T, upper=False)
    assert float((white.mean(1) * math.sqrt(count * members)).abs().max()) < 6
    # The step adds up to 1 / (1 - 0.1) in the stiffest direction; members of an ensemble are not independent.
    values = torch.linalg.eigvalsh(white @ white.T / (count * members))
    print(f"Blade, {metric}: whitened variances {float(values.min()):.3f} to {float(values.max()):.3f}")
    edge = 6 * math.sqrt(2 / (count * members))
    assert 1 - edge < float(values.min())
    assert float(values.max()) < 1 / 0.9 + edge


def test_blade_settles_at_the_law_of_inflated_noise(moments):
    """As `PnPDM`, from evaluations alone: 8 dimensions, five ensembles of 60."""
    prior, observation, exact = gaussian(8, 3)
    method = Blade(60, steps=10, moves=40, rate=0.3, rho_max=3.0, rho_min=0.8, prior_steps=10, metric="displacements")
    x = method(prior, observation, 300, 0).x
    found, off = moments(x, inflated(prior, observation, 0.8)), moments(x, exact)
    print(f"Blade: {found}; against the posterior {off}")
    # Members see each other: their mean is known less well than that of independent draws.
    assert abs(found.mean) < 0.15
    assert found.spread == pytest.approx(1, abs=0.2)
    assert abs(off.z_mean) > abs(found.z_mean) or abs(off.z_spread) > abs(found.z_spread)
