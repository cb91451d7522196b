"""Errors of published codes (the card's section 9) as tests: each shows the error, and that ours does not have it."""

from __future__ import annotations

import itertools

import gaussian_bar as bar
import pytest
import torch
from torch import Tensor

from pdediff.diffusion import GaussianFieldPrior, GaussianPrior, GaussianRandomField, matern_field
from pdediff.errors import NumericalError
from pdediff.observe import GaussianNoise, Observation, PointSensors
from pdediff.posterior import DDNM, DPS, ECI, LGD, MMPS, FunDPS, GuidedSampling
from pdediff.posterior.mmps import some_conjugate_gradients
from pdediff.samplers import DDIM, edm_grid, run


def test_a_norm_over_the_whole_batch_weakens_guidance():
    """azula, SDA and InverseBench take the root of the sum over all rows: 100 equal rows weaken guidance by 10."""
    here = bar.problem(0)
    x, sigma = (here.prior.mean + 1.0).expand(100, 1, bar.SIZE), torch.full((100,), 1.0, dtype=torch.float64)

    def published(rows: int) -> Tensor:
        at = x[:rows].clone().requires_grad_()
        denoised = here.prior(at, sigma[:rows])
        loss = here.observation.white_residual(denoised).square().sum().sqrt()
        return (denoised[0] - 0.3 * 2 * torch.autograd.grad(loss, at)[0][0]).detach()

    ours = DPS(0.3)(here.prior, here.observation)
    plain = here.prior(x[:1], sigma[:1])[0]
    one, many = published(1) - plain, published(100) - plain
    assert float(one.norm() / many.norm()) == pytest.approx(10, rel=1e-6)
    torch.testing.assert_close(ours(x, sigma)[0], ours(x[:1], sigma[:1])[0])
    torch.testing.assert_close(ours(x, sigma)[0], published(1))


def test_draws_around_one_estimate_would_serve_one_row_only(mixture):
    """InverseBench's LGD broadcasts n draws against one estimate; ours has n draws for each row, around its own."""
    x = torch.stack([torch.zeros(1, 8), torch.full((1, 8), 3.0)]).double()
    sigma = torch.full((2,), 0.7).double()
    guided = LGD(draws=3)(mixture.prior, mixture.observation).keyed((1, 2))  # type: ignore[attr-defined]
    spread = guided.scattered(sigma)
    assert spread.shape == (2, 3, 1, 8)
    assert (spread[0] - spread[1]).abs().max() > 1e-2
    losses = guided.losses(x, spread)
    by_hand = [mixture.observation.white_residual(x[i] + spread[i]).square().sum(1) for i in range(2)]
    torch.testing.assert_close(losses, torch.stack(by_hand))


def _flow_of_eci(steps: int, noise: str, constrained: bool) -> tuple[float, float]:
    """Mean and variance of the second of two coordinates of correlation 0.8, the first known to be 1.5 if constrained.

    t from 0 (noise) to 1, x_t = t x1 + (1 - t) z, exact estimate. All maps are affine: the law of the state given as
    x = A (z0, z1, ...) + b, pushed exactly. "fixed" re-uses the first noise, "fresh" draws a new one, "predicted" takes
    the estimate's own.
    """
    s = torch.tensor([[1.0, 0.8], [0.8, 1.0]], dtype=torch.float64)
    eye, project = torch.eye(2, dtype=torch.float64), torch.eye(2, dtype=torch.float64)
    shift = torch.zeros(2, dtype=torch.float64)
    if constrained:
        project, shift = torch.diag(torch.tensor([0.0, 1.0])).double(), torch.tensor([1.5, 0.0]).double()
    # state = matrix z0 + shift_x with covariance `extra` of the fresh noises
    matrix, mean, extra = eye.clone(), torch.zeros(2, dtype=torch.float64), torch.zeros(2, 2, dtype=torch.float64)
    for t, after in itertools.pairwise(torch.linspace(0, 1, steps + 1, dtype=torch.float64).tolist()):
        gain = t * s @ torch.linalg.inv(t**2 * s + (1 - t) ** 2 * eye)
        end = project @ gain
        if noise == "predicted":
            step = after * end + (1 - after) * (eye - t * gain) / (1 - t)
            matrix, mean, extra = step @ matrix, step @ mean + after * shift, step @ extra @ step.T
        else:
            step = after * end
            matrix, mean, extra = step @ matrix, step @ mean + after * shift, step @ extra @ step.T
            if noise == "fixed":
                matrix = matrix + (1 - after) * eye
            else:
                extra = extra + (1 - after) ** 2 * eye
    covariance = matrix @ matrix.T + extra
    return float(mean[1]), float(covariance[1, 1])


