"""Grids by hand, and the pilot grid against grids that know nothing of the prior."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from pdediff.diffusion import matern_field
from pdediff.errors import ConfigError
from pdediff.samplers import (
    PC,
    Default,
    blended,
    edm_grid,
    equal_mass,
    pilot_grid,
    response,
    uniform_lambda,
    uniform_phi,
    uniform_u,
)


def test_worked_numbers() -> None:
    assert uniform_lambda(8.0, 1.0, 3) == pytest.approx([8.0, 4.0, 2.0, 1.0])
    assert edm_grid(128.0, 0.0, 2) == pytest.approx([128.0, 1.0, 0.0])
    # u from 3/4 to 1/4 with s = 1: the middle 1/2 is sigma = 1.
    assert uniform_u(3.0, 1.0 / 3.0, 2) == pytest.approx([3.0, 1.0, 1.0 / 3.0])
    assert uniform_u(6.0, 2.0 / 3.0, 2, s=2.0) == pytest.approx([6.0, 2.0, 2.0 / 3.0])
    assert uniform_phi(3.0**0.5, 0.0, 2) == pytest.approx([3.0**0.5, 3.0**-0.5, 0.0])
    # Density 2 on the first half of lambda and 0 on the second (a jump one interval wide).
    lambdas = np.linspace(0.0, 1.0, 2001)
    levels = equal_mass(lambdas, np.where(lambdas < 0.5, 2.0, 1e-9), 4)
    assert -np.log(levels[:4]) == pytest.approx([0.0, 0.125, 0.25, 0.375], abs=1e-3)


def test_blend_halves_both_masses() -> None:
    levels = np.array(blended(80.0, 0.002, 16))
    u = levels / (1.0 + levels)
    mass = (u[0] - u) / (u[0] - u[-1]) + np.log(levels[0] / levels) / np.log(levels[0] / levels[-1])
    assert mass == pytest.approx(np.linspace(0.0, 2.0, 17), abs=1e-5)  # 4000 intervals of a trapezoid


@pytest.mark.parametrize("grid", [uniform_lambda, edm_grid, uniform_u, uniform_phi, blended])
def test_grids_decrease_between_the_given_ends(grid: Any) -> None:
    for n in (1, 2, 40):
        levels = grid(80.0, 0.002, n)
        assert (len(levels), levels[0], levels[-1]) == (n + 1, 80.0, 0.002)
        assert (np.diff(levels) < 0.0).all()
    for wrong in ((1.0, 2.0, 4), (2.0, -1.0, 4), (2.0, 1.0, 0), (float("nan"), 1.0, 3), (float("inf"), 1.0, 3)):
        with pytest.raises(ConfigError, match="a grid needs"):
            grid(*wrong)
    if grid in (uniform_lambda, blended):
        with pytest.raises(ConfigError, match="sigma_min > 0"):
            grid(1.0, 0.0, 4)


def spectral_error(prior: Any, sampler: Any, levels: list[float]) -> tuple[float, float]:
    """Worst relative error of a Fourier mode's standard deviation, and the RMS error of the path; both exact."""
    v = prior.spectrum.flatten().numpy()
    gain = np.abs(response(sampler.plan(levels), v).gain)
    exact = np.sqrt((v + levels[-1] ** 2) / (v + levels[0] ** 2))
    spread = np.sqrt(v + levels[0] ** 2)
    return float(np.abs(gain / exact - 1.0).max()), float(np.sqrt((((gain - exact) * spread) ** 2).mean()))


@pytest.mark.parametrize("smoothness", [1.5, 3.0])
def test_pilot_grid_beats_the_grids_that_know_nothing(smoothness: float) -> None:
    """On fields with a rough and a steep spectrum; the error is exact, the pilot sees 16 noises."""
    prior = matern_field((16, 16), length=0.2, smoothness=smoothness)
    sampler, n, ends = Default(), 20, (80.0, 0.003)
    pilot = pilot_grid(prior, sampler, n, *ends, seeds=tuple(range(16)), evaluations=60)
    assert (len(pilot), pilot[0], pilot[-1]) == (n + 1, *ends)
    assert pilot == pilot_grid(prior, sampler, n, *ends, seeds=tuple(range(16)), evaluations=60)
    rms = spectral_error(prior, sampler, pilot)[1]
    others = [spectral_error(prior, sampler, grid(*ends, n))[1] for grid in (uniform_lambda, uniform_u, edm_grid)]
    assert rms < min(others), (rms, others)


def test_objectives_weigh_modes_differently() -> None:
    prior = matern_field((64,), length=0.3, smoothness=2.0)
    sampler, ends = PC("x0", 3), (80.0, 0.003)
    found = {
        name: spectral_error(prior, sampler, pilot_grid(prior, sampler, 20, *ends, name, tuple(range(16))))
        for name in ("rms", "spectral")
    }
    assert found["spectral"][0] < found["rms"][0]
    assert found["rms"][1] < found["spectral"][1]


def test_default_without_calibration_is_never_bad() -> None:
    """At 20 steps the blend stays within 3x of the better of its two parents on rough and steep spectra."""
    for smoothness in (1.5, 2.0, 3.0):
        prior = matern_field((16, 16), length=0.2, smoothness=smoothness)
        of = [
            spectral_error(prior, Default(), grid(80.0, 0.003, 20))[1] for grid in (blended, uniform_lambda, uniform_u)
        ]
        assert of[0] < 3.0 * min(of[1:]), (smoothness, of)


def test_pilot_needs_enough_evaluations() -> None:
    prior = matern_field((8,), length=0.2, smoothness=1.5)
    for wrong in ({"evaluations": 10}, {"seeds": ()}, {"sigma_min": 0.0}):
        arguments: dict[str, Any] = {"sigma_max": 80.0, "sigma_min": 0.01, **wrong}
        with pytest.raises(ConfigError, match="a pilot needs"):
            pilot_grid(prior, Default(), 8, **arguments)


@pytest.mark.parametrize(("steps", "order"), [(1, 1), (2, 2), (3, 3), (4, 4), (40, 4)])
def test_default_picks_the_order_by_the_steps(steps: int, order: int) -> None:
    levels = Default().grid(steps, 80.0, 0.01)
    assert Default(0.5).plan(levels) == PC("v", order, 1.0).plan(levels)
    assert Default(0.5).grid(steps, 80.0, 0.01) == blended(80.0, 0.01, steps, 1.0)
