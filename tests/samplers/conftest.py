"""Shared oracles of the sampler tests: exact priors, exact flows and every sampler that has a config."""

from __future__ import annotations

import dataclasses
import math
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
import yaml
from torch import Tensor

import pdediff.samplers
from pdediff.diffusion import DiagonalCovariance, GaussianMixturePrior, GaussianPrior, WhiteNoise
from pdediff.samplers import Band, response

CONFIGS = sorted((Path(__file__).parents[2] / "configs" / "sampler").glob("*.yaml"))
SIGMA_MAX, SIGMA_MIN = 80.0, 0.1


def build(path: Path) -> Any:
    text = yaml.safe_load(path.read_text())
    node = {name: tuple(value) if isinstance(value, list) else value for name, value in text.items()}
    return getattr(pdediff.samplers, node.pop("kind"))(**node)


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    """A config enrols its sampler in every test that asks for one; `config` is its name."""
    names = [path.stem for path in CONFIGS]
    if {"sampler", "config"} <= set(metafunc.fixturenames):
        metafunc.parametrize(("config", "sampler"), [(path.stem, build(path)) for path in CONFIGS], ids=names)
    elif "sampler" in metafunc.fixturenames:
        metafunc.parametrize("sampler", [build(path) for path in CONFIGS], ids=names)


NOT_EXACT_ON_A_POINT: dict[str, str] = {
    "score_sde": "published steps add sigma^2 - t^2 and 2 r t^2, too much by O(h): see test_langevin_law_is_too_wide",
    "score_sde_euler": "Euler-Maruyama: its contraction 1 - 2h is not (t / sigma)^2",
    "pc_trig": "F is exact for N(0, s^2) instead, see test_trigonometric_field_is_exact_on_its_gaussian",
    "dpm_solver_v3": "exact for N(m, v) of its spectrum instead, see test_a_field_of_the_spectrum_takes_one_step",
    "bdia": "exact, but nothing damps rounding: 2e-12 in 7 long steps, see test_point_prior_is_exact_up_to_rounding",
}
"""Configs whose step is not exact when all mass is at one point; why."""

NOT_SHIFT_INVARIANT: dict[str, str] = {
    "pc_trig": "F is exact for one Gaussian around zero, hence not shift invariant at finite steps",
}
"""Configs whose step depends on where zero is; why."""

SLOPES: dict[str, float] = {
    # Between 3 and the 2 of the first steps, long on its grid: test_time_deis_has_its_order_once_started.
    "deis_t": 2.6,
}
"""Configs whose measured slope is not the promised one, and the slope theory gives on this test; say why beside it."""

STEPS: dict[str, tuple[int, int, int]] = {
    # No corrector: below 1e-6 of the variance the first steps, of order 1 and 2, are what is left.
    "deis_logrho": (30, 60, 120),
    "dpmpp_3m": (30, 60, 120),
    # Order 5: from 80 steps on below 1e-7, where the first steps show.
    "default": (10, 20, 40),
}
"""Configs whose order is measured at other numbers of steps than 80, 160 and 320 (120 and 240 on a Gaussian); why."""


def respond(plan: Any, variances: np.ndarray) -> Any:
    """Exact response of modes of these variances; mode i is Fourier band i."""
    return response(plan, variances, np.arange(len(variances)))


def deterministic(sampler: Any) -> bool:
    return not sampler.plan(sampler.grid(8, SIGMA_MAX, SIGMA_MIN)).stochastic


def banded(sampler: Any) -> bool:
    """Whether its numbers differ between Fourier bands."""
    return any(isinstance(step, Band) for step in sampler.plan(sampler.grid(8, SIGMA_MAX, SIGMA_MIN)).steps)


def with_scale(sampler: Any, s: float) -> Any:
    return dataclasses.replace(sampler, s=s) if hasattr(sampler, "s") else sampler


