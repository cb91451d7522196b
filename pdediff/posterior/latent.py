"""The Gaussian of a prior's first two moments as a whitened variable: what chains and optimisers move."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from functools import singledispatch

import torch
from torch import Tensor

from pdediff.diffusion import (
    CosineCovariance,
    Covariance,
    Denoiser,
    DenseCovariance,
    DiagonalCovariance,
    FourierCovariance,
    LowRankCovariance,
    LowRankUpdate,
)
from pdediff.observe import Observation
from pdediff.posterior.anchor import Anchor


@dataclass(frozen=True, eq=False)
class Root:
    """B with B B^T = C: `spread` takes (k, size) to fields (k, channel, *space), `gather` is its transpose."""

    size: int
    spread: Callable[[Tensor], Tensor]
    gather: Callable[[Tensor], Tensor]


@singledispatch
def root(covariance: Covariance) -> Root:
    """A root of C that never builds a matrix unless C is one. Raises TypeError for kinds without one."""
    raise TypeError(f"{type(covariance).__name__} has no root")


@root.register
def _(covariance: DiagonalCovariance) -> Root:
    shape = covariance.shape
    return Root(
        math.prod(shape), lambda z: covariance.sqrt(z.reshape(-1, *shape)), lambda g: covariance.sqrt(g).flatten(1)
    )


@root.register(FourierCovariance)
@root.register(CosineCovariance)
def _(covariance: FourierCovariance | CosineCovariance) -> Root:
    shape = covariance.shape
    return Root(
        math.prod(shape), lambda z: covariance.sqrt(z.reshape(-1, *shape)), lambda g: covariance.sqrt(g).flatten(1)
    )


@root.register
def _(covariance: DenseCovariance) -> Root:
    values, vectors = torch.linalg.eigh(covariance.matrix.double())
    matrix, shape = vectors * values.clamp(min=0).sqrt(), covariance.shape
    return Root(len(values), lambda z: (z @ matrix.T.to(z)).reshape(-1, *shape), lambda g: g.flatten(1) @ matrix.to(g))


@root.register
def _(covariance: LowRankCovariance) -> Root:
    shape, rank = covariance.shape, len(covariance.factor)
    local, along = covariance.variance.double().sqrt(), covariance.factor.double().flatten(1)
    size = math.prod(shape)

    def spread(z: Tensor) -> Tensor:
        return local.to(z) * z[:, :size].reshape(-1, *shape) + (z[:, size:] @ along.to(z)).reshape(-1, *shape)

    def gather(g: Tensor) -> Tensor:
        return torch.cat([(local.to(g) * g).flatten(1), g.flatten(1) @ along.T.to(g)], 1)

    return Root(size + rank, spread, gather)


@root.register
def _(covariance: LowRankUpdate) -> Root:
    base, along = root(covariance.base), covariance.factor.double().flatten(1)
    shape = covariance.shape

    def spread(z: Tensor) -> Tensor:
        return base.spread(z[:, : base.size]) + (z[:, base.size :] @ along.to(z)).reshape(-1, *shape)

    def gather(g: Tensor) -> Tensor:
        return torch.cat([base.gather(g), g.flatten(1) @ along.T.to(g)], 1)

    return Root(base.size + len(along), spread, gather)


@dataclass(frozen=True, eq=False)
class Latent:
    """x = mean + B xi with xi ~ N(0, I), B B^T = `prior.error(inf)`; float64.

    The prior itself if that is Gaussian; of any other the Gaussian with its mean and covariance, as kriging takes it.
    """

    mean: Tensor
    root: Root

    @staticmethod
    def of(prior: Denoiser) -> Latent:
        """The law of the prior's first two moments."""
        return Latent(prior.mean.double(), root(prior.error(math.inf)))

    @property
    def size(self) -> int:
        return self.root.size

    def field(self, xi: Tensor) -> Tensor:
        """Fields (k, channel, *space) of rows (k, size)."""
        return self.mean + self.root.spread(xi)


def log_likelihood(observation: Observation, x: Tensor) -> Tensor:
    """log p(y | x) of each row; -inf where the forward model gave no number."""
    found = observation.log_prob(x)
    return found.where(torch.isfinite(found), torch.full_like(found, -math.inf))


def likelihood_gradient(observation: Observation, x: Tensor, errors: Tensor | None = None) -> tuple[Tensor, Tensor]:
    """log p(y | x) and its gradient in x, row by row, by the operator's own adjoint; any law of errors.

    `errors` (k, m) are added to the readings of each row.
    """
    prediction = observation.operator(x)
    if errors is not None:
        prediction = prediction - errors.to(prediction)
    with torch.enable_grad():
        at = prediction.detach().requires_grad_()
        found = observation.noise.log_prob(observation.y.to(x), at)
        (pull,) = torch.autograd.grad(found.sum(), at)
    return found.detach(), observation.operator.vjp(x, pull)


@dataclass(frozen=True, eq=False)
class Reference:
    """A Gaussian of the whitened variable: xi = centre + L eta, eta ~ N(0, I), L L^T = (I + V diag(s^2) V^T)^-1.

    directions: V^T (rank, size); shrink: 1 / sqrt(1 + s^2) - 1.
    """

    centre: Tensor
    directions: Tensor
    shrink: Tensor

    @staticmethod
    def prior(latent: Latent) -> Reference:
        """The prior: centre 0 and L = I."""
        centre = torch.zeros(latent.size).to(latent.mean)
        return Reference(centre, centre[None].expand(0, -1), centre[:0])

    @staticmethod
    def laplace(latent: Latent, anchor: Anchor, g: Tensor) -> Reference:
        """The Gauss-Newton approximation of the posterior at its mode, as `posterior_anchor` gives the two; exact for
        a linear Gaussian problem."""
        rows = latent.root.gather(anchor.rows / anchor.std.reshape(-1, *[1] * (anchor.rows.dim() - 1)))
        _, values, directions = torch.linalg.svd(rows, full_matrices=False)
        return Reference(latent.root.gather(g)[0], directions, 1 / (1 + values**2).sqrt() - 1)

    def scaled(self, v: Tensor) -> Tensor:
        """L v for rows v (k, size)."""
        return v + (v @ self.directions.T * self.shrink) @ self.directions

    def white(self, xi: Tensor) -> Tensor:
        """eta of rows xi."""
        v = xi - self.centre
        return v - (v @ self.directions.T * (self.shrink / (1 + self.shrink))) @ self.directions

    def coloured(self, eta: Tensor) -> Tensor:
        """xi of rows eta."""
        return self.centre + self.scaled(eta)


def log_reference(eta: Tensor, xi: Tensor) -> Tensor:
    """log of the reference's density over the prior's at xi, up to a constant; (k,)."""
    return 0.5 * (xi.square() - eta.square()).sum(1)
