"""Densities of Gaussian fields whose covariance is the sum of two: a prior and the noise on top of it."""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from torch import Tensor

from pdediff.diffusion.covariance import (
    Covariance,
    DenseCovariance,
    DiagonalCovariance,
    FourierCovariance,
    LowRankCovariance,
)
from pdediff.errors import ConfigError
from pdediff.types import Field

DENSE = 4096
"""Points up to which a pair of covariances without a common form is summed as full matrices."""

Summed = DiagonalCovariance | FourierCovariance | DenseCovariance | LowRankCovariance


def gaussian_density(mean: Tensor, noise: Covariance, prior: Covariance) -> Callable[[Field], Tensor]:
    """log N(x; mean, noise + prior) as a function of x, (batch,); computed in float64.

    In closed form for white noise with any prior covariance and for two Fourier ones; by a full matrix, made once, for
    other pairs up to 4096 points. `ConfigError` beyond.
    """
    total = summed(noise, prior)
    constant = log_determinant(total) + math.prod(total.shape) * math.log(2 * math.pi)

    device = total.diagonal().device

    def log_prob(x: Field) -> Tensor:
        # The covariance of a calibration stays on the CPU when its network moves.
        offset = (x.double() - mean.to(x.device).double()).to(device)
        return (-0.5 * ((offset * total.solve(offset)).flatten(1).sum(1) + constant)).to(x)

    return log_prob


def summed(noise: Covariance, prior: Covariance) -> Summed:
    """noise + prior in float64, in the simplest form that holds it."""
    if isinstance(noise, DiagonalCovariance):
        variance = noise.variance.double().to(prior.diagonal().device)
        if isinstance(prior, DiagonalCovariance):
            return DiagonalCovariance(variance + prior.variance.double())
        if isinstance(prior, LowRankCovariance):
            return LowRankCovariance(variance + prior.variance.double(), prior.factor.double())
        if isinstance(prior, DenseCovariance):
            return DenseCovariance(prior.matrix.double() + torch.diag(variance.flatten()), prior.shape)
        # White noise only: its variance is one number, which every basis keeps.
        if isinstance(prior, FourierCovariance) and bool((variance == variance.flatten()[0]).all()):
            return FourierCovariance(prior.spectrum.double() + variance)
    if isinstance(noise, FourierCovariance) and isinstance(prior, FourierCovariance):
        spectrum = prior.spectrum.double()
        return FourierCovariance(spectrum + noise.spectrum.to(spectrum))
    full = _matrix(prior)
    return DenseCovariance(full + _matrix(noise).to(full), prior.shape)


def log_determinant(covariance: Summed) -> float:
    """log det of a covariance, all of its eigenvalues positive."""
    if isinstance(covariance, DiagonalCovariance):
        return float(covariance.variance.log().sum())
    if isinstance(covariance, FourierCovariance):
        return float(covariance.spectrum.log().sum())
    if isinstance(covariance, DenseCovariance):
        return float(torch.linalg.slogdet(covariance.matrix).logabsdet)
    # det(D + U^T U) = det D det(I + U D^-1 U^T)
    factor = covariance.factor.flatten(1)
    inner = torch.eye(len(factor)).to(factor) + (factor / covariance.variance.flatten()) @ factor.T
    return float(covariance.variance.log().sum() + torch.linalg.slogdet(inner).logabsdet)


def _matrix(covariance: Covariance) -> Tensor:
    size = math.prod(covariance.shape)
    if size > DENSE:
        raise ConfigError(
            f"the density of {type(covariance).__name__} plus another kind on {size} points has no closed form",
            hint="give the law at sigma_max as `terminal`, or calibrate the prior with a Fourier covariance",
        )
    device = covariance.diagonal().device
    identity = torch.eye(size, dtype=torch.float64, device=device).reshape(size, *covariance.shape)
    return covariance.matvec(identity).flatten(1)