def test_published_eci_is_no_flow_even_without_a_constraint():
    """Card: variance 9.5 (50 steps) or 46 (400) with the noise re-used, 0.5 with fresh noise, 0.99 as predicted."""
    assert _flow_of_eci(50, "fixed", False)[1] == pytest.approx(9.5, rel=0.15)
    assert _flow_of_eci(400, "fixed", False)[1] == pytest.approx(46, rel=0.15)
    assert _flow_of_eci(50, "fresh", False)[1] == pytest.approx(0.5, abs=0.15)
    assert _flow_of_eci(400, "predicted", False)[1] == pytest.approx(1.0, abs=0.02)


def test_our_eci_is_the_scheme_with_predicted_noise():
    """Constrained, 400 steps: card 1.17 and 0.18 with fresh noise, 1.19 and 11.4 with the noise re-used, 1.12 and 0.37
    with the predicted one, whose limit is the truth here, 1.20 and 0.36. Our guidance under a fine DDIM has that limit.
    """
    assert _flow_of_eci(400, "predicted", True) == pytest.approx((1.12, 0.37), abs=0.01)
    assert _flow_of_eci(400, "fresh", True) == pytest.approx((1.17, 0.18), abs=0.01)
    assert _flow_of_eci(400, "fixed", True)[1] == pytest.approx(11.4, abs=0.1)
    prior = GaussianPrior(torch.zeros(1, 2).double(), torch.tensor([[1.0, 0.8], [0.8, 1.0]]).double())
    sensor = PointSensors(torch.tensor([[0]]), torch.ones(1, 1).double())
    observation = Observation(torch.tensor([1.5]).double(), sensor, GaussianNoise(torch.ones(1).double()))
    method = ECI(steps=800, sigma_max=200.0, sigma_min=1e-3)
    unit = torch.cat([torch.zeros(1, 2), torch.eye(2)]).double()[:, None]
    out = run(method.plan(), prior, unit, [0] * 3, kernels={"eci": method.kernel(observation)}).flatten(1)
    assert (out[:, 0] - 1.5).abs().max() < 1e-9
    linear = (out[1:] - out[0]).T
    assert float(out[0, 1]) == pytest.approx(1.2, abs=0.02)
    assert float((200.0**2 * linear @ linear.T)[1, 1]) == pytest.approx(0.36, abs=0.02)
    # Two mixes at each level are another scheme with the same limit.
    twice = ECI(steps=800, mixes=2, sigma_max=200.0, sigma_min=1e-3)
    other = run(twice.plan(), prior, unit, [0] * 3, kernels={"eci": twice.kernel(observation)}).flatten(1)
    assert float(other[0, 1]) == pytest.approx(1.2, abs=0.02)
    assert twice.plan().nfe == 2 * method.plan().nfe == 1602


