"""Langevin proposals that hold the prior: pCN with the gradient of the likelihood."""

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
class PreconditionedMALA:
    """eta' = rho eta + (1 - rho) g + beta w, rho = sqrt(1 - beta^2), g = grad of -Phi(eta), with a Metropolis test.

    The pCN-Langevin proposal of Cotter et al. 2013, equation 4.10, their delta = 2 (1 - rho) / (1 + rho), in the
    whitened variable of `PCN`: preconditioned by the prior covariance, its acceptance does not fall as grids are
    refined. g is cut to the length of the noise (Roberts and Tweedie 1996, section 1.4.2). log ratio = Phi - Phi' +
    T(eta', eta, g') - T(eta, eta', g), T(a, b, g) = (<g, b - rho a> - (1 - rho) |g|^2 / 2) / (1 + rho). The posterior
    is that of `PCN`; one forward call and one adjoint a step.

    Good values: acceptance 0.57 (adapted; Roberts and Rosenthal 1998); see `Chains`.
    """

    run: Chains = field(default_factory=Chains)
    exact: ClassVar[bool] = False
    linear_only: ClassVar[bool] = False
    acceptance: ClassVar[float] = 0.57
    evaluations: ClassVar[float] = 2.0

    @property
    def trace(self) -> int:
        return 0

    @torch.no_grad()
    def __call__(self, prior: Denoiser, observation: Observation, n: int, seed: int) -> Draws:
        return self.run.draws(self, prior, observation, n, seed)

    def start(self, likelihood: Likelihood, xi: Tensor) -> State:
        """Points, log likelihoods and their gradients."""
        return xi, *likelihood.gradient(xi)

    def propose(
        self, likelihood: Likelihood, reference: Reference, state: State, noise: Tensor, beta: Tensor
    ) -> tuple[State, Tensor]:
        """One proposal and its log acceptance ratio."""
        xi, value, slope = state
        rho, eta = (1 - beta**2).sqrt(), reference.white(xi)
        drift = _drift(reference.scaled(slope - xi) + eta, beta)
        moved = rho * eta + (1 - rho) * drift + beta * noise
        its_xi = reference.coloured(moved)
        its_value, its_slope = likelihood.gradient(its_xi)
        its_drift = _drift(reference.scaled(its_slope - its_xi) + moved, beta)
        there, back = _pull(eta, moved, drift, rho), _pull(moved, eta, its_drift, rho)
        ratio = its_value - value + log_reference(eta, xi) - log_reference(moved, its_xi)
        return (its_xi, its_value, its_slope), ratio + back - there


def _drift(slope: Tensor, beta: Tensor) -> Tensor:
    """The gradient, shortened where (1 - rho) |g| is longer than the noise: tails may be steeper than a step."""
    longest = beta * slope.shape[1] ** 0.5 / (1 - (1 - beta**2).sqrt())
    return slope * (longest / slope.norm(dim=1, keepdim=True).clamp(min=1e-300)).clamp(max=1)


def _pull(a: Tensor, b: Tensor, drift: Tensor, rho: Tensor) -> Tensor:
    """log of the proposal density a -> b over that of pCN."""
    return ((drift * (b - rho * a)).sum(1) - 0.5 * (1 - rho) * drift.square().sum(1)) / (1 + rho)
