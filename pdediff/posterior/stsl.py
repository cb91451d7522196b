"""STSL: DPS with a second-order term that seeks flat places of the noised prior, and its published inner loops."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import ClassVar

import torch
from torch import Tensor

from pdediff.diffusion import Denoiser, broadcast
from pdediff.observe import Observation
from pdediff.posterior.base import Draws, GuidedDenoiser, independent
from pdediff.posterior.gain import coloured
from pdediff.posterior.guided_sampling import guided_start
from pdediff.posterior.keyed import row_seeds
from pdediff.posterior.meter import Metered
from pdediff.samplers import DDIM, KERNELS, STATE, Eval, Kick, Plan, run, uniform_lambda
from pdediff.types import (
    Field,
    Fraction,
    Levels,
    NonNegative,
    Positive,
    PositiveInt,
    Purpose,
    Seeds,
    derive_many,
    fold,
)


@dataclass(frozen=True)
class STSL:
    """D_y = D - N grad_x [strength (1 + sigma^2) |R^-1/2 (y - H D)| + curvature sigma^2 tr J / d], J = dD / dx.

    Second-order Tweedie sampling from a surrogate loss, Rout et al. 2024, with the trace by finite differences along
    `probes` random directions of each row, tr J = mean_i eps_i^T (D(x + h eps_i) - D(x)) / h, h = 0.01 sigma, from the
    row's own seed. d is the number of points. tr J is the trace of the Hessian of log p at level sigma up to constants,
    so a Gaussian prior feels nothing of the second term. Several inner updates at one level, as published, are those
    of `STSLLoops`. `probes` + 1 evaluations and a gradient through them.

    Good values: curvature 0 to 1 (0 is DPS, and was best on mixtures); its sign and scale need a trial.
    """

    strength: Positive = 0.3
    curvature: NonNegative = 0.1
    probes: PositiveInt = 1
    exact: ClassVar[bool] = False
    linear_only: ClassVar[bool] = False
    needs_vjp: ClassVar[bool] = True

    def __call__(self, prior: Denoiser, observation: Observation) -> SecondOrder:
        return SecondOrder(prior, observation, self)


@dataclass(frozen=True, eq=False)
class SecondOrder(GuidedDenoiser):
    """The guided denoiser of `STSL`."""

    method: STSL
    seeds: Seeds | None = None

    def keyed(self, seeds: Sequence[int]) -> SecondOrder:
        """Row i probes along directions from seeds[i]."""
        return replace(self, seeds=tuple(seeds))

    def __call__(self, x: Field, sigma: Levels) -> Field:
        denoised, move = self.move(x, sigma)
        return denoised + move

    def move(self, x: Field, sigma: Levels, seeds: Seeds | None = None) -> tuple[Field, Field]:
        """D and what guidance adds to it; the probes are those of the level, or of `seeds` where they are given."""
        square = sigma.to(x) ** 2
        with torch.enable_grad():
            at = x.detach().requires_grad_()
            denoised = self.prior(at, sigma)
            norm = self.observation.white_residual(denoised).norm(dim=1)
            trace = self.trace(at, denoised, sigma, row_seeds(self.seeds, sigma) if seeds is None else seeds)
            loss = self.method.strength * (1 + square) * norm + self.method.curvature * square * trace / x[0].numel()
            (gradient,) = torch.autograd.grad(loss.sum(), at)
        return denoised.detach(), -coloured(self.prior, gradient)

    def trace(self, at: Field, denoised: Field, sigma: Levels, seeds: Seeds) -> Tensor:
        """Estimated tr J of each row, (batch,)."""
        h = 0.01 * sigma.to(at)
        total = torch.zeros_like(h)
        for probe in range(self.method.probes):
            eps = self.noise.sample(fold(seeds, probe), self.shape, self.dtype).to(at)
            moved = self.prior(at + broadcast(h, at) * eps, sigma)
            # For noise of covariance N the trace is that of J N N^-1 only if one factor is whitened again.
            probe_dual = self.noise.covariance(self.shape).solve(eps)
            total = total + (probe_dual * (moved - denoised)).flatten(1).sum(1) / h
        return total / self.method.probes


@dataclass(frozen=True)
class STSLLoops:
    """At each level `inner` times x <- x + `rate` (D_y - D), D_y that of `STSL`, then a DDIM step of the prior.

    The loops of Rout et al. 2024, algorithm 1: the state is moved before it is denoised, each time with fresh probes,
    and the step itself knows no readings. A move is a full unit of DPS's, so `inner` times `rate` is its strength
    a level, whatever the distance of levels. Not exact for any prior, as `DPS`. `inner` (`probes` + 1) evaluations and
    gradients a level, and one evaluation more.

    Good values: 1 to 5 loops; inner times rate about twice the distance of levels in log sigma; tune it on held-out
    cases.
    """

    guidance: STSL = field(default_factory=STSL)
    inner: PositiveInt = 2
    rate: Positive = 0.15
    steps: PositiveInt = 50
    eta: Fraction = 1.0
    sigma_max: Positive = 80.0
    sigma_min: Positive = 0.02
    exact: ClassVar[bool] = False
    linear_only: ClassVar[bool] = False

    @property
    def trace(self) -> int:
        return 0

    def __call__(self, prior: Denoiser, observation: Observation, n: int, seed: int) -> Draws:
        observation = independent(observation)
        metered = Metered(prior, observation)
        guided = self.guidance(metered, observation)
        own = derive_many(seed, Purpose.OPTIMISER, range(n))

        def loops(x: Tensor, step: Kick, denoise: object, noise: object) -> Tensor:
            sigma = torch.full((len(x),), step.level, dtype=x.dtype, device=x.device)
            for loop in range(self.inner):
                _, move = guided.move(x, sigma, fold(own, step.key + loop))
                x = x + self.rate * move
            return x

        plan = self.plan()
        x = guided_start(prior, observation, plan.levels[0], derive_many(seed, Purpose.START, range(n)))
        seeds = derive_many(seed, Purpose.STEP, range(n))
        x = run(plan, metered, x, seeds, kernels={**KERNELS, "loops": loops}, denoise_last=True)
        cost = metered.cost
        return Draws.equal(x, {"denoiser_calls": float(cost.calls), "network_vjps": float(cost.vjps)})

    def plan(self) -> Plan:
        """The plan of `DDIM` with the loops before each evaluation."""
        below, ops = DDIM(self.eta).plan(uniform_lambda(self.sigma_max, self.sigma_min, self.steps)), []
        for number, step in enumerate(below.steps):
            if isinstance(step, Eval):
                ops.append(Kick(STATE, step.level, "loops", (), 0, number * self.inner))
            ops.append(step)
        return Plan(tuple(ops), below.levels)
