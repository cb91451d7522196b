"""One estimate of each guidance against dense algebra on a Gaussian prior, each row at its own level."""

from __future__ import annotations

import math
from collections.abc import Callable

import gaussian_bar as bar
import pytest
import torch
from torch import Tensor

from pdediff.diffusion import (
    CosineCovariance,
    DenseCovariance,
    DiagonalCovariance,
    GaussianRandomField,
    LowRankCovariance,
    isotropic,
    matern_field,
)
from pdediff.errors import ConfigError
from pdediff.observe import Differentiable, GaussianNoise, Observation, PointSensors
from pdediff.posterior import (
    DDNM,
    LGD,
    MMPS,
    SDA,
    STSL,
    TMPD,
    DiffPIR,
    DiffusionPDE,
    FlowChef,
    FunDPS,
    Guidance,
    PiGDM,
    TSDiff,
)
from pdediff.posterior.gain import ScalarGain
from pdediff.posterior.jfps import parallel
from pdediff.posterior.keyed import Keyed

Formula = Callable[[Tensor, Tensor, Tensor, Tensor, float], Tensor]
"""(D, V = Cov[x0 | x], rows of H, residual, sigma) -> what is added to D; the noise of the readings is 0.1."""

EYE = torch.eye(bar.READINGS, dtype=torch.float64)
R = bar.NOISE**2 * EYE


def J(v: Tensor, sigma: float) -> Tensor:
    """dD / dx."""
    return v / sigma**2


def _row_sums(d: Tensor, v: Tensor, h: Tensor, r: Tensor, sigma: float) -> Tensor:
    sums = (h @ v @ h.T).sum(1).clamp(min=0)
    return v @ h.T @ (r / (bar.NOISE**2 + sums))


def _ddnm(d: Tensor, v: Tensor, h: Tensor, r: Tensor, sigma: float) -> Tensor:
    u, s, vt = torch.linalg.svd(h, full_matrices=False)
    return vt.T @ ((sigma * s / bar.NOISE).clamp(max=1) / s * (u.T @ r))


def _pinball(d: Tensor, v: Tensor, h: Tensor, r: Tensor, sigma: float) -> Tensor:
    return 2.0 * sigma**2 * J(v, sigma) @ h.T @ (0.5 * r.sign()) / bar.NOISE


def _funds(d: Tensor, v: Tensor, h: Tensor, r: Tensor, sigma: float) -> Tensor:
    return 0.7 * min(sigma, 1.0) * 2 / bar.READINGS * J(v, sigma) @ h.T @ r / bar.NOISE**2


def _pigdm(r2: Callable[[Tensor, float], float], w: Callable[[Tensor, float], float]) -> Formula:
    return lambda d, v, h, r, s: w(v, s) * J(v, s) @ h.T @ torch.linalg.solve(R + r2(v, s) * h @ h.T, r)


def _flat(v: Tensor, s: float) -> float:
    return 0.7**2 * s**2 / (0.7**2 + s**2)


FORMULAS: list[tuple[Guidance, Formula]] = [
    (PiGDM("flat", "bayes", 0.7), _pigdm(_flat, lambda v, s: s**2)),
    (PiGDM("flat", "published", 0.7), _pigdm(_flat, _flat)),
    (PiGDM("sigma2"), _pigdm(lambda v, s: s**2, lambda v, s: s**2)),
    (PiGDM("calibrated"), _pigdm(lambda v, s: float(v.trace()) / bar.SIZE, lambda v, s: s**2)),
    (MMPS(None, 1e-12), lambda d, v, h, r, s: v @ h.T @ torch.linalg.solve(R + h @ v @ h.T, r)),
    (MMPS(1), lambda d, v, h, r, s: v @ h.T @ r * (r @ r) / (r @ (R + h @ v @ h.T) @ r)),
    (TMPD(), _row_sums),
    (SDA(3.0), lambda d, v, h, r, s: v @ h.T @ r / (bar.NOISE**2 * (1 + 3.0 * s**2))),
    (SDA(3.0, detached=True), lambda d, v, h, r, s: s**2 * h.T @ r / (bar.NOISE**2 * (1 + 3.0 * s**2))),
    (DiffPIR(2.0), lambda d, v, h, r, s: s**2 / 2 * h.T @ torch.linalg.solve(R + s**2 / 2 * h @ h.T, r)),
    (DDNM(noisy=False), lambda d, v, h, r, s: torch.linalg.pinv(h) @ r),
    (DDNM(noisy=True), _ddnm),
    (FlowChef(2.0, 5.0), lambda d, v, h, r, s: min(2.0 * (1 + s), 5.0) * h.T @ r),
    (TSDiff(2.0, "square"), lambda d, v, h, r, s: 2.0 * v @ h.T @ r / bar.NOISE**2),
    (TSDiff(2.0, "pinball"), _pinball),
    (STSL(0.7, 5.0), lambda d, v, h, r, s: 0.7 * (1 + s**2) * J(v, s) @ h.T @ r / bar.NOISE / r.norm()),
    (
        DiffusionPDE(strength=0.7, switch=1.0, late=0.2),
        lambda d, v, h, r, s: (0.7 if s > 1 else 0.14) * J(v, s) @ h.T @ r / bar.NOISE / r.norm(),
    ),
    (FunDPS(strength=0.7), _funds),
]


