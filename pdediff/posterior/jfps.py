"""JFPS: the error of the estimate from the prior covariance alone."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import ClassVar

import torch

from pdediff.diffusion import (
    CosineCovariance,
    Covariance,
    Denoiser,
    DenseCovariance,
    DiagonalCovariance,
    FourierCovariance,
    LowRankCovariance,
)
from pdediff.errors import ConfigError
from pdediff.observe import Observation
from pdediff.posterior.base import GuidedDenoiser
from pdediff.posterior.calibrated import CalibratedGuidance
from pdediff.types import Field, Levels, Positive, PositiveInt


@dataclass(frozen=True)
class JFPS:
    """D_y = D + C H^T (R + H C H^T)^-1 (y - H D), C = (S^-1 + (sigma^2 N)^-1)^-1, S the prior covariance `error(inf)`.

    Jacobian-free posterior sampling: `CalibratedGuidance` with the error that a Gaussian prior of covariance S would
    have at this level in place of the measured one; no calibration at any level but infinity is used. Exact for a
    Gaussian prior; for others the measured error is at least as good. `ConfigError` for noise fields that do not
    share a basis with S.
    """

    dense_limit: PositiveInt = 2048
    tolerance: Positive = 1e-6
    exact: ClassVar[bool] = False
    linear_only: ClassVar[bool] = False
    needs_vjp: ClassVar[bool] = False

    def __call__(self, prior: Denoiser, observation: Observation) -> Denoiser:
        guidance = CalibratedGuidance(local=False, dense_limit=self.dense_limit, tolerance=self.tolerance)
        return guidance(_GaussianError(prior, observation), observation)


@dataclass(frozen=True, eq=False)
class _GaussianError(GuidedDenoiser):
    """The prior, with the error that it would have if it were Gaussian."""

    def __call__(self, x: Field, sigma: Levels) -> Field:
        return self.prior(x, sigma)

    def error(self, sigma: float) -> Covariance:
        prior = self.prior.error(torch.inf)
        return prior if sigma == torch.inf else parallel(prior, self.noise.covariance(self.shape).scaled(sigma**2))


def parallel(prior: Covariance, noise: Covariance) -> Covariance:
    """(S^-1 + M^-1)^-1: the covariance of x0 given x0 + n, x0 ~ N(., S), n ~ N(0, M), in the form of S; float64."""
    if isinstance(prior, FourierCovariance) and isinstance(noise, FourierCovariance):
        s, m = prior.spectrum.double(), noise.spectrum.double().to(prior.spectrum.device)
        return FourierCovariance(s * m / (s + m))
    if isinstance(noise, DiagonalCovariance):
        m = noise.variance.double().to(prior.diagonal().device)
        if isinstance(prior, DiagonalCovariance):
            s = prior.variance.double()
            return DiagonalCovariance(s * m / (s + m))
        if isinstance(prior, FourierCovariance | CosineCovariance) and bool((m == m.flatten()[0]).all()):
            s, one = prior.spectrum.double(), m.flatten()[0]
            return replace(prior, spectrum=s * one / (s + one))
        if isinstance(prior, LowRankCovariance):
            return _low_rank(prior, m)
        if isinstance(prior, DenseCovariance):
            s = prior.matrix.double()
            # S - S (S + M)^-1 S = M (S + M)^-1 S, which stays finite for singular S.
            out = m.flatten()[:, None] * torch.linalg.solve(s + torch.diag(m.flatten()), s)
            return DenseCovariance(0.5 * (out + out.T), prior.shape)
    raise ConfigError(
        f"no common form of {type(prior).__name__} and the noise's {type(noise).__name__}",
        hint="use guidance=calibrated",
    )


def _low_rank(prior: LowRankCovariance, m: torch.Tensor) -> LowRankCovariance:
    """S = diag(v) + U^T U: M - M (S + M)^-1 M by Woodbury, again a diagonal and as many directions."""
    v, u = prior.variance.double(), prior.factor.double()
    total = v + m
    inner = torch.eye(len(u)).to(v) + (u / total).flatten(1) @ u.flatten(1).T
    scaled = (u * m / total).flatten(1)
    factor = torch.linalg.solve_triangular(torch.linalg.cholesky(inner), scaled, upper=False)
    return LowRankCovariance(v * m / total, factor.reshape(u.shape))
