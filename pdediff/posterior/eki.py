"""Ensemble Kalman inversion: ES-MDA, which samples, and the published inversion, which fits."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch

from pdediff.diffusion import Denoiser
from pdediff.errors import NumericalError
from pdediff.observe import Observation
from pdediff.posterior.base import Draws
from pdediff.posterior.ensemble import deviations, ensembles, kalman_move, prior_ensembles
from pdediff.types import Positive, PositiveInt, fold, normal


@dataclass(frozen=True)
class ESMDA:
    """x_j <- x_j + C_xy (C_yy + a R)^-1 (y + sqrt(a) e_j - H(x_j)), a times with e_j ~ N(0, R) drawn anew.

    Emerick and Reynolds 2013, equation 10, with equal inflations a = `steps`, whose inverses sum to one; one step is
    the ensemble smoother, the analysis of the stochastic ensemble Kalman filter. C_xy and C_yy are those of the
    ensemble, which starts from the Gaussian of the prior's two moments. The posterior for a linear operator and many
    members: the spread is too small by about (readings that matter) / members. No derivatives, no network. Needs
    additive Gaussian errors. Members of one ensemble see each other; ensembles do not.

    Good values: 4 steps; ten members for each direction that the readings determine. `NumericalError` where the forward
    model gives no number.
    """

    ensemble: PositiveInt = 512
    steps: PositiveInt = 4
    exact: ClassVar[bool] = False
    linear_only: ClassVar[bool] = False

    @property
    def trace(self) -> int:
        return 0

    @torch.no_grad()
    def __call__(self, prior: Denoiser, observation: Observation, n: int, seed: int) -> Draws:
        seeds = ensembles(n, self.ensemble, seed)
        white, x = observation.whitened(), prior_ensembles(prior, seeds, self.ensemble)
        count, m = len(seeds), len(observation.y)
        for step in range(self.steps):
            residual = white.residual(x).reshape(count, -1, m)
            errors = normal(fold(seeds, step + 1), (self.ensemble, m), dtype=torch.float64).to(x)
            move = kalman_move(
                x.reshape(count, self.ensemble, -1), -residual, residual + self.steps**0.5 * errors, self.steps
            )
            x = x + move.reshape(x.shape)
        return _draws(x, prior, n, self.steps)


@dataclass(frozen=True)
class EKI:
    """x_j <- x_j + s / |W| sum_k W_jk (x_k - mean), W_jk = <y - H(x_j), H(x_k) - mean of H> / members.

    The normalised inversion of derivative-free benchmarks (Zheng et al. 2024, algorithm 2 without its prior; Kovachki
    and Stuart 2019 for the step): neither R nor noise enters but through units, members stay in the span of the start
    and collapse onto the best fit there. An optimiser: the spread of its draws is no uncertainty, for which `ESMDA` is.

    Good values: 500 updates, scale 2, as published. `NumericalError` where the forward model gives no number.
    """

    ensemble: PositiveInt = 256
    updates: PositiveInt = 200
    scale: Positive = 2.0
    exact: ClassVar[bool] = False
    linear_only: ClassVar[bool] = False

    @property
    def trace(self) -> int:
        return 0

    @torch.no_grad()
    def __call__(self, prior: Denoiser, observation: Observation, n: int, seed: int) -> Draws:
        seeds = ensembles(n, self.ensemble, seed)
        white, x = observation.whitened(), prior_ensembles(prior, seeds, self.ensemble)
        for _ in range(self.updates):
            x = x + normalised_move(x, white.residual(x), len(seeds), self.scale)
        return _draws(x, prior, n, self.updates)


def normalised_move(x: torch.Tensor, residual: torch.Tensor, count: int, scale: float) -> torch.Tensor:
    """The move of `EKI` for `count` ensembles, one after the other in the rows of x and of residual = y - H(...)."""
    residual = residual.reshape(count, -1, residual.shape[1])
    weights = residual @ deviations(-residual).mT
    flat = deviations(x.reshape(count, weights.shape[1], -1))
    # The norm takes the common factor of weights out; that of the deviations is undone.
    norm = weights.flatten(1).norm(dim=1).clamp(min=1e-300)[:, None, None] / (weights.shape[1] - 1) ** 0.5
    return (scale * (weights / norm) @ flat).reshape(x.shape)


def _draws(x: torch.Tensor, prior: Denoiser, n: int, steps: int) -> Draws:
    if not bool(torch.isfinite(x).all()):
        raise NumericalError("the ensemble left the numbers", hint="check the forward model on prior draws")
    told = {"denoiser_calls": 0.0, "network_vjps": 0.0, "forward_calls": steps * len(x) / n}
    return Draws.equal(x[:n].to(prior.dtype), told)