def test_gradients_on_function_space_do_not_depend_on_the_grid():
    """FunDPS without the noise's covariance: the pull of one sensor is a spike that narrows with the grid.

    With it the pull at the sensor, in units of the field, is the same on 32 and on 64 points.
    """
    noise = GaussianRandomField(length=0.1, smoothness=1.5)
    pulls, spikes = [], []
    for n in (32, 64):
        spectrum = matern_field((n,), length=0.1, smoothness=2.0).spectrum
        prior = GaussianFieldPrior(torch.zeros(1, n).double(), spectrum, noise)
        sensor = PointSensors(torch.tensor([[n // 4]]), torch.ones(1, 1).double())
        observation = Observation(torch.ones(1).double(), sensor, GaussianNoise(torch.ones(1).double()))
        x, sigma = torch.zeros(1, 1, n).double(), torch.ones(1).double()
        move = FunDPS(strength=1.0)(prior, observation)(x, sigma) - prior(x, sigma)
        at = x.clone().requires_grad_()
        (bare,) = torch.autograd.grad(observation.white_residual(prior(at, sigma)).square().sum(), at)
        pulls.append(float(move[0, 0, n // 4]))
        spikes.append(float(bare[0, 0, n // 4].abs()))
    print(f"pull {pulls}, without the covariance {spikes}")
    assert pulls[1] == pytest.approx(pulls[0], rel=0.05)
    assert spikes[1] < 0.8 * spikes[0]


def test_one_number_for_all_directions_overfits_the_poor_ones():
    """DDNM+ as published scales every direction by min(1, sigma / sigma_y) and trusts a weak one too long."""
    rows = torch.diag(torch.tensor([1.0, 0.01])).double()
    prior = GaussianPrior(torch.zeros(1, 2).double(), torch.eye(2).double())
    sensors = PointSensors(torch.arange(2).expand(2, 2).contiguous(), rows)
    observation = Observation(torch.tensor([1.0, 1.0]).double(), sensors, GaussianNoise(torch.full((2,), 0.1).double()))
    x, sigma = torch.zeros(1, 1, 2).double(), torch.tensor([0.5]).double()
    found = DDNM(noisy=True)(prior, observation)(x, sigma).flatten()
    # sigma s / sigma_y is 5 for the first direction and 0.05 for the second: y / s = 100 counts a twentieth.
    torch.testing.assert_close(found, torch.tensor([1.0, 5.0]).double())


def test_conjugate_gradients_step_row_by_row():
    """Two systems of different scale in one batch; a shared step size solves neither in two steps."""
    matrices = torch.stack([torch.diag(torch.tensor([1.0, 2.0])), torch.diag(torch.tensor([1e3, 7e3]))]).double()
    rhs = torch.tensor([[1.0, 1.0], [5.0, -2.0]]).double()
    found = some_conjugate_gradients(lambda q: (matrices @ q[..., None])[..., 0], rhs, 2)
    torch.testing.assert_close(found, torch.linalg.solve(matrices, rhs), rtol=1e-10, atol=0)
    indefinite = torch.diag(torch.tensor([1.0, -3.0])).double()
    kept = some_conjugate_gradients(lambda q: q @ indefinite, torch.tensor([[0.1, 1.0]]).double(), 5)
    assert torch.equal(kept, torch.zeros_like(kept))


class Twisted(GaussianPrior):
    """A denoiser whose Jacobian has a rotation in it: what training leaves of symmetry."""

    def __call__(self, x, sigma):
        plain = super().__call__(x, sigma)
        turn = torch.zeros(bar.SIZE, bar.SIZE, dtype=torch.float64)
        for i in range(0, bar.SIZE, 2):
            turn[i, i + 1], turn[i + 1, i] = 8.0, -8.0
        return plain + ((plain - self.mean).flatten(1) @ turn).reshape(x.shape)


def test_a_jacobian_that_is_no_covariance_needs_its_symmetric_part():
    """Conjugate gradients on V itself miss the tolerance; on (V + V^T) / 2 they meet it."""
    here = bar.problem(0)
    prior = Twisted(here.prior.mean, here.prior.covariance)
    x, sigma = here.prior.mean[None] + 0.5, torch.tensor([1.0], dtype=torch.float64)
    with pytest.raises(NumericalError, match="conjugate gradients left"):
        MMPS(None, 1e-8)(prior, here.observation)(x, sigma)
    found = MMPS(None, 1e-10, symmetric=True)(prior, here.observation)(x, sigma)
    rows = here.observation.rows(prior.mean).flatten(1)
    unit = torch.eye(bar.SIZE, dtype=torch.float64)[:, None]
    jacobian = (prior(unit, sigma.expand(bar.SIZE)) - prior(0 * unit, sigma.expand(bar.SIZE))).flatten(1).T
    v = jacobian.T  # sigma = 1: spread(w) = J^T w
    system = 0.01 * torch.eye(10).double() + rows @ (0.5 * (v + v.T)) @ rows.T
    denoised = prior(x, sigma)
    wanted = denoised.flatten() + v @ rows.T @ torch.linalg.solve(system, here.observation.residual(denoised)[0])
    torch.testing.assert_close(found.flatten(), wanted, rtol=1e-6, atol=1e-6)


def test_few_ancestral_steps_are_too_narrow_with_exact_guidance():
    """Card: variance ratios of 0.43 at 10 and 0.70 at 25 DDPM steps; a property of the kernel, not of the guidance."""
    here = bar.problem(0)
    guided = MMPS(None, 1e-10)(here.prior, here.observation)
    total = float(here.posterior.covariance.trace())
    ratios = [float(bar.ancestral(guided, steps)[1].trace()) / total for steps in (10, 25)]
    print(f"variance ratios at 10 and 25 DDPM steps: {ratios[0]:.2f}, {ratios[1]:.2f}")
    assert ratios == pytest.approx([0.43, 0.70], abs=0.08)
    assert edm_grid(40.0, 0.01, 10)[0] == 40.0


def test_the_norm_rule_does_not_settle():
    """DPS takes steps of fixed length however small the misfit: the last estimate is off by one of them."""
    here = bar.problem(0)
    misfits = []
    for last in (False, True):
        x = GuidedSampling(DPS(0.3), DDIM(eta=1.0), 60, denoise_last=last)(here.prior, here.observation, 32, 0).x
        misfits.append(float(here.observation.white_residual(x).square().mean()))
    assert misfits[1] > 3 * misfits[0]
