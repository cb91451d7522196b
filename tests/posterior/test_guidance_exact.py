"""Guidance on a Gaussian prior by exact push-forward: what is exact converges, what is biased has the known bias."""

from __future__ import annotations

import itertools
import math
from functools import cache

import gaussian_bar as bar
import pytest
import torch

from pdediff.posterior import (
    DDNM,
    JFPS,
    MMPS,
    SDA,
    TMPD,
    CalibratedGuidance,
    DiffPIR,
    FlowChef,
    Guidance,
    HardConstraint,
    HybridGuidance,
    PiGDM,
)
from pdediff.samplers import DDIM, STATE, DPMSolverPP, Eval, Lin, Plan, edm_grid, uniform_lambda

EXACT = {
    "mmps": MMPS(iterations=None, tolerance=1e-10),
    "mmps, symmetric": MMPS(iterations=None, tolerance=1e-10, symmetric=True),
    "jfps": JFPS(),
    "calibrated": CalibratedGuidance(),
    "hybrid": HybridGuidance(),
}


@cache
def second_order(guidance: Guidance, steps: int, seed: int = 0, tau: float | None = None) -> tuple:
    here = bar.problem(seed, tau)
    plan = DPMSolverPP().plan(edm_grid(bar.SIGMA_MAX, bar.SIGMA_MIN, steps))
    return (*bar.pushed(guidance(here.prior, here.observation), plan), here.posterior)


@pytest.mark.parametrize("name", EXACT)
def test_exact_methods_reach_the_posterior(name, bures):
    """The card's table 4: 0.048, 0.017, 0.0136 at 16, 32, 64 steps of 2M, on its own problems.

    The last is the floor of the start N(0, 40^2) in place of the true law there, which no guidance can remove: it lies
    between 0.010 and 0.014 on three problems of this recipe.
    """
    found = [bures(*second_order(EXACT[name], steps)) for steps in (16, 32, 64)]
    print(f"{name}: " + ", ".join(f"{value:.4f}" for value in found))
    assert found[0] < 0.075
    assert found[1] < 0.021
    assert found[2] < 0.0145


def test_exact_methods_are_one_method(bures):
    """Jacobian, prior covariance, measured error and curvature: the same matrix for a Gaussian, so the same draws."""
    mean, covariance, _ = second_order(EXACT["mmps"], 16)
    for guidance in EXACT.values():
        other_mean, other_covariance, _ = second_order(guidance, 16)
        # The hybrid's finite difference is exact for an affine denoiser; MMPS solves to 1e-10.
        torch.testing.assert_close(other_mean, mean, rtol=0, atol=1e-7)
        torch.testing.assert_close(other_covariance, covariance, rtol=0, atol=1e-7)


def test_ancestral_sampling_converges_at_order_one(bures):
    """Card: 0.247, 0.137, 0.073 at 16, 32, 64 DDPM steps with exact guidance; halving the step halves the error."""
    here = bar.problem(0)
    guided = EXACT["calibrated"](here.prior, here.observation)
    found = [bures(*bar.ancestral(guided, steps), here.posterior) for steps in (16, 32, 64)]
    assert found == pytest.approx([0.247, 0.137, 0.073], rel=0.1)
    assert math.log2(found[1] / found[2]) == pytest.approx(1, abs=0.15)


def test_second_order_sampler_keeps_its_order(bures):
    """Against its own limit, which the start keeps away from the posterior; uniform log steps, 20 to 40."""
    here = bar.problem(0)
    guided = MMPS(iterations=None, tolerance=1e-12)(here.prior, here.observation)
    means, roots = [], []
    for steps in (20, 40, 160):
        mean, covariance = bar.pushed(guided, DPMSolverPP().plan(uniform_lambda(40.0, 0.01, steps)))
        means.append(mean)
        roots.append(covariance)
    limit = means[-1]
    order = math.log2((means[0] - limit).norm() / (means[1] - limit).norm())
    spread = math.log2((roots[0] - roots[-1]).norm() / (roots[1] - roots[-1]).norm())
    print(f"order of the mean {order:.2f}, of the covariance {spread:.2f}")
    assert order > 1.67
    assert spread > 1.67


def test_pigdm_is_exact_for_white_priors(bures):
    """Prior tau^2 I and r^2 = tau^2 sigma^2 / (tau^2 + sigma^2), by the flat rule and by the measured variance.

    Then its matrix is that of the exact method. The published weight is r^2 / sigma^2 of the right one.
    """
    mean, covariance, exact = second_order(EXACT["mmps"], 32, 1, 0.5)
    for guidance in (PiGDM("flat", s=0.5), PiGDM("calibrated")):
        other_mean, other_covariance, _ = second_order(guidance, 32, 1, 0.5)
        torch.testing.assert_close(other_mean, mean, rtol=0, atol=1e-7)
        torch.testing.assert_close(other_covariance, covariance, rtol=0, atol=1e-7)
    assert bures(mean, covariance, exact) < 0.02
    assert bures(*second_order(PiGDM("flat", "published", 0.5), 32, 1, 0.5)) > 0.1


