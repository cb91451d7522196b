"""DiffusionMBIR: a prior of slices, tied along the remaining axis by a penalty of their differences."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import ClassVar, Literal

import torch
from torch import Tensor

from pdediff.diffusion import Covariance, Denoiser, conjugate_gradients
from pdediff.errors import ConfigError
from pdediff.observe import Linear, Observation
from pdediff.posterior.base import GuidedDenoiser
from pdediff.posterior.conditioning import Conditioning
from pdediff.posterior.gain import by_level, need_linear
from pdediff.posterior.physics import with_residual
from pdediff.types import Field, Levels, Positive, PositiveInt


@dataclass(frozen=True)
class DiffusionMBIR:
    """D_y = argmin_z |R^-1/2 (y - H z)|^2 / 2 + f(d z) + (z - D)^T C^-1 (z - D) / 2, d the differences of slices.

    Chung et al. 2023 (CVPR), equation 11, with f = strength |d z|_1 ("tv", as published) or strength |d z|^2 / 2
    ("quadratic"), slices along the first axis of space, for a `Sliced` prior of one slice or any other. The published
    ADMM works on the noisy state, with one step of conjugate gradients a level and dual variables carried from level to
    level; here it works on the estimate with the term that keeps it at D, and starts anew at each call: guidance is a
    function of (x, sigma). C is the measured error of D ("calibrated") or sigma^2 N ("isotropic", a flat prior).
    "quadratic" is one linear solve, and with "calibrated" the exact estimate for Gaussian slices, whose coupled law is
    one Gaussian. "tv" takes `iterations` of ADMM with `penalty`, scaled by strength; it is the likeliest field given D
    and not a mean, so its draws are too narrow where the penalty rules. Exact for no other prior.

    Good values: strength of the order of one over the mean difference of slices ("tv"), of its inverse square
    ("quadratic"); penalty 1 to 10, iterations 10 to 50. Raises ConfigError for nonlinear operators, and for fields
    with one slice.
    """

    coupling: Literal["tv", "quadratic"] = "tv"
    strength: Positive = 1.0
    penalty: Positive = 3.0
    iterations: PositiveInt = 20
    covariance: Literal["calibrated", "isotropic"] = "calibrated"
    exact: ClassVar[bool] = False
    linear_only: ClassVar[bool] = True
    needs_vjp: ClassVar[bool] = False

    def __call__(self, prior: Denoiser, observation: Observation) -> Denoiser:
        need_linear(observation, self)
        if len(prior.shape) < 2 or prior.shape[1] < 2:
            raise ConfigError(f"DiffusionMBIR needs at least two slices along the first axis, got {prior.shape}")
        weight = self.strength if self.coupling == "quadratic" else self.penalty * self.strength
        difference, white = Difference(prior.shape), observation.whitened()
        stacked = with_residual(white, difference, difference.count, weight**-0.5).whitened()
        return _Guided(prior, stacked, self, difference, weight**0.5, len(white.y))


@dataclass(frozen=True)
class Difference(Linear):
    """z[i + 1] - z[i] along the first axis of space of fields of `shape`, (batch, count)."""

    shape: tuple[int, ...]

    @property
    def count(self) -> int:
        """How many differences there are."""
        channels, slices, *space = self.shape
        return torch.Size((channels, slices - 1, *space)).numel()

    def __call__(self, x: Field) -> Tensor:
        return x.diff(dim=2).flatten(1)

    def vjp(self, x: Field, w: Tensor) -> Field:
        channels, slices, *space = self.shape
        jumps = w.reshape(len(w), channels, slices - 1, *space)
        edge = torch.zeros_like(jumps[:, :, :1])
        return -torch.cat([jumps, edge], 2) + torch.cat([edge, jumps], 2)


@dataclass(frozen=True, eq=False)
class _Guided(GuidedDenoiser):
    """`observation` holds the whitened readings and then sqrt(weight) d z = sqrt(weight) target, both of unit error."""

    method: DiffusionMBIR
    difference: Difference
    root: float
    readings: int
    known: dict[float, Conditioning] = field(default_factory=dict)

    def __call__(self, x: Field, sigma: Levels) -> Field:
        denoised = self.prior(x, sigma)
        return by_level(self.closest, denoised, sigma)

    def closest(self, denoised: Field, level: float) -> Field:
        """The minimiser, for rows of one level."""
        at = denoised.double()
        residual = self.observation.residual(at)
        if self.method.coupling == "quadratic":
            return self.solved(at, residual, level).to(denoised)
        jumps, bound = self.difference(at), self.method.strength / self.root**2
        target, dual = jumps, torch.zeros_like(jumps)
        z = at
        for _ in range(self.method.iterations):
            wanted = residual.clone()
            wanted[:, self.readings :] += self.root * (target - dual)
            z = self.solved(at, wanted, level)
            found = self.difference(z) + dual
            target = found.sign() * (found.abs() - bound).clamp(min=0)
            dual = found - target
        return z.to(denoised)

    def covariance(self, level: float) -> Covariance:
        """C at a level."""
        if self.method.covariance == "calibrated":
            return self.prior.error(level)
        return self.prior.noise.covariance(self.shape).scaled(level**2)

    def solved(self, at: Field, residual: Tensor, level: float, dense_limit: int = 2048) -> Field:
        """at + C B^T (I + B C B^T)^-1 residual, B the readings and the weighted differences."""
        if residual.shape[1] <= dense_limit:
            if level not in self.known:
                rows = self.observation.rows(self.mean.double())
                self.known[level] = Conditioning.of(self.observation, self.covariance(level), rows)
            return self.known[level].update(at, residual)
        covariance, operator = self.covariance(level), self.observation.operator

        def innovation(q: Tensor) -> Tensor:
            return q + operator.jvp(at, covariance.matvec(operator.vjp(at, q)))

        return at + covariance.matvec(operator.vjp(at, conjugate_gradients(innovation, residual, tolerance=1e-8)))
