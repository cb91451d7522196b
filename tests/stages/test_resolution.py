"""The same sensors and readings on 32, 64 and 128 points a side: one posterior, up to what the grid cannot show.

The readings are those of the finest grid, so that nothing but the grid differs; fields are compared at the same places.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from functools import cache
from typing import Any

import pytest
import torch
import zoo_recipe as zoo
from torch import Tensor

from pdediff.config import build
from pdediff.diffusion import GaussianRandomField, WhiteNoise
from pdediff.errors import ConfigError
from pdediff.observe import GaussianNoise, Observation, PointSensors
from pdediff.posterior import FunDPS, GuidedSampling
from pdediff.samplers import DDIM
from pdediff.stages.problems import (
    AdvectionDiffusion2d,
    ExactPosterior,
    Heat1d,
    Helmholtz2d,
    InverseProblem,
    Poisson2d,
    exact_posterior,
    setup_of,
)

GRIDS = (32, 64, 128)


@dataclass(frozen=True)
class Setting:
    """A problem for each grid, and the ratio by which the difference of neighbouring grids must fall at least."""

    problem: Any
    arguments: tuple[tuple[str, Any], ...]
    falls: float

    def on(self, grid: int) -> InverseProblem:
        """The problem on one grid."""
        return self.problem(grid=grid, **dict(self.arguments))

    def places(self) -> Tensor:
        """Where fields are compared, in shares of the sides."""
        if self.problem is Heat1d:
            return (torch.arange(8).double() / 8)[:, None]
        return 0.1 + 0.8 * torch.rand(40, 2, generator=torch.Generator().manual_seed(0), dtype=torch.float64)


ANYWHERE = ("on_grid", False)
SETTINGS = {
    # Modes above half the grid are cut off: their variance falls as k^-4, and the readings are damped to nothing there.
    "heat1d": Setting(Heat1d, (), 8.0),
    # The published law puts cosines of cell centres on nodes, an error of half a cell, and the source is rough.
    "poisson2d": Setting(Poisson2d, (("points", 40), ANYWHERE), 1.8),
    "helmholtz2d": Setting(Helmholtz2d, (("points", 40), ANYWHERE), 1.8),
    # Readings and comparison are interpolated linearly, order two.
    "advection_diffusion2d": Setting(AdvectionDiffusion2d, (("points", 6), ("times", 2), ANYWHERE), 3.2),
}


def probe(problem: InverseProblem, share: Tensor) -> PointSensors:
    """The first field of a problem at shares of its sides."""
    wraps, shape = problem.periodic[0], (len(problem.variables()), *setup_of(problem).prior.shape[1:])
    steps = share * (shape[-1] if wraps else shape[-1] - 1)
    return PointSensors.at([0] * len(share), steps, shape, periodic=wraps)


def exact_at(problem: InverseProblem, y: Tensor, share: Tensor) -> tuple[Tensor, Tensor]:
    """Mean and standard deviation of the exact posterior at the places, from the rows of the places alone."""
    made, exact, places = setup_of(problem), exact_posterior(problem), probe(problem, share)
    assert isinstance(exact, ExactPosterior)
    zero = torch.zeros(len(share), len(problem.variables()), *made.prior.shape[1:], dtype=torch.float64)
    rows = made.fields.vjp(zero[:, :1], places.vjp(zero, torch.eye(len(share), dtype=torch.float64)))
    spread = exact.covariance.matvec(rows).flatten(1)
    read = exact.conditioning.rows.flatten(1) @ spread.T
    known = torch.linalg.solve_triangular(exact.conditioning.factor, read, upper=False).square().sum(0)
    mean = exact.mean(Observation(y, made.readings, GaussianNoise(made.std)))
    return places(mean[None])[0], ((rows.flatten(1) * spread).sum(1) - known).clamp(min=0).sqrt()


@cache
def found(name: str) -> tuple[tuple[Tensor, Tensor], ...]:
    """Exact mean and standard deviation at the places, by grid."""
    setting = SETTINGS[name]
    y = setting.on(GRIDS[-1]).case(0).observation.y
    return tuple(exact_at(setting.on(grid), y, setting.places()) for grid in GRIDS)


def rms(x: Tensor) -> float:
    """Root mean square."""
    return float(x.square().mean().sqrt())


@pytest.mark.slow
@pytest.mark.parametrize("name", SETTINGS)
def test_the_exact_posterior_converges_under_refinement(name: str) -> None:
    """Mean and spread, in posterior standard deviations, and within 5 % of one between 64 and 128."""
    (mean_a, std_a), (mean_b, std_b), (mean_c, std_c) = found(name)
    means = rms((mean_a - mean_b) / std_c), rms((mean_b - mean_c) / std_c)
    spreads = rms(std_a / std_b - 1), rms(std_b / std_c - 1)
    print(f"{name}: mean {means[0]:.4f} {means[1]:.4f}, spread {spreads[0]:.4f} {spreads[1]:.4f}")
    assert means[1] < 0.05
    assert spreads[1] < 0.05
    assert means[0] > SETTINGS[name].falls * means[1]
    assert spreads[0] > SETTINGS[name].falls * spreads[1]


@pytest.mark.parametrize("name", [name for name in SETTINGS if name != "heat1d"])
def test_sensors_stand_at_the_same_places_on_every_grid(name: str) -> None:
    coarse, fine = (setup_of(SETTINGS[name].on(grid)).layout for grid in (16, 32))
    assert float(torch.from_numpy(coarse.position - fine.position).abs().max()) < 1e-12
    on_grid = SETTINGS[name].problem(grid=32, **(dict(SETTINGS[name].arguments) | {"on_grid": True}))
    assert float(torch.from_numpy(setup_of(on_grid).layout.position - fine.position).abs().max()) > 0.05
    with pytest.raises(ConfigError, match="more than the 64 grid points"):
        SETTINGS[name].problem(grid=8, points=65)
    assert SETTINGS[name].problem(grid=8, points=65, on_grid=False).points == 65


@pytest.mark.slow
@pytest.mark.parametrize(("name", "draws"), [("heat1d", 128), ("poisson2d", 32)])
def test_the_default_agrees_with_its_exact_posterior_on_every_grid(name: str, draws: int) -> None:
    """Means within six Monte-Carlo errors and a tenth of a standard deviation; spreads within six of theirs."""
    setting, posterior = SETTINGS[name], build("posterior", zoo.node("calibrated") | {"steps": 30})
    y = setting.on(GRIDS[-1]).case(0).observation.y
    for grid, (mean, std) in zip(GRIDS, found(name), strict=True):
        problem = setting.on(grid)
        made = setup_of(problem)
        x = posterior(made.prior, Observation(y, made.readings, GaussianNoise(made.std)), draws, 0).x
        at = probe(problem, setting.places())(made.fields(x))
        assert float(((at.mean(0) - mean).abs() / std).max()) < 6 / math.sqrt(draws) + 0.1
        # an average over at least four independent values
        assert float((at.var(0) / std**2).mean()) == pytest.approx(1.0, abs=6 * math.sqrt(2 / draws / 4))


BOUND = {
    "afdps_sde": "few particles keep any weight",
    "code": "its ascent takes steps of a size a grid point",
    "dps": "the norm of the misfit's gradient at grid points sets its step",
    "dpg": "as dps",
    "dps_gsg": "as dps",
    "eki": "the ensemble collapses at a rate of the grid's own noise",
    "exact_mixture": "needs a prior of Gaussian components",
    "fk_steering": "few particles keep any weight",
    "flowchef": "the gradient of the misfit at grid points sets its step",
    "fps": "few particles keep any weight",
    "lgd": "as dps",
    "pigdm": "unstable for stiff readings: diverges on the finest grid",
    "repaint": "overwrites modes of white noise, whose share in a field depends on the grid",
    "stsl": "as dps",
    "stsl_loops": "as dps",
    "tmpd": "unstable for readings that overlap: diverges",
}
"""Methods whose posterior depends on the grid, by construction or for want of particles, and why."""


@cache
def ring(grid: int) -> tuple[Any, Observation]:
    """Eight sensors on a ring with the readings of the finest grid."""
    told: dict[str, Any] = dict(points=8, noise=0.05, time=0.25)
    made = setup_of(Heat1d(grid=grid, **told))
    y = Heat1d(grid=GRIDS[-1], **told).case(0).observation.y
    return made.prior, Observation(y, made.readings, GaussianNoise(made.std))


@pytest.mark.slow
@pytest.mark.parametrize("name", [name for name in zoo.ZOO if name not in BOUND])
def test_methods_draw_from_one_law_on_every_grid(name: str) -> None:
    """Means of 64 draws at eight places that all grids share, within seven standard errors; spreads within a third."""
    n, posterior, told = 64, build("posterior", zoo.node(name)), []
    for grid in (GRIDS[0], GRIDS[-1]):
        prior, observation = ring(grid)
        try:
            x = posterior(prior, observation, n, 1).x[:, 0, :: grid // 8]
        except ConfigError as error:
            pytest.skip(error.message)
        told.append((x.mean(0), x.std(0)))
    (mean_a, std_a), (mean_b, std_b) = told
    z = (mean_a - mean_b).abs() / ((std_a**2 + std_b**2) / n).sqrt()
    ratio = rms(std_a) / rms(std_b)
    print(f"{name}: {float(z.max()):.1f} standard errors, spread {ratio:.2f}")
    assert float(z.max()) < 7
    assert 0.7 < ratio < 1.4


@pytest.mark.parametrize("coloured", [True, False])
def test_guidance_on_function_space_does_not_know_the_grid(coloured: bool) -> None:
    """The exact affine map of a run of FunDPS: with coloured noise one law on all grids, with white noise another each.

    Laws at eight places: means in the spread of the finest, and the ratio of spreads.
    """
    noise = GaussianRandomField(0.1, 1.0) if coloured else WhiteNoise()
    method = GuidedSampling(FunDPS(strength=0.5), DDIM(), steps=60, sigma_max=20.0, denoise_last=False)
    laws = []
    for grid in GRIDS:
        prior, observation = ring(grid)
        wide = replace(observation, noise=GaussianNoise(torch.full_like(observation.y, 0.7)))
        laws.append(pushed(method, replace(prior, noise=noise), wide, grid))
    (mean_a, std_a), _, (mean_c, std_c) = laws
    off, ratio = rms((mean_a - mean_c) / std_c), rms(std_a) / rms(std_c)
    print(f"coloured {coloured}: mean {off:.4f}, spread {ratio:.4f}")
    if coloured:
        assert off < 0.02
        assert ratio == pytest.approx(1.0, abs=0.02)
    else:
        assert off > 0.05


def pushed(method: GuidedSampling, prior: Any, observation: Observation, grid: int) -> tuple[Tensor, Tensor]:
    """Mean and standard deviation at eight places of a deterministic run from N(0, sigma_max^2 N)."""
    from pdediff.samplers import run

    guided = method.guidance(prior, observation)
    plan = method.sampler.plan(method.sampler.grid(method.steps, method.sigma_max, method.sigma_min))
    unit = torch.cat([torch.zeros(1, grid), torch.eye(grid)]).double()[:, None]
    out = run(plan, guided, unit, [0] * len(unit))[:, 0, :: grid // 8]
    linear, covariance = out[1:] - out[0], prior.noise.covariance(prior.shape)
    spread = covariance.matvec(torch.eye(grid).double()[:, None])[:, 0]
    return out[0], plan.levels[0] * ((linear.T @ spread) * linear.T).sum(1).sqrt()