BIASED = [
    # bias on three problems of the recipe (2M, 64 steps), and on the card's where it has the row
    (PiGDM("flat"), (0.27, 0.35), 0.289),
    (PiGDM("flat", "published"), (0.40, 0.51), 0.459),
    (PiGDM("calibrated"), (0.09, 0.19), 0.205),
    (PiGDM("sigma2"), (0.40, 0.51), None),
    (TMPD(), (0.35, 0.68), None),
    (SDA(gamma=10.0), (0.12, 0.15), None),
    (DiffPIR(), (0.38, 0.50), None),
    (DDNM(noisy=True), (0.38, 0.50), None),
    (DDNM(noisy=False), (0.39, 0.51), None),
    (HardConstraint(), (0.39, 0.51), None),
    (MMPS(iterations=3), (0.025, 0.05), None),
]


@pytest.mark.parametrize(("guidance", "within", "card"), BIASED)
def test_biased_methods_have_the_known_bias(guidance, within, card, bures):
    """Exact numbers: a bias that changes is a changed method, whichever way. More steps do not remove it."""
    found = [bures(*second_order(guidance, 64, seed)) for seed in range(3)]
    mean = sum(found) / 3
    print(f"{guidance}: {mean:.3f} on three problems, card {card}")
    assert within[0] < min(found)
    assert max(found) < within[1]
    if card is not None:
        # The spread over problems is 20 %: the card's three are not ours.
        assert mean == pytest.approx(card, rel=0.35)
    coarse = sum(bures(*second_order(guidance, 32, seed)) for seed in range(3)) / 3
    assert coarse == pytest.approx(mean, rel=0.1)


def test_diffpir_with_fresh_noise_has_the_bias_of_the_card(bures):
    """x' = D_y + t z (the paper's zeta = 1): 0.421, 0.367, 0.350 at 16, 32, 64 steps for lambda = 1."""
    here = bar.problem(1)
    guided = DiffPIR(weight=1.0)(here.prior, here.observation)
    eye = torch.eye(bar.SIZE, dtype=torch.float64)
    unit = torch.cat([torch.zeros(1, bar.SIZE).double(), eye]).reshape(-1, 1, bar.SIZE)
    for steps, card in ((16, 0.421), (32, 0.367), (64, 0.350)):
        mean, covariance = bar.start()
        levels = edm_grid(bar.SIGMA_MAX, bar.SIGMA_MIN, steps)
        for sigma, after in itertools.pairwise(levels):
            out = guided(unit, torch.full((len(unit),), sigma, dtype=torch.float64)).flatten(1)
            linear = (out[1:] - out[0]).T
            mean, covariance = linear @ mean + out[0], linear @ covariance @ linear.T + after**2 * eye
        found = bures(mean, covariance, here.posterior)
        print(f"DiffPIR, fresh noise, {steps} steps: {found:.3f}, card {card}")
        assert found == pytest.approx(card, rel=0.25)


def test_decoupled_steps_with_the_exact_covariance_are_exact_at_any_number_of_steps(bures):
    """T3: x0 ~ N(D_y, V_y), then x' = x0 + t z. Exact from the exact start, at 4 steps."""
    here = bar.problem(0)
    guided = MMPS(iterations=None, tolerance=1e-12)(here.prior, here.observation)
    eye = torch.eye(bar.SIZE, dtype=torch.float64)
    unit = torch.cat([torch.zeros(1, bar.SIZE).double(), eye]).reshape(-1, 1, bar.SIZE)
    rows = here.observation.rows(here.prior.mean).flatten(1)
    mean, covariance = here.posterior.mean.flatten(), here.posterior.covariance + 40.0**2 * eye
    for sigma, after in ((40.0, 9.0), (9.0, 2.0), (2.0, 0.3), (0.3, 0.0)):
        out = guided(unit, torch.full((len(unit),), sigma, dtype=torch.float64)).flatten(1)
        linear = (out[1:] - out[0]).T
        inverse = torch.linalg.inv(here.prior.error(sigma).matrix) + rows.T @ rows / bar.NOISE**2
        mean = linear @ mean + out[0]
        covariance = linear @ covariance @ linear.T + torch.linalg.inv(inverse) + after**2 * eye
    # The cancellation in a covariance of 1600 leaves 1e-9 of it.
    assert bures(mean, covariance, here.posterior) < 1e-4


def test_flowchef_stands_where_its_stability_ends(bures):
    """h strength |H|^2 < 1.6: stable and within half a posterior std at 160 steps, divergent at 30."""
    here = bar.problem(0)
    rows = here.observation.rows(here.prior.mean).flatten(1)
    largest = float(torch.linalg.eigvalsh(rows @ rows.T)[-1])
    guided = FlowChef(strength=10.0)(here.prior, here.observation)
    found = {}
    for steps in (30, 160):
        plan = DDIM().plan(uniform_lambda(bar.SIGMA_MAX, bar.SIGMA_MIN, steps))
        found[steps] = bures(*bar.pushed(guided, plan), here.posterior)
        print(f"h strength |H|^2 = {math.log(4000) / steps * 10 * largest:.2f}: {found[steps]:.3g}")
    assert found[160] < 0.5
    assert found[30] > 10


def test_plans_of_the_bar_are_what_they_claim():
    """The reader of affine maps finds the map of a plan that is known: one DDIM step to zero is the denoiser."""
    here = bar.problem(0)
    plan = Plan((Eval("d", STATE, 40.0), Lin(STATE, (("d", 1.0),))), (40.0,))
    mean, covariance = bar.pushed(here.prior, plan)
    gain = here.prior.covariance @ torch.linalg.inv(here.prior.covariance + 1600 * torch.eye(64).double())
    torch.testing.assert_close(covariance, 1600 * gain @ gain.T)
    torch.testing.assert_close(mean, here.prior.mean.flatten() - gain @ here.prior.mean.flatten())
