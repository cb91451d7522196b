"""Ensembles that move by their own covariances: what the Kalman methods share."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from pdediff.diffusion import Denoiser
from pdediff.posterior.latent import Latent
from pdediff.types import Purpose, Seeds, derive_many, fold, normal


def ensembles(n: int, size: int, seed: int) -> Seeds:
    """One seed for each ensemble that n draws need; draw i is member i % size of ensemble i // size.

    Whole ensembles always, so that a draw does not depend on how many are asked for.
    """
    return derive_many(seed, Purpose.START, range(-(-n // size)))


def prior_ensembles(prior: Denoiser, seeds: Seeds, size: int) -> Tensor:
    """Rows from N(m, S), the Gaussian of the prior's first two moments, `size` for each seed; float64."""
    latent = Latent.of(prior)
    return latent.field(normal(fold(seeds, 0), (size, latent.size), dtype=torch.float64).flatten(0, 1).to(latent.mean))


def deviations(x: Tensor) -> Tensor:
    """(x - mean) / sqrt(members - 1) of ensembles (ensemble, member, size)."""
    return (x - x.mean(1, keepdim=True)) / math.sqrt(x.shape[1] - 1)


def kalman_move(x: Tensor, seen: Tensor, innovation: Tensor, inflation: float) -> Tensor:
    """C_xy (C_yy + inflation I)^-1 innovation, all (ensemble, member, ...), by the smaller of two systems.

    x and seen are states and whitened predictions; covariances are the ensemble's own.
    """
    X, Y = deviations(x), deviations(seen)
    k, m = Y.shape[1:]
    if m <= k:
        inner = Y.mT @ Y + inflation * torch.eye(m).to(Y)
        return torch.linalg.solve(inner, innovation.mT).mT @ Y.mT @ X
    inner = Y @ Y.mT + inflation * torch.eye(k).to(Y)
    return torch.linalg.solve(inner, Y @ innovation.mT).mT @ X
