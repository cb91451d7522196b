"""The Gaussian problem of the card's table 4: guided samplers are affine there, so their laws are exact numbers."""

from __future__ import annotations

import itertools
import math
from dataclasses import dataclass
from functools import cache

import torch
from torch import Tensor

from pdediff.diffusion import Denoiser, GaussianPrior
from pdediff.observe import GaussianNoise, Observation, PointSensors
from pdediff.samplers import DDIM, Plan, edm_grid, run

SIZE, READINGS, NOISE, SIGMA_MAX, SIGMA_MIN = 64, 10, 0.1, 40.0, 0.01


@dataclass(frozen=True, eq=False)
class Problem:
    """Prior with spectrum 1 / k in a random basis, trace 16; ten readings with rows N(0, 1 / 64)."""

    prior: GaussianPrior
    observation: Observation
    posterior: GaussianPrior


@cache
def problem(seed: int, tau: float | None = None) -> Problem:
    """With `tau` the prior is N(m, tau^2 I) instead."""
    g = torch.Generator().manual_seed(seed)

    def normals(*shape: int) -> Tensor:
        return torch.randn(*shape, generator=g, dtype=torch.float64)

    spectrum = 1 / torch.arange(1, SIZE + 1, dtype=torch.float64)
    basis = torch.linalg.qr(normals(SIZE, SIZE)).Q
    covariance = (basis * (16 * spectrum / spectrum.sum())) @ basis.T
    if tau is not None:
        covariance = tau**2 * torch.eye(SIZE, dtype=torch.float64)
    prior = GaussianPrior(0.28 * normals(1, SIZE), covariance)
    rows = normals(READINGS, SIZE) / math.sqrt(SIZE)
    truth = prior.mean.flatten() + torch.linalg.cholesky(covariance) @ normals(SIZE)
    std = torch.full((READINGS,), NOISE, dtype=torch.float64)
    sensors = PointSensors(torch.arange(SIZE).expand(READINGS, SIZE).contiguous(), rows)
    y = rows @ truth + std * normals(READINGS)
    return Problem(prior, Observation(y, sensors, GaussianNoise(std)), prior.condition(rows, y, torch.diag(std**2))[0])


def start() -> tuple[Tensor, Tensor]:
    """Mean and covariance of the start, N(0, sigma_max^2)."""
    return torch.zeros(SIZE, dtype=torch.float64), SIGMA_MAX**2 * torch.eye(SIZE, dtype=torch.float64)


def pushed(guided: Denoiser, plan: Plan) -> tuple[Tensor, Tensor]:
    """Exact mean and covariance of a deterministic plan's result: its affine map read off at zero and unit fields."""
    unit = torch.cat([torch.zeros(1, SIZE), torch.eye(SIZE)]).double().reshape(-1, 1, SIZE)
    out = run(plan, guided, unit, [0] * len(unit)).flatten(1)
    linear, (mean, covariance) = (out[1:] - out[0]).T, start()
    return linear @ mean + out[0], linear @ covariance @ linear.T


def ancestral(guided: Denoiser, steps: int) -> tuple[Tensor, Tensor]:
    """The same for DDPM: x' = c_x x + c_D D + sqrt(v) z, level by level."""
    unit = torch.cat([torch.zeros(1, SIZE), torch.eye(SIZE)]).double().reshape(-1, 1, SIZE)
    mean, covariance = start()
    for sigma, after in itertools.pairwise(edm_grid(SIGMA_MAX, SIGMA_MIN, steps)):
        c_x, c_denoised, variance = DDIM(eta=1.0).coefficients(sigma, after)
        out = guided(unit, torch.full((len(unit),), sigma, dtype=torch.float64)).flatten(1)
        step = c_x * torch.eye(SIZE).double() + c_denoised * (out[1:] - out[0]).T
        mean = step @ mean + c_denoised * out[0]
        covariance = step @ covariance @ step.T + variance * torch.eye(SIZE).double()
    return mean, covariance