@pytest.mark.parametrize(("guidance", "formula"), FORMULAS, ids=[str(g) for g, _ in FORMULAS])
def test_estimate_by_matrices(guidance, formula):
    here = bar.problem(3)
    sigma = torch.tensor([0.05, 0.4, 1.7, 12.0], dtype=torch.float64)
    g = torch.Generator().manual_seed(1)
    x = (1 + sigma)[:, None, None] * torch.randn(4, 1, bar.SIZE, generator=g, dtype=torch.float64)
    found = guidance(here.prior, here.observation)(x, sigma)
    rows = here.observation.rows(here.prior.mean).flatten(1)
    for i, s in enumerate(sigma):
        denoised = here.prior(x[i : i + 1], s[None])
        residual = here.observation.residual(denoised)[0]
        move = formula(denoised[0].flatten(), here.prior.error(float(s)).matrix, rows, residual, float(s))
        expected = denoised[0].flatten() + move
        # The trace of STSL is a finite difference whose gradient cancels to 1e-9 of 5 sigma^2.
        atol = 1e-6 * float(1 + s**2)
        torch.testing.assert_close(found[i].flatten(), expected, rtol=1e-7, atol=atol)


def test_log_mean_exp_tends_to_pigdm():
    """LGD with many draws and a linear H: log mean exp is log N(y; H D, R + r^2 H H^T).

    Readings as noisy as the draws' own spread, so that the weights are mild: with 4096 draws of weights whose relative
    spread is about one, the gradient errs by 1 / sqrt(4096) of itself times a few.
    """
    here = bar.problem(2)
    observation = Observation(
        here.observation.y, here.observation.operator, GaussianNoise(torch.full((10,), 1.0).double())
    )
    x, sigma = here.prior.mean[None] + 0.3, torch.tensor([0.8], dtype=torch.float64)
    many = LGD(4096, "log_mean_exp")(here.prior, observation)
    wanted = PiGDM("flat", "bayes")(here.prior, observation)(x, sigma) - here.prior(x, sigma)
    found = many(x, sigma) - here.prior(x, sigma)
    error = float((found - wanted).norm() / wanted.norm())
    print(f"LGD with 4096 draws against PiGDM: {error:.3f}")
    assert error < 0.15
    few = LGD(16, "log_mean_exp")(here.prior, observation)(x, sigma) - here.prior(x, sigma)
    assert float((few - wanted).norm() / wanted.norm()) > 2 * error


def test_mean_loss_points_along_dps_on_average():
    """The gradient of the mean of squared losses is that of one loss plus noise that averages out."""
    here = bar.problem(2)
    sigma = torch.tensor([0.8], dtype=torch.float64)
    x = here.prior.mean[None] + 0.3
    denoised = here.prior(x, sigma)
    found = LGD(4096, "mean_loss", 1.0)(here.prior, here.observation)(x, sigma) - denoised
    plain = DiffusionPDE(strength=1.0, switch=1e-9)(here.prior, here.observation)(x, sigma) - denoised
    cosine = float((found * plain).sum() / (found.norm() * plain.norm()))
    assert cosine > 0.99
    # Damped: the draws add r^2 |H|^2 / R to the square of the norm under the root.
    assert found.norm() < 0.95 * (1 + 0.8**2) * plain.norm()


class Bent(Differentiable):
    """h(x) = H x + 0.4 (H x)^2."""

    def __init__(self, rows: Tensor) -> None:
        self.rows = rows

    def __call__(self, x: Tensor) -> Tensor:
        value = x.flatten(1) @ self.rows.to(x).T
        return value + 0.4 * value**2


LINEARISED = (PiGDM("sigma2"), DiffPIR(2.0), TMPD(), MMPS(None, 1e-12))
GAUSS_NEWTON = [(guidance, formula) for guidance, formula in FORMULAS if guidance in LINEARISED]


