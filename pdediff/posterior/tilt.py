"""Tilts rho(x, sigma) of a weighted SDE: likelihoods of the state itself, inflated by the noise still on it."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Protocol

import torch
from torch import Tensor

from pdediff.diffusion import Denoiser
from pdediff.errors import ConfigError
from pdediff.observe import Observation
from pdediff.posterior.conditioning import gaussian_log_density
from pdediff.types import fold


class Tilt(Protocol):
    """A log potential of the state at every level; at sigma = 0 that of the target."""

    def log(self, x: Tensor, sigma: float) -> Tensor:
        """rho, (batch,) float64."""
        ...

    def gradient(self, x: Tensor, sigma: float) -> Tensor:
        """Its gradient in x."""
        ...

    def step(self, x: Tensor, sigma: float, size: float) -> Tensor:
        """size * N grad rho, taken implicitly where it is stiff."""
        ...

    def laplacian(self, x: Tensor, sigma: float, probes: Tensor) -> Tensor:
        """tr(N hess rho), exact or from one probe from N(0, N) a row."""
        ...

    def width(self, sigma: float) -> float:
        """The smallest variance, in units of N, of the density exp(rho); infinite where it has none."""
        ...

    def start(self, mean: Tensor, sigma: float, share: float, seeds: Sequence[int]) -> tuple[Tensor, Tensor]:
        """Rows and log weights for N(mean, share (S + sigma^2 N)) exp(rho), S the covariance of the data."""
        ...


def likelihood_tilt(prior: Denoiser, observation: Observation, inflation: float) -> LinearTilt:
    """rho = log N(y; H x, R + inflation sigma^2 H N H^T) for a linear H.

    Inflation 1 is the annealed path, whose pull never outruns the noise; 0 the path of Chen et al. 2025, stiff and
    far from the posterior's own at large sigma. A nonlinear H has no such path: at large sigma the state is noise, and
    what H makes of it says nothing of the field. Take a twist of the denoised state there (`TDS`).
    """
    if not observation.operator.linear:
        raise ConfigError("a tilt of the state needs a linear observation operator", hint="use posterior=tds")
    rows = observation.rows(prior.mean.double())
    cross = prior.noise.covariance(prior.shape).matvec(rows)
    return LinearTilt(observation, inflation, prior, rows, cross)


@dataclass(frozen=True, eq=False)
class LinearTilt:
    """rows: H (m, channel, *space); cross: H N likewise."""

    observation: Observation
    inflation: float
    prior: Denoiser
    rows: Tensor
    cross: Tensor
    known: dict[float, Tensor] = field(default_factory=dict)

    def factor(self, variance: float) -> Tensor:
        """Cholesky factor of R + variance H N H^T."""
        if variance not in self.known:
            spread = self.rows.flatten(1) @ self.cross.flatten(1).T
            inner = variance * 0.5 * (spread + spread.T) + torch.diag(self.observation.noise.std.to(spread) ** 2)
            self.known[variance] = torch.linalg.cholesky(inner)
        return self.known[variance]

    def _back(self, x: Tensor, variance: float, rows: Tensor) -> Tensor:
        residual = self.observation.residual(x.double())
        q = torch.cholesky_solve(residual.T, self.factor(variance)).T
        return (q @ rows.flatten(1)).reshape(x.shape)

    def log(self, x: Tensor, sigma: float) -> Tensor:
        return gaussian_log_density(self.observation.residual(x.double()), self.factor(self.inflation * sigma**2))

    def gradient(self, x: Tensor, sigma: float) -> Tensor:
        return self._back(x, self.inflation * sigma**2, self.rows)

    def step(self, x: Tensor, sigma: float, size: float) -> Tensor:
        # The end of x' = x + size N grad rho(x'): the step's own spread joins that of the readings.
        return size * self._back(x, self.inflation * sigma**2 + size, self.cross)

    def laplacian(self, x: Tensor, sigma: float, probes: Tensor) -> Tensor:
        spread = self.rows.flatten(1) @ self.cross.flatten(1).T
        value = -torch.cholesky_solve(spread, self.factor(self.inflation * sigma**2)).trace()
        return value.expand(len(x))

    def width(self, sigma: float) -> float:
        factor = self.factor(self.inflation * sigma**2)
        white = torch.linalg.solve_triangular(factor, self.rows.flatten(1) @ self.cross.flatten(1).T, upper=False)
        inner = torch.linalg.solve_triangular(factor, white.T, upper=False)
        return 1 / float(torch.linalg.eigvalsh(0.5 * (inner + inner.T))[-1])

    def start(self, mean: Tensor, sigma: float, share: float, seeds: Sequence[int]) -> tuple[Tensor, Tensor]:
        at, noise, inflated = mean.double(), self.prior.noise, self.inflation * sigma**2
        free, lifted = (noise.sample(fold(seeds, i), mean.shape, torch.float64).to(mean.device) for i in (0, 1))
        data = self.prior.error(math.inf)
        x = at + share**0.5 * (data.draw(fold(seeds, 3), torch.float64).to(at) + sigma * free)
        cross = share * (data.matvec(self.rows).flatten(1) + sigma**2 * self.cross.flatten(1))
        inner = self._see(cross) + inflated * self._see(self.cross) + torch.diag(self.observation.noise.std.to(x) ** 2)
        factor = torch.linalg.cholesky(0.5 * (inner + inner.T))
        # Matheron's rule with readings whose errors are n + sqrt(inflated) H eps.
        error = self.observation.noise.sample(fold(seeds, 2)).to(x) + inflated**0.5 * self._see(lifted)
        q = torch.cholesky_solve((self.observation.residual(x) - error).T, factor).T
        base = gaussian_log_density(self.observation.residual(at[None]), factor)
        return (x + (q @ cross).reshape(x.shape)).to(mean.dtype), base.expand(len(x))

    def _see(self, v: Tensor) -> Tensor:
        return v.flatten(1) @ self.rows.flatten(1).T
