"""Preconditioned Crank-Nicolson: the Markov chain whose acceptance does not fall as grids are refined."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import ClassVar

import torch
from torch import Tensor

from pdediff.diffusion import Denoiser
from pdediff.observe import Observation
from pdediff.posterior.base import Draws
from pdediff.posterior.chains import Chains, Likelihood, State
from pdediff.posterior.latent import Reference, log_reference


@dataclass(frozen=True)
class PCN:
    """eta' = sqrt(1 - beta^2) eta + beta w, w ~ N(0, I), accepted with min(1, exp(Phi(eta) - Phi(eta'))).

    Cotter et al. 2013, equation 4.8, with eta the whitened variable of a reference Gaussian and Phi minus the log
    density of the posterior relative to it: for the prior minus the log likelihood, as published; for the Gauss-Newton
    approximation of the posterior the generalised pCN of Rudolf and Sprungk 2018, section 3. The posterior is that of
    the prior's Gaussian of two moments: exact for Gaussian priors and any operator and law of errors. One forward call
    a step.

    Good values: acceptance 0.25 (adapted); see `Chains`.
    """

    run: Chains = field(default_factory=Chains)
    exact: ClassVar[bool] = False
    linear_only: ClassVar[bool] = False
    acceptance: ClassVar[float] = 0.25
    evaluations: ClassVar[float] = 1.0

    @property
    def trace(self) -> int:
        return 0

    @torch.no_grad()
    def __call__(self, prior: Denoiser, observation: Observation, n: int, seed: int) -> Draws:
        return self.run.draws(self, prior, observation, n, seed)

    def start(self, likelihood: Likelihood, xi: Tensor) -> State:
        """Points and their log likelihoods."""
        return xi, likelihood.value(xi)

    def propose(
        self, likelihood: Likelihood, reference: Reference, state: State, noise: Tensor, beta: Tensor
    ) -> tuple[State, Tensor]:
        """One proposal and its log acceptance ratio."""
        before = reference.white(state[0])
        eta = (1 - beta**2).sqrt() * before + beta * noise
        xi = reference.coloured(eta)
        value = likelihood.value(xi)
        return (xi, value), value - state[1] + log_reference(before, state[0]) - log_reference(eta, xi)