@dataclass(frozen=True)
class PointPrior:
    """All mass at one point: D is that point, and the flow is a straight line to it."""

    mean: Tensor
    noise: WhiteNoise = dataclasses.field(default_factory=WhiteNoise)
    dtype: torch.dtype = torch.float64
    device: torch.device = dataclasses.field(default_factory=lambda: torch.device("cpu"))

    @property
    def shape(self) -> tuple[int, ...]:
        return tuple(self.mean.shape)

    def __call__(self, x: Tensor, sigma: Tensor) -> Tensor:
        return self.mean.expand_as(x)

    def error(self, sigma: float) -> DiagonalCovariance:
        return DiagonalCovariance(torch.zeros_like(self.mean))


def mixture(dimension: int = 64, scale: float = 1.0, shift: float = 0.0) -> GaussianMixturePrior:
    """Three overlapping components with a power-law spectrum, times `scale`, plus `shift`."""
    g = torch.Generator().manual_seed(0)
    std = torch.arange(1, dimension + 1, dtype=torch.float64) ** -0.5
    std = std / (std**2).mean().sqrt()
    means = 0.3 * torch.randn(3, 1, dimension, generator=g, dtype=torch.float64) * std
    covariances = torch.stack([torch.diag(std**2) * factor for factor in (1.0, 0.7, 1.3)])
    weights = torch.tensor([0.5, 0.3, 0.2], dtype=torch.float64)
    return GaussianMixturePrior(weights, scale * means + shift, scale**2 * covariances)


def gaussian(dimension: int = 6) -> GaussianPrior:
    """Correlated, with a mean; standard deviations from 2 to 0.1."""
    g = torch.Generator().manual_seed(3)
    basis = torch.linalg.qr(torch.randn(dimension, dimension, generator=g, dtype=torch.float64))[0]
    std = torch.logspace(math.log10(2.0), -1.0, dimension, dtype=torch.float64)
    mean = torch.randn(1, dimension, generator=g, dtype=torch.float64)
    return GaussianPrior(mean, (basis * std**2) @ basis.T)


def start_of(prior: GaussianMixturePrior, rows: int, sigma: float) -> Tensor:
    """Exact draws of the prior's marginal at level sigma."""
    g = torch.Generator().manual_seed(1)
    return prior.sample(tuple(range(rows))) + sigma * torch.randn(rows, *prior.shape, generator=g, dtype=torch.float64)


def flow(prior: Any, x: Tensor, sigma_max: float, sigma_min: float, steps: int = 1200) -> Tensor:
    """Probability flow by RK4 in log sigma, dx / dlog sigma = x - D (steps 400 and 800 differ by 3e-9)."""

    def slope(x: Tensor, level: float) -> Tensor:
        return x - prior(x, torch.full((len(x),), math.exp(level), dtype=x.dtype))

    grid = np.linspace(math.log(sigma_max), math.log(sigma_min), steps + 1)
    for a, b in zip(grid[:-1].tolist(), grid[1:].tolist(), strict=True):
        h = b - a
        k1 = slope(x, a)
        k2 = slope(x + h / 2 * k1, a + h / 2)
        k3 = slope(x + h / 2 * k2, a + h / 2)
        k4 = slope(x + h * k3, b)
        x = x + h / 6 * (k1 + 2 * k2 + 2 * k3 + k4)
    return x


@cache
def reference() -> tuple[GaussianMixturePrior, Tensor, Tensor]:
    """Mixture, start and exact end of 32 rows, once per run."""
    prior = mixture()
    x = start_of(prior, 32, SIGMA_MAX)
    return prior, x, flow(prior, x, SIGMA_MAX, SIGMA_MIN)


def rms(x: Tensor) -> float:
    return float((x**2).mean().sqrt())


def fitted_slope(steps: tuple[int, ...], errors: list[float]) -> float:
    return -float(np.polyfit(np.log(steps), np.log(errors), 1)[0])


@pytest.fixture(scope="session")
def oracle() -> SimpleNamespace:
    """The names of this file; test modules cannot import it."""
    return SimpleNamespace(**globals())
