"""The hybrid for modes: measured covariance everywhere, the network's curvature where the readings disagree."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import ClassVar

import torch
from torch import Tensor

from pdediff.diffusion import Denoiser, broadcast
from pdediff.observe import Observation
from pdediff.posterior.base import GuidedDenoiser, levels_of
from pdediff.posterior.gain import coloured, need_linear
from pdediff.types import Field, Levels, Positive


@dataclass(frozen=True)
class HybridGuidance:
    """D_y = D + sigma^2 N grad_x log N(r; 0, R + H C' H^T), C' = the measured C but for one direction of each row.

    With r = y - H D, R + H C H^T = L L^T, z = L^-1 r and e = z / |z|, the direction in which this row's readings
    surprise the denoiser, C' has the network's own variance v = u^T V u along u = H^T L^-T e, where C has c = u^T C u:

        log N = -(|z|^2 - (e z)^2 + (e z)^2 / (1 + v - c) + log(1 + v - c)) / 2.

    v = sigma^2 u^T [D(x + h N u) - D(x)] / h is a finite difference of two evaluations, and it is differentiated: its
    change with x is what tells the modes apart, and what a Gaussian fit with a frozen covariance misses. Two
    evaluations and one backward pass through both, whatever the number of readings; e and u are held fixed. Exact for
    a Gaussian prior, where v = c; for a mixture the path is wrong at high noise, so run it under a sampler that adds
    more noise than it must (`SASolver`, tau 2 to 4 for levels around the spread of the modes), which lets the
    later and better levels correct the earlier ones. Ours; V as in Rozet et al. 2024, equation 10.

    Good values: `probe` (h |N u| / sigma) 0.1 to 1e-2. Raises ConfigError for nonlinear operators.
    """

    probe: Positive = 0.05
    exact: ClassVar[bool] = False
    linear_only: ClassVar[bool] = True
    needs_vjp: ClassVar[bool] = True

    def __call__(self, prior: Denoiser, observation: Observation) -> Denoiser:
        need_linear(observation, self)
        white = observation.whitened()
        return _Guided(prior, white, self.probe, white.rows(prior.mean.double()).flatten(1))


@dataclass(frozen=True, eq=False)
class _Level:
    """What one noise level needs, for m readings of a field of d points, float64.

    root: L^-1 A (m, d), A the whitened operator; seen: L^-1 A C A^T L^-T (m, m).
    """

    inverse: Tensor
    root: Tensor
    seen: Tensor


@dataclass(frozen=True, eq=False)
class _Guided(GuidedDenoiser):
    probe: float
    rows: Tensor
    levels: dict[float, _Level] = field(default_factory=dict)

    def level(self, sigma: float) -> _Level:
        """Computed at first use."""
        if sigma not in self.levels:
            cross = self.prior.error(sigma).matvec(self.rows.reshape(-1, *self.shape)).flatten(1)
            seen = self.rows @ cross.T
            factor = torch.linalg.cholesky(torch.eye(len(seen)).to(seen) + 0.5 * (seen + seen.T))
            inverse = torch.linalg.inv(factor)
            self.levels[sigma] = _Level(inverse, inverse @ self.rows, inverse @ seen @ inverse.T)
        return self.levels[sigma]

    def __call__(self, x: Field, sigma: Levels) -> Field:
        if levels_of(sigma) is None:
            return torch.cat([self(row[None], level[None]) for row, level in zip(x, sigma, strict=True)])
        level = self.level(float(sigma[0]))
        with torch.enable_grad():
            at = x.detach().requires_grad_()
            denoised = self.prior(at, sigma)
            log_prob = self.potential(at, denoised, sigma, level)
            (gradient,) = torch.autograd.grad(log_prob.sum(), at)
        return denoised.detach() + broadcast(sigma, x) ** 2 * coloured(self.prior, gradient)

    def potential(self, x: Field, denoised: Field, sigma: Levels, level: _Level) -> Tensor:
        """log N(r; 0, R + H C' H^T) of each row up to a constant, (batch,), float64."""
        z = self.observation.residual(denoised.double()) @ level.inverse.T
        with torch.no_grad():
            e = z / z.norm(dim=1, keepdim=True).clamp(min=1e-30)
            c = ((e @ level.seen) * e).sum(1)
            u = (e @ level.root).reshape(x.shape)
            direction = coloured(self.prior, u)
            # h |N u| = probe * sigma
            h = self.probe * sigma.double() / direction.flatten(1).norm(dim=1).clamp(min=1e-30)
        shifted = self.prior(x + (broadcast(h, u) * direction).to(x), sigma)
        slope = (u * (shifted.double() - denoised.double())).flatten(1).sum(1) / h
        # v is a variance: an error of the network below zero counts as zero.
        spread = 1 + (sigma.double() ** 2 * slope).clamp(min=0) - c
        along = (e * z).sum(1)
        return -0.5 * (z.square().sum(1) - along**2 + along**2 / spread + spread.log())
