"""The twisted diffusion sampler as published, and its variants: other twists, no network gradient, any operator."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import ClassVar

import torch
from torch import Tensor

from pdediff.diffusion import Denoiser
from pdediff.errors import ConfigError
from pdediff.observe import Observation
from pdediff.posterior.base import Draws
from pdediff.posterior.collectors import State
from pdediff.posterior.island import Island
from pdediff.posterior.twist import Twist, TwistName, twist_of
from pdediff.samplers import edm_grid, gaussian_start
from pdediff.types import Positive, PositiveInt, Seeds


@dataclass(frozen=True)
class TDS:
    """Particles with the DDPM kernel, guided by and weighed with a twist G(x) = N(y; H(D), R + J C J^T), J = H'(D).

    From level t to s, k = (s / t)^2: the reference M is N(k x + (1 - k) D, s^2 (1 - k) N), the proposal has the same
    variance and D + t^2 N grad log G for D, the weight is M / proposal * G(x_s) / G(x_t); at the end x0 = D and the
    weight p(y | x0) / G. Wu et al. 2023, algorithm 1. `twist` says what C is: "isotropic" t^2 / (1 + t^2) N as
    published, "calibrated" the measured error; "dps" is the step rule of DPS for a twist, -c |R^-1/2 (y - H(D))|. With
    `network_gradient` the shift goes through the network; without, it is C J^T (R + J C J^T)^-1 (y - H(D)), which
    costs no backward pass and leaves the weights exact. `wide` adds (1 - k)^2 tr(C) / d to the variance, what a DDPM
    step loses (Bao et al. 2022): it pays below some 100 steps. A nonlinear H is linearised at D in the twist alone:
    the last weight has the true likelihood. Draws and evidence are those of the reference chain as particles grow, of
    the prior as steps do too. Good values: twist "calibrated" without gradient; wide for few steps; threshold 0.5 to
    0.9. Raises ConfigError for a DPS twist without gradient, which would shift nothing.
    """

    twist: TwistName = "isotropic"
    network_gradient: bool = True
    wide: bool = False
    island: Island = field(default_factory=Island)
    steps: PositiveInt = 64
    sigma_max: Positive = 80.0
    sigma_min: Positive = 0.02
    exact: ClassVar[bool] = True
    linear_only: ClassVar[bool] = False

    def __post_init__(self) -> None:
        if self.twist == "dps" and not self.network_gradient:
            raise ConfigError("a DPS twist moves nothing without the network's gradient", hint="twist: calibrated")

    @property
    def trace(self) -> int:
        return self.steps + 1

    def chain(self, prior: Denoiser, observation: Observation) -> TDSChain:
        """The Feynman-Kac model, for runs of its own."""
        levels = (*edm_grid(self.sigma_max, self.sigma_min, self.steps - 1), 0.0)
        twist = twist_of(self.twist, prior, observation)
        return TDSChain(prior, observation, levels, twist, self.network_gradient, self.wide)

    @torch.no_grad()
    def __call__(self, prior: Denoiser, observation: Observation, n: int, seed: int) -> Draws:
        model, vjps = self.chain(prior, observation), float(self.steps * self.network_gradient)
        return self.island.draws(model, n, seed, calls=self.steps, vjps=vjps)


@dataclass(frozen=True, eq=False)
class TDSChain:
    """The Feynman-Kac model of `TDS` over `levels`, which end at zero; state (x, D, guided D, log G)."""

    prior: Denoiser
    observation: Observation
    levels: tuple[float, ...]
    twist: Twist
    network_gradient: bool
    wide: bool

    @property
    def steps(self) -> int:
        return len(self.levels) - 1

    def start(self, seeds: Seeds) -> tuple[State, Tensor]:
        state = self._estimate(gaussian_start(self.prior, self.levels[0], seeds), self.levels[0])
        return state, state[3]

    def move(self, state: State, step: int, seeds: Seeds) -> tuple[State, Tensor]:
        x, denoised, guided, twist = state
        sigma, target = self.levels[step], self.levels[step + 1]
        if target == 0.0:
            return (denoised, denoised, denoised, twist), self.observation.log_prob(denoised).double() - twist
        keep = (target / sigma) ** 2
        variance = target**2 * (1 - keep)
        if self.wide:
            variance += (1 - keep) ** 2 * float(self.prior.error(sigma).diagonal().double().mean())
        noise = self.prior.noise.sample(seeds, self.prior.shape, x.dtype).to(x)
        moved = keep * x + (1 - keep) * guided + variance**0.5 * noise
        after = self._estimate(moved, target)
        shift = (1 - keep) * (guided - denoised).double() / variance**0.5
        return after, after[3] - twist + self._reference_over_proposal(shift, noise.double())

    def _reference_over_proposal(self, shift: Tensor, noise: Tensor) -> Tensor:
        """log M / proposal for a mean moved by `shift`, both in units of the kernel's spread."""
        white = self.prior.noise.covariance(self.prior.shape).solve(shift)
        return -(white * (noise + 0.5 * shift)).flatten(1).sum(1)

    def _estimate(self, x: Tensor, sigma: float) -> State:
        levels = torch.full((len(x),), sigma, dtype=x.dtype, device=x.device)
        if not self.network_gradient:
            denoised = self.prior(x, levels)
            log_g, _, gain = self.twist(denoised, sigma)
            return x, denoised, denoised + gain.to(x), log_g
        with torch.enable_grad():
            at = x.detach().requires_grad_()
            estimate = self.prior(at, levels)
            denoised = estimate.detach()
            log_g, pull, _ = self.twist(denoised, sigma)
            (gradient,) = torch.autograd.grad(estimate, at, pull.to(x))
        noise = self.prior.noise.covariance(self.prior.shape)
        return x, denoised, denoised + sigma**2 * noise.matvec(gradient), log_g