@pytest.mark.parametrize(("guidance", "formula"), GAUSS_NEWTON, ids=[str(g) for g, _ in GAUSS_NEWTON])
def test_nonlinear_operators_are_linearised_at_the_estimate(guidance, formula):
    """The same formulas with the derivative of H at D for its rows and the residual of the true map."""
    here = bar.problem(3)
    rows = here.observation.rows(here.prior.mean).flatten(1)
    bent = Observation(here.observation.y, Bent(rows), here.observation.noise)
    x, sigma = here.prior.mean[None] + 0.2, torch.tensor([0.6], dtype=torch.float64)
    denoised = here.prior(x, sigma)
    jacobian = (1 + 0.8 * (rows @ denoised.flatten()))[:, None] * rows
    move = formula(denoised.flatten(), here.prior.error(0.6).matrix, jacobian, bent.residual(denoised)[0], 0.6)
    found = guidance(here.prior, bent)(x, sigma)
    torch.testing.assert_close(found.flatten(), denoised.flatten() + move, rtol=1e-6, atol=1e-6)


def test_large_observations_are_solved_without_matrices():
    """The eigenvectors of A A^T and conjugate gradients give one answer."""
    here = bar.problem(4)
    at, variance = here.prior.mean[None].expand(3, 1, bar.SIZE), torch.tensor([1e-3, 0.5, 40.0], dtype=torch.float64)
    dense = ScalarGain.of(here.observation, here.prior).weights(at, variance)
    iterative = ScalarGain.of(here.observation, here.prior, dense_limit=1)
    assert iterative.values is None
    torch.testing.assert_close(iterative.weights(at, variance), dense, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("kind", ["dense", "diagonal", "fourier", "cosine", "box", "low rank", "fourier on fourier"])
def test_parallel_covariances_by_inverses(kind):
    shape, g = (1, 4, 4), torch.Generator().manual_seed(0)
    noise, field = isotropic(shape, 0.3), GaussianRandomField(0.2).covariance(shape)
    root = torch.randn(16, 16, generator=g, dtype=torch.float64)
    variance = 0.1 + torch.rand(shape, generator=g, dtype=torch.float64)
    prior = {
        "dense": DenseCovariance(root @ root.T, shape),
        "diagonal": DiagonalCovariance(variance),
        "fourier": matern_field((4, 4), length=0.3, smoothness=1.0).error(math.inf),
        "cosine": CosineCovariance(variance * (variance > 0.3)),  # singular, as of fields without a mean
        "box": CosineCovariance(variance[:, :3, :2], ((0, 1), (1, 1))),
        "low rank": LowRankCovariance(variance, root[:3].reshape(3, *shape)),
        "fourier on fourier": matern_field((4, 4), length=0.3, smoothness=1.0).error(math.inf),
    }[kind]
    other = field if kind == "fourier on fourier" else noise
    unit = torch.eye(16, dtype=torch.float64).reshape(16, *shape)
    s, m, found = (c.matvec(unit).flatten(1) for c in (prior, other, parallel(prior, other)))
    wanted = s - s @ torch.linalg.solve(s + m, s)
    torch.testing.assert_close(found, wanted, rtol=1e-9, atol=1e-10)


def test_covariances_without_a_common_form_are_refused():
    low = LowRankCovariance(torch.ones(1, 4, 4).double(), torch.ones(1, 1, 4, 4).double())
    with pytest.raises(ConfigError, match="no common form of LowRankCovariance"):
        parallel(low, GaussianRandomField(0.2).covariance((1, 4, 4)))


def test_random_guidance_draws_by_row_and_seed(mixture):
    """Keyed rows do not change with the batch, other seeds change them, and a wrong batch is refused."""
    x, sigma = torch.ones(3, 1, 8).double(), torch.full((3,), 0.7).double()
    for guidance in (LGD(4), STSL(curvature=1.0), TSDiff()):
        guided = guidance(mixture.prior, mixture.observation)
        assert isinstance(guided, Keyed)
        many, one = guided.keyed((5, 6, 7))(x, sigma), guided.keyed((6,))(x[:1], sigma[:1])
        torch.testing.assert_close(many[1:2], one, rtol=0, atol=1e-10)
        assert (many[0] - many[1]).abs().max() > 1e-6
    with pytest.raises(ConfigError, match="2 seeds was called with 3 rows"):
        LGD(4)(mixture.prior, mixture.observation).keyed((1, 2))(x, sigma)
    assert isinstance(mixture.observation.operator, PointSensors)
