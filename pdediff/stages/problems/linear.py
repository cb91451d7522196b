"""Linear readings of a Gaussian field: the operator as rows, and the exact posterior in the space of the readings."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from pdediff.diffusion import Covariance, Denoiser
from pdediff.observe import Linear, Observation, Operator
from pdediff.posterior import Conditioning
from pdediff.stages.problems.base import Layout, Setup
from pdediff.types import Field, Seeds

NOISE_FREE = 1e-5
"""Errors of readings without noise, over the root mean square reading: below it nothing changes but rounding."""

BATCH = 256
"""Unit fields that are mapped at once: more would leave the cache and, on fine grids, the memory."""


@dataclass(frozen=True, eq=False)
class Rows(Linear):
    """A linear operator by its matrix, rows (m, channel, *space): reading i is the sum of rows[i] * x."""

    rows: Tensor

    def __call__(self, x: Field) -> Tensor:
        return x.flatten(1) @ self.rows.flatten(1).to(x).T

    def vjp(self, x: Field, w: Tensor) -> Field:
        return (w @ self.rows.flatten(1).to(w)).reshape(len(w), *self.rows.shape[1:])


@dataclass(frozen=True, eq=False)
class SourceAndSolution(Linear):
    """z -> (a, G a) with a = scale * z and G symmetric: two channels of one, scale (1, *space).

    G is a solver with constant coefficients, whose matrix is symmetric; it is its own adjoint.
    """

    scale: Tensor
    solve: Callable[[Tensor], Tensor]

    def __call__(self, x: Field) -> Field:
        a = self.scale.to(x) * x
        return torch.cat([a, self.solve(a)], 1)

    def vjp(self, x: Field, w: Tensor) -> Field:
        return self.scale.to(w) * (w[:, :1] + self.solve(w[:, 1:]))


def pose(prior: Denoiser, fields: Operator, rows: Tensor, noise: float, layout: Layout) -> Setup:
    """A problem with readings rows . z and errors of `noise` times the root mean square reading of each field.

    The mean is over the prior and all sensors of the field; less noise than `NOISE_FREE` is as much as that.
    """
    covariance = prior.error(math.inf)
    square = (rows * covariance.matvec(rows)).flatten(1).sum(1) + Rows(rows)(prior.mean[None])[0] ** 2
    std = noise_of(square, layout, noise)

    def draw(seeds: Seeds) -> Tensor:
        return prior.mean + covariance.draw(seeds, prior.dtype)

    return Setup(prior, draw, fields, Rows(rows), std, layout)  # type: ignore[arg-type]


def noise_of(square: Tensor, layout: Layout, noise: float) -> Tensor:
    """Standard deviations (m,) of errors: `noise` times the root mean square reading of each field."""
    std = torch.empty_like(square)
    for number in set(layout.field.tolist()):
        here = torch.from_numpy(layout.field == number)
        std[here] = max(noise, NOISE_FREE) * square[here].mean().sqrt()
    return std


@dataclass(frozen=True, eq=False)
class ExactPosterior:
    """The Gaussian posterior of a linear problem, as mean, standard deviation and draws of all stored fields.

    Everything that does not depend on the readings is computed once: one Cholesky factor of their covariance (m, m),
    R + H C H^T, and the rows of C H^T. No matrix over the grid is built.
    """

    fields: Operator
    prior_mean: Tensor
    covariance: Covariance
    conditioning: Conditioning

    def mean(self, observation: Observation) -> Tensor:
        """E[fields | y], (channel, *space)."""
        at = self.prior_mean[None]
        return self.fields(self.conditioning.update(at, observation.residual(at)))[0]

    def draws(self, observation: Observation, seeds: Seeds) -> Tensor:
        """Independent draws by Matheron's rule, (n, channel, *space), row i from seed i alone."""
        given = replace(self.conditioning, observation=observation)
        return self.fields(given.draw(self.prior_mean.expand(len(seeds), *self.prior_mean.shape), seeds))

    def std(self) -> Tensor:
        """Pointwise standard deviation of the fields, (channel, *space); the same for all readings.

        The prior variance of the fields F z is the sum of squares of F C^(1/2), column by column; the readings take
        away that of L^-1 H C F^T.
        """
        shape, total = self.prior_mean.shape, self.prior_mean.numel()
        variance = torch.zeros(())
        for first in range(0, total, BATCH):
            unit = torch.zeros(min(BATCH, total - first), total, dtype=self.prior_mean.dtype)
            unit[torch.arange(len(unit)), torch.arange(first, first + len(unit))] = 1.0
            columns = self.covariance.sqrt(unit.reshape(-1, *shape))  # type: ignore[attr-defined]
            variance = variance + self.fields(columns).square().sum(0)
        seen = self.fields(self.conditioning.cross)
        known = torch.linalg.solve_triangular(self.conditioning.factor, seen.flatten(1), upper=False)
        return (variance - known.square().sum(0).reshape(variance.shape)).clamp(min=0).sqrt()
