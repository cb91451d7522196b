"""Noise by Fourier bands: exact with the matching drift, biased by a known factor without."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
import torch

from pdediff.diffusion import matern_field
from pdediff.errors import ConfigError
from pdediff.samplers import (
    Band,
    DPMSolverPP,
    Lin,
    SpectralSDE,
    band_of,
    gaussian_start,
    response,
    run,
    uniform_lambda,
)
from pdediff.samplers.spectral_noise import TurningData

VARIANCES = np.array([4.0, 1.0, 0.3, 0.1])
BANDS = np.arange(4)
EARLY, LATE = (1.6, 1.2, 0.7, 0.0), (0.2, 0.8, 1.1, 1.9)


def ratios(sampler: SpectralSDE, n: int, start: float, stop: float) -> np.ndarray:
    """Variance over that of the marginal, mode i in band i."""
    plan = sampler.plan(uniform_lambda(start, stop, n))
    return response(plan, VARIANCES, BANDS).variance(VARIANCES + start**2) / (VARIANCES + stop**2)


@pytest.mark.parametrize("order", [1, 2])
@pytest.mark.parametrize("tau", [0.0, 0.5, 1.2])
def test_equal_shares_are_the_white_solver(order: int, tau: float) -> None:
    levels = [*uniform_lambda(80.0, 0.05, 6), 0.0]
    white = DPMSolverPP(order, tau).plan(levels)
    for matched in (True, False):
        plan = SpectralSDE((1.0,), (1.0,), tau, order, matched, s=0.3).plan(levels)
        for one, other in zip(plan.steps[1::2], white.steps[1::2], strict=True):
            if isinstance(one, Band) and isinstance(other, Lin):
                numbers = [c for _, (c,) in one.terms]
                assert numbers == pytest.approx([c for _, c in other.terms], rel=1e-12, abs=1e-15)
                assert one.variances[0] == pytest.approx(other.variance, rel=1e-12)
        assert plan.steps[-1] == Lin("x", ((plan.steps[-2].dst, 1.0),))


@pytest.mark.parametrize("order", [1, 2])
@pytest.mark.parametrize("stop", [2.0, 0.1])
def test_every_band_keeps_its_marginal(order: int, stop: float) -> None:
    """From the exact marginal, whatever the shares; weak order as promised."""
    steps = (80, 160, 320)
    errors = [np.abs(ratios(SpectralSDE(EARLY, LATE, 1.0, order), n, 40.0, stop) - 1.0).max() for n in steps]
    slope = -float(np.polyfit(np.log(steps), np.log(errors), 1)[0])
    assert abs(slope - order) < 0.3, errors
    assert errors[-1] < (0.03, 5e-4)[order - 1]


@pytest.mark.parametrize("tau", [0.6, 1.0])
def test_unmatched_noise_is_biased_by_the_closed_form(tau: float) -> None:
    """1 + (Q - 1) (1 - (P / P0)^(tau^2)): nearly the shares themselves, however many steps."""
    shares = np.array([0.25, 1.0, 1.75, 1.9])
    sampler = SpectralSDE(tuple(shares), tuple(shares), tau, 2, matched=False)
    fall = (VARIANCES + 0.1**2) / (VARIANCES + 40.0**2)
    exact = 1.0 + (shares - 1.0) * (1.0 - fall ** (tau**2))
    errors = [np.abs(ratios(sampler, n, 40.0, 0.1) - exact).max() for n in (200, 400)]
    assert errors[1] < 3e-4
    assert errors[1] < errors[0] / 3.0
    assert np.abs(exact - 1.0).max() > 0.7
    corrected = SpectralSDE(tuple(shares), tuple(shares), tau, 2)
    assert ratios(corrected, 400, 40.0, 0.1) == pytest.approx(np.ones(4), abs=1e-3)


def test_point_mass_with_constant_shares_has_the_variance_of_its_shares() -> None:
    """At any number of steps: e^(-2T) Q + Q (1 - e^(-2T)) = Q."""
    shares = (0.25, 1.75)
    plan = SpectralSDE(shares, shares, 1.0, 1, matched=False).plan(uniform_lambda(10.0, 0.2, 3))
    found = response(plan, np.zeros(2), np.arange(2)).variance(np.array(shares) * 100.0)
    assert found == pytest.approx(np.array(shares) * 0.04, rel=1e-12)


@pytest.mark.parametrize(("early", "late"), [(0.3, 1.7), (1.4, 0.0)])
def test_scale_rate_and_variance_are_of_one_strength(early: float, late: float) -> None:
    """rate = d(1 / S) / dlambda, S = sigma e^(-A), variance from 2 A: against quadrature of tau^2 itself."""
    of = TurningData(early, late, 0.7)
    start, stop = 3.0, 0.2
    nodes, weights = np.polynomial.legendre.leggauss(40)
    half = 0.5 * math.log(start / stop)
    clock = -math.log(start) + half * (nodes + 1.0)
    total = half * float(weights @ of.strength(np.exp(-clock)))
    assert of.scale(stop) / of.scale(start) == pytest.approx(stop / start * math.exp(-total), rel=1e-12)
    assert of.variance(start, stop) == pytest.approx(stop**2 * (1.0 - math.exp(-2.0 * total)), rel=1e-12)
    kappa = 1.0 / of.scale(stop) - 1.0 / of.scale(start)
    assert half * float(weights @ of.rate(clock)) == pytest.approx(kappa, rel=1e-12)
    far, near = of.strength(np.array([1e4, 1e-4]))
    assert (far, near) == pytest.approx((early, late), abs=1e-6)


def test_fields_have_the_spectrum_that_the_response_says() -> None:
    """2000 fields of 16 points: energy of each mode, chi-square bound of 5.5 standard errors."""
    prior = matern_field((16,), length=0.2, smoothness=1.5)
    plan = SpectralSDE(EARLY, LATE, 1.0, 1).plan(uniform_lambda(10.0, 0.1, 8))
    out = run(plan, prior, gaussian_start(prior, 10.0, range(2000)), range(2000, 4000))
    spectrum = prior.spectrum[0].numpy()
    exact = response(plan, spectrum, band_of((16,)).numpy()).variance(spectrum + 100.0)
    energy = (torch.fft.fft(out, dim=2, norm="ortho")[:, 0].abs() ** 2).mean(0).numpy()
    assert np.abs(energy / exact - 1.0).max() < 5.5 * math.sqrt(2.0 / 2000)


def test_shares_of_different_length_are_refused(oracle: Any) -> None:
    with pytest.raises(ConfigError, match="as many early as late shares, got 2 and 1"):
        SpectralSDE((1.0, 1.0), (1.0,))
