"""DDNM: the readings replace what they determine of the estimate, the prior keeps the null space."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch

from pdediff.diffusion import Denoiser
from pdediff.observe import Observation
from pdediff.posterior.base import GuidedDenoiser
from pdediff.posterior.gain import need_linear
from pdediff.types import Field, Levels


@dataclass(frozen=True)
class DDNM:
    """D_y = D + sum_i lambda_i v_i u_i^T (y - H D) / s_i over the singular vectors u, v of R^-1/2 H = U S V^T.

    Null-space guidance, Wang et al. 2023, equation 13 with lambda = 1 (`noisy` false: H^+ (y - H D)) and equation 17
    with lambda_i = min(1, sigma s_i) (`noisy`, DDNM+): a direction follows its reading only while the noise level is
    above the reading's own noise. The published lambda is one number for all directions, which is wrong where singular
    values differ. Overfits the readings (misfit near 0 where 1 is right) and is too narrow: trust it for
    noise-free readings. Singular values below 1e-10 of the largest are left to the prior.

    Raises ConfigError for nonlinear operators.
    """

    noisy: bool = True
    exact: ClassVar[bool] = False
    linear_only: ClassVar[bool] = True
    needs_vjp: ClassVar[bool] = False

    def __call__(self, prior: Denoiser, observation: Observation) -> Denoiser:
        need_linear(observation, self)
        white = observation.whitened()
        rows = white.rows(prior.mean.double()).flatten(1)
        u, s, vt = torch.linalg.svd(rows, full_matrices=False)
        kept = s > 1e-10 * s[0]
        return _Guided(prior, white, self.noisy, u[:, kept], s[kept], vt[kept])


@dataclass(frozen=True, eq=False)
class _Guided(GuidedDenoiser):
    noisy: bool
    u: torch.Tensor
    s: torch.Tensor
    vt: torch.Tensor

    def __call__(self, x: Field, sigma: Levels) -> Field:
        denoised = self.prior(x, sigma)
        seen = self.observation.residual(denoised).double() @ self.u / self.s
        if self.noisy:
            seen = seen * (sigma.double()[:, None] * self.s).clamp(max=1)
        return denoised + (seen @ self.vt).to(x).reshape(x.shape)
