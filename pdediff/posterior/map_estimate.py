"""The likeliest field: L-BFGS in the whitened variable, and its randomised form that has a spread."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import ClassVar

import torch
from torch import Tensor

from pdediff.diffusion import Denoiser
from pdediff.errors import NumericalError
from pdediff.observe import Observation
from pdediff.posterior.base import Draws
from pdediff.posterior.latent import Latent, likelihood_gradient
from pdediff.posterior.lbfgs import LBFGS
from pdediff.types import Purpose, derive_many, fold, normal


@dataclass(frozen=True)
class MAP:
    """argmin over xi of |xi - xi_i|^2 / 2 - log p(y + e_i | m + B xi), B B^T the prior covariance.

    With a forward model inside the operator this is strong-constraint 4D-Var in its control variable (Courtier et al.
    1994, section 3). `randomised` gives each draw its own xi_i ~ N(0, I) and e_i ~ N(0, R): randomised maximum
    likelihood (Oliver et al. 1996), whose draws are exact for a Gaussian prior, a linear operator and Gaussian errors,
    and close where the posterior has one mode; without it xi_i = e_i = 0 and all draws are the mode. The prior is its
    Gaussian of two moments. Needs an operator with an adjoint; `randomised` needs errors that are additive.

    Good values: 100 iterations. `NumericalError` if a row ends on a value that is not finite.
    """

    randomised: bool = True
    optimiser: LBFGS = field(default_factory=LBFGS)
    exact: ClassVar[bool] = False
    linear_only: ClassVar[bool] = False

    @property
    def trace(self) -> int:
        return 0

    @torch.no_grad()
    def __call__(self, prior: Denoiser, observation: Observation, n: int, seed: int) -> Draws:
        latent, rows = Latent.of(prior), n if self.randomised else 1
        centre = torch.zeros(rows, latent.size).to(latent.mean)
        errors = torch.zeros(rows, len(observation.y)).to(latent.mean)
        if self.randomised:
            seeds = derive_many(seed, Purpose.OPTIMISER, range(n))
            centre = normal(fold(seeds, 0), (latent.size,), dtype=torch.float64).to(centre)
            errors = observation.noise.sample(fold(seeds, 1)).to(errors)
        xi, converged, calls = self.minimise(latent, observation, centre, errors)
        if not bool(torch.isfinite(xi).all()):
            raise NumericalError("L-BFGS ended on a field that is not finite", hint="posterior=pcn needs no gradient")
        x = latent.field(xi).to(prior.dtype).expand(n, *prior.shape)
        told = {"denoiser_calls": 0.0, "network_vjps": 0.0, "forward_calls": float(calls)}
        return Draws.equal(x.contiguous(), {**told, "converged": float(converged.double().mean())})

    def minimise(
        self, latent: Latent, observation: Observation, centre: Tensor, errors: Tensor
    ) -> tuple[Tensor, Tensor, int]:
        """Minimisers (k, size), whether each has converged, and evaluations of the operator."""

        def loss(xi: Tensor) -> tuple[Tensor, Tensor]:
            # y + e against H(x) is y against H(x) - e: the operator moves, so that one observation serves all rows.
            found, slope = likelihood_gradient(observation, latent.field(xi), errors)
            value = 0.5 * (xi - centre).square().sum(1) - found
            return value.nan_to_num(nan=torch.inf), xi - centre - latent.root.gather(slope)

        return self.optimiser(loss, centre)
