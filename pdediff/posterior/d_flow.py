"""D-Flow: the noise from which the sampler starts is fitted to the readings."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch

from pdediff.diffusion import Denoiser
from pdediff.errors import ConfigError, NumericalError
from pdediff.observe import Observation
from pdediff.posterior.base import Draws
from pdediff.samplers import Sampler, gaussian_start, run
from pdediff.types import NonNegative, Positive, PositiveInt, Purpose, derive_many


@dataclass(frozen=True)
class DFlow:
    """argmin over x_T of |R^-1/2 (y - H flow(x_T))|^2 / 2 + weight |x_T - start|^2 / (2 sigma_max^2), by Adam.

    Ben-Hamu et al. 2024, equation 5: the gradient goes through the whole sampler, so every draw is on the prior's flow.
    The pull to the row's own start replaces their regularisers by the radius; Adam moves every number of every row by
    itself, so no row sees another (LBFGS, as published, would). An optimiser: its draws are as wide as what the fit
    left of the start, which is not the posterior. Cost of a draw: iterations * steps evaluations and as many gradients.

    Good values: a deterministic sampler of order 2 with 10 steps, 30 iterations at a rate of 0.2 (times sigma_max).
    `ConfigError` for a stochastic sampler, `NumericalError` if the fit diverges.
    """

    sampler: Sampler
    steps: PositiveInt = 10
    iterations: PositiveInt = 30
    rate: Positive = 0.2
    weight: NonNegative = 1.0
    sigma_max: Positive = 80.0
    sigma_min: Positive = 0.02
    exact: ClassVar[bool] = False
    linear_only: ClassVar[bool] = False

    @property
    def trace(self) -> int:
        return 0

    def __call__(self, prior: Denoiser, observation: Observation, n: int, seed: int) -> Draws:
        plan = self.sampler.plan(self.sampler.grid(self.steps, self.sigma_max, self.sigma_min))
        if plan.stochastic:
            raise ConfigError(f"D-Flow needs a deterministic sampler, {type(self.sampler).__name__} adds noise")
        seeds = derive_many(seed, Purpose.OPTIMISER, range(n))
        start = gaussian_start(prior, plan.levels[0], derive_many(seed, Purpose.START, range(n)))
        z = (start / plan.levels[0]).clone().requires_grad_()
        optimiser = torch.optim.Adam([z], lr=self.rate)
        anchor = start / plan.levels[0]
        for _ in range(self.iterations):
            with torch.enable_grad():
                x = run(plan, prior, plan.levels[0] * z, seeds)
                misfit = 0.5 * observation.white_residual(x).square().flatten(1).sum(1)
                loss = misfit + 0.5 * self.weight * (z - anchor).square().flatten(1).sum(1)
                (z.grad,) = torch.autograd.grad(loss.sum(), z)
            optimiser.step()
        x = run(plan, prior, plan.levels[0] * z.detach(), seeds)
        if not bool(torch.isfinite(x).all()):
            raise NumericalError(f"D-Flow diverged within {self.iterations} iterations", hint="lower rate")
        calls = float(plan.nfe * (self.iterations + 1))
        return Draws.equal(x, {"denoiser_calls": calls, "network_vjps": float(plan.nfe * self.iterations)})
