"""The parts of a guided estimate D + (left factor) A^T q: A the whitened operator, q the solution of a small system.

All guidance by a Gaussian model x0 | x ~ N(D, C) is one Kalman update, D + C A^T (I + A C A^T)^-1 r, with r and A the
residual and the (linearised) operator in units of the noise. A method chooses what stands for C on the left and in the
brackets. Every product and every norm here belongs to one row: guidance never sees the rest of the batch.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

import torch
from torch import Tensor

from pdediff.diffusion import Denoiser, broadcast, conjugate_gradients
from pdediff.errors import ConfigError
from pdediff.observe import Observation
from pdediff.posterior.base import levels_of
from pdediff.types import Field, Levels


@dataclass(frozen=True, eq=False)
class Tangent:
    """The prior's estimate D at x with its graph, and the products of V = sigma^2 N J^T = Cov[x0 | x], J = dD / dx.

    V is the second-order Tweedie formula (Boys et al. 2023, equation 6; Rozet et al. 2024, equation 10) for noise of
    covariance N. Each product is one backward pass through the network.
    """

    prior: Denoiser
    x: Tensor
    sigma: Tensor
    graph: Tensor

    @staticmethod
    def of(prior: Denoiser, x: Field, sigma: Levels) -> Tangent:
        """One evaluation of the prior that remembers its graph."""
        with torch.enable_grad():
            at = x.detach().requires_grad_()
            return Tangent(prior, at, sigma, prior(at, sigma))

    @property
    def denoised(self) -> Field:
        """D(x), without a graph."""
        return self.graph.detach()

    def pull(self, w: Field) -> Field:
        """N J^T w: what a gradient in D becomes as a move of the state."""
        (gradient,) = torch.autograd.grad(self.graph, self.x, w.to(self.graph), retain_graph=True)
        return coloured(self.prior, gradient)

    def spread(self, w: Field) -> Field:
        """V w."""
        return broadcast(self.sigma, self.x) ** 2 * self.pull(w)

    def push(self, w: Field) -> Field:
        """sigma^2 J N w, the transpose of `spread`, by differentiating the backward pass once more."""
        with torch.enable_grad():
            dual = torch.zeros_like(self.graph).requires_grad_()
            (pulled,) = torch.autograd.grad(self.graph, self.x, dual, create_graph=True)
            (out,) = torch.autograd.grad(pulled, dual, coloured(self.prior, w.to(self.graph)), retain_graph=True)
        return broadcast(self.sigma, self.x) ** 2 * out


def coloured(prior: Denoiser, gradient: Field) -> Field:
    """N gradient, N the covariance of the prior's noise: the gradient of a function on function space."""
    return prior.noise.covariance(prior.shape).matvec(gradient)


def score_gradient(prior: Denoiser, x: Field, sigma: Levels, loss: Callable[[Tensor], Tensor]) -> tuple[Field, Field]:
    """D(x) and N grad_x loss(D(x)) for a loss (batch,) of each row; through the network."""
    tangent = Tangent.of(prior, x, sigma)
    with torch.enable_grad():
        (gradient,) = torch.autograd.grad(loss(tangent.graph).sum(), tangent.x)
    return tangent.denoised, coloured(prior, gradient)


def by_level(estimate: Callable[[Field, float], Field], x: Field, sigma: Levels) -> Field:
    """`estimate(rows, level)` for batches of one level, row by row where they differ."""
    level = levels_of(sigma)
    if level is not None:
        return estimate(x, level)
    return torch.cat([estimate(row[None], float(s)) for row, s in zip(x, sigma, strict=True)])


def need_linear(observation: Observation, method: object) -> None:
    """`ConfigError` that names the method if the operator is not linear."""
    if not observation.operator.linear:
        raise ConfigError(
            f"{type(method).__name__} needs a linear observation operator", hint="use posterior=calibrated"
        )


@dataclass(frozen=True, eq=False)
class ScalarGain:
    """Solves (I + v A A^T) q = r for one number v >= 0 a row; A the operator of a whitened observation.

    Linear operators with up to `dense_limit` readings: eigenvectors of A A^T, computed once. Others are linearised at
    the estimate (Gauss-Newton) and solved by conjugate gradients in float64.
    """

    white: Observation
    values: Tensor | None
    vectors: Tensor | None
    tolerance: float = 1e-8

    @staticmethod
    def of(observation: Observation, prior: Denoiser, dense_limit: int = 2048) -> ScalarGain:
        """For the rows of `observation`, whatever its noise."""
        white = observation.whitened()
        if not white.operator.linear or len(white.y) > dense_limit:
            return ScalarGain(white, None, None)
        rows = white.rows(prior.mean.double()).flatten(1)
        values, vectors = torch.linalg.eigh(rows @ rows.T)
        return ScalarGain(white, values.clamp(min=0), vectors)

    def weights(self, at: Field, variance: Tensor) -> Tensor:
        """q (batch, m) at estimates `at`, variance (batch,); float64."""
        at, v = at.double(), variance.double()[:, None]
        residual = self.white.residual(at)
        if self.values is not None and self.vectors is not None:
            return ((residual @ self.vectors) / (1 + v * self.values)) @ self.vectors.T
        operator = self.white.operator

        def innovation(q: Tensor) -> Tensor:
            return q + v * operator.jvp(at, operator.vjp(at, q))

        return conjugate_gradients(innovation, residual, tolerance=self.tolerance)

    def lift(self, at: Field, q: Tensor) -> Field:
        """A^T q, in the type of `at`."""
        return self.white.operator.vjp(at.double(), q).to(at)


@dataclass(frozen=True, eq=False)
class LevelCache:
    """Something expensive that depends on the noise level alone, computed at first use."""

    make: Callable[[float], Tensor]
    known: dict[float, Tensor] = field(default_factory=dict)

    def __call__(self, sigma: Levels) -> Tensor:
        """One row for each level."""
        levels = [float(s) for s in sigma] if levels_of(sigma) is None else [float(sigma[0])]
        for level in levels:
            if level not in self.known:
                self.known[level] = self.make(level)
        rows = torch.stack([self.known[level] for level in levels]).to(sigma)
        return rows.expand(len(sigma), *rows.shape[1:])
