"""A draw of x0 given the readings and a Gaussian guess: the likelihood step of DAPS and of split Gibbs samplers."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

import torch
from torch import Tensor

from pdediff.diffusion import Covariance, Denoiser
from pdediff.observe import Observation
from pdediff.posterior.conditioning import Conditioning
from pdediff.posterior.latent import Latent, root
from pdediff.posterior.lbfgs import LBFGS
from pdediff.posterior.map_estimate import MAP
from pdediff.types import Seeds, fold, normal


@dataclass(frozen=True, eq=False)
class Decoupled:
    """x0 ~ N(centre, C(level)) * p(y | x0), each row around its own centre.

    Linear operators of up to `dense_limit` readings: exact, by Matheron's rule. Others: randomised maximum likelihood
    (`MAP`), which is exact for linear operators and close where the guess is narrow against the operator's curvature.
    Both need additive Gaussian errors.
    """

    white: Observation
    covariance: Callable[[float], Covariance]
    rows: Tensor | None
    optimiser: LBFGS
    known: dict[float, Conditioning] = field(default_factory=dict)

    @staticmethod
    def of(
        prior: Denoiser,
        observation: Observation,
        covariance: Callable[[float], Covariance],
        *,
        dense_limit: int = 2048,
        iterations: int = 20,
    ) -> Decoupled:
        """For the readings of one case."""
        white = observation.whitened()
        dense = white.operator.linear and len(white.y) <= dense_limit
        rows = white.rows(prior.mean.double()) if dense else None
        return Decoupled(white, covariance, rows, LBFGS(iterations, tolerance=1e-4))

    def conditioning(self, level: float) -> Conditioning:
        """The gain of one level, built at first use; for linear operators only."""
        if self.rows is None:
            raise TypeError("an operator that is not linear, or has many readings, has no gain matrix")
        if level not in self.known:
            self.known[level] = Conditioning.of(self.white, self.covariance(level), self.rows)
        return self.known[level]

    def mean(self, centre: Tensor, level: float) -> Tensor:
        """The likeliest x0 around each row of centre: its mean for linear operators."""
        if self.rows is not None:
            return self.conditioning(level).update(centre, self.white.residual(centre))
        latent = Latent(centre.double(), root(self.covariance(level)))
        start = torch.zeros(len(centre), latent.size).to(latent.mean)
        errors = torch.zeros(len(centre), len(self.white.y)).to(latent.mean)
        xi = MAP(False, self.optimiser).minimise(latent, self.white, start, errors)[0]
        return latent.field(xi).to(centre)

    def draw(self, centre: Tensor, level: float, seeds: Seeds) -> Tensor:
        """One draw around each row of centre (k, channel, *space)."""
        if self.rows is not None:
            return self.conditioning(level).draw(centre, seeds)
        latent = Latent(centre.double(), root(self.covariance(level)))
        start = normal(fold(seeds, 0), (latent.size,), dtype=torch.float64).to(latent.mean)
        errors = self.white.noise.sample(fold(seeds, 1)).to(latent.mean)
        xi = MAP(True, self.optimiser).minimise(latent, self.white, start, errors)[0]
        return latent.field(xi).to(centre)
