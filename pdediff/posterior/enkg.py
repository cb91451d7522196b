"""EnKG: an ensemble guided through the denoiser by its own covariances; the operator is only evaluated."""

from __future__ import annotations

import itertools
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from pdediff.diffusion import Denoiser
from pdediff.errors import NumericalError
from pdediff.observe import Observation
from pdediff.posterior.base import Draws
from pdediff.posterior.eki import normalised_move
from pdediff.posterior.ensemble import ensembles
from pdediff.samplers import DDIM, edm_grid, gaussian_start, run
from pdediff.types import Positive, PositiveInt, fold


@dataclass(frozen=True)
class EnKG:
    """At each level, `updates` times the normalised move of `EKI` on x_t with H at the flow's end; then a flow step.

    Zheng et al. 2024, algorithm 1: the correction x_j <- x_j + s / |W| sum_k W_jk (x_k - mean) weighs members by what H
    says of x0-hat, the end of the flow from x_t in 1 + (levels left) / `factor` Euler steps, and the prediction is an
    Euler step of the flow. Black boxes welcome: no derivative of H, none of the network. Not exact for any prior: R
    enters as units only, and the length of a move does not fall with the misfit. Members see each other; ensembles, of
    which n draws take n / ensemble, do not.

    Good values: published are 2048 members, 80 levels and scale 2, for 4096 readings. A move is stable for scale < 2
    |W| / (largest eigenvalue of W) only: for tens of readings 0.1, where 2 misses the mean by 4 posterior standard
    deviations. sigma_min not far below the noise of the readings. `NumericalError` where the forward model gives no
    number.
    """

    ensemble: PositiveInt = 256
    steps: PositiveInt = 40
    updates: PositiveInt = 2
    scale: Positive = 0.1
    factor: PositiveInt = 8
    sigma_max: Positive = 80.0
    sigma_min: Positive = 0.02
    exact: ClassVar[bool] = False
    linear_only: ClassVar[bool] = False

    @property
    def trace(self) -> int:
        return 0

    @torch.no_grad()
    def __call__(self, prior: Denoiser, observation: Observation, n: int, seed: int) -> Draws:
        firsts = ensembles(n, self.ensemble, seed)
        count, seeds = len(firsts), tuple(fold((first,), j)[0] for first in firsts for j in range(self.ensemble))
        white, levels = observation.whitened(), [self.sigma_max]
        if self.steps > 1:
            levels = edm_grid(self.sigma_max, self.sigma_min, self.steps - 1)
        x, calls = gaussian_start(prior, levels[0], seeds), 0
        for step, (level, after) in enumerate(itertools.pairwise([*levels, 0.0])):
            # The first level is only predicted from, as published: there x says nothing yet.
            for _ in range(self.updates if step else 0):
                ahead = min(1 + (self.steps - step) // self.factor, 20)
                residual = white.residual(self.end(prior, x, level, ahead)).double()
                x = x + normalised_move(x.double(), residual, count, self.scale).to(x)
                calls += ahead
            denoised = prior(x, torch.full((len(x),), level, dtype=x.dtype, device=x.device))
            x = denoised + after / level * (x - denoised)
        if not bool(torch.isfinite(x).all()):
            raise NumericalError("the ensemble left the numbers", hint="check the forward model on prior draws")
        rows = count * self.ensemble / n
        told = {"denoiser_calls": (calls + self.steps) * rows, "network_vjps": 0.0}
        return Draws.equal(x[:n], {**told, "forward_calls": (self.steps - 1) * self.updates * rows})

    def end(self, prior: Denoiser, x: Tensor, level: float, ahead: int) -> Tensor:
        """Where `ahead` evaluations of the flow take x."""
        if ahead == 1:
            return prior(x, torch.full((len(x),), level, dtype=x.dtype, device=x.device))
        plan = DDIM(eta=0.0).plan(edm_grid(level, min(self.sigma_min, level) / 2, ahead - 1))
        return run(plan, prior, x, (0,) * len(x), denoise_last=True)
