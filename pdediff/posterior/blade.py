"""Blade: split Gibbs sampling by an ensemble, whose own covariances stand for the derivative of the operator."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, Literal

import torch
from torch import Tensor

from pdediff.diffusion import Denoiser
from pdediff.errors import NumericalError
from pdediff.observe import Observation
from pdediff.posterior.base import Draws
from pdediff.posterior.ensemble import ensembles
from pdediff.posterior.pnp_dm import prior_draw
from pdediff.samplers import DPMSolverPP, edm_grid, gaussian_start
from pdediff.types import Positive, PositiveInt, Seeds, fold, normal


@dataclass(frozen=True)
class Blade:
    """z_j ~ N(x_j, rho^2 N) p(y | z) by interacting Langevin moves, then x_j ~ p(x0 | x0 + rho eps = z_j), rho falling.

    Zheng et al. 2025 (Blade), the split Gibbs sampler of `PnPDM` for operators that can only be evaluated. With Z the
    deviations of the members z_j from their mean over sqrt(J), C = Z Z^T and C_zH their covariance with H(z_j),

        z_j += h [C_zH R^-1 (y - H(z_j)) + C N^-1 (x_j - z_j) / rho^2 + (D + 1) / J dev_j] + sqrt(2 h) Z xi_j,

    the affine invariant Langevin dynamics of J members with its finite-ensemble term (Garbuno-Inigo et al. 2020), D the
    dimension that they span. C_zH = C H^T for a linear H: there each z_j has the exact conditional law as h falls and
    moves grow, and at a fixed rho the law of x is the posterior with R + rho^2 H N H^T for R, of any prior. `metric`
    "members" is that, as published: it needs no more members than the fields have dimensions that matter, but as rho
    falls the spread of the x_j makes it slow, and it linearises a bent H over the whole ensemble. "displacements" takes
    z_j - x_j and H(z_j) - H(x_j) in their place: fast at any rho and local, for more members than points. The step is
    h = `rate` / (largest eigenvalue of the ensemble's own Hessian), stable whatever H (published: a length over the
    norm of the drift), and z starts from N(x_j, rho^2 N), so that what the members do not span keeps the coupling's
    law (published: from x_j, with noise put back at the end). The variance of the stiffest direction is too large by
    1 / (1 - rate / 2). Exact as rho and rate fall, with more members than points; n draws take n / ensemble ensembles.

    Good values: published are 1024 members, 30 levels from 10 to 0.1, 25 prior steps and 300 moves. rho_min half the
    noise of the readings seen in the field. `NumericalError` where the forward model gives no number.
    """

    ensemble: PositiveInt = 256
    steps: PositiveInt = 15
    moves: PositiveInt = 50
    rate: Positive = 0.4
    rho_max: Positive = 10.0
    rho_min: Positive = 0.1
    prior_steps: PositiveInt = 10
    metric: Literal["members", "displacements"] = "members"
    exact: ClassVar[bool] = False
    linear_only: ClassVar[bool] = False

    @property
    def trace(self) -> int:
        return 0

    @torch.no_grad()
    def __call__(self, prior: Denoiser, observation: Observation, n: int, seed: int) -> Draws:
        firsts = ensembles(n, self.ensemble, seed)
        seeds = tuple(fold((first,), j)[0] for first in firsts for j in range(self.ensemble))
        white, levels, sampler = observation.whitened(), [self.rho_min], DPMSolverPP(order=2, noise=1.0)
        if self.steps > 1:
            levels = edm_grid(self.rho_max, self.rho_min, self.steps - 1)
        x, calls = gaussian_start(prior, levels[0], seeds), 0
        for step, rho in enumerate(levels):
            noise = prior.noise.sample(fold(seeds, 3 * step), prior.shape, x.dtype).to(x)
            own = fold(firsts, step)
            z = self.likelihood_draw(prior, white, x.double(), (x + rho * noise).double(), rho, own).to(x)
            if not bool(torch.isfinite(z).all()):
                raise NumericalError("the ensemble left the numbers", hint="check the forward model on prior draws")
            x, cost = prior_draw(
                "Blade", sampler, prior, z, (rho, min(0.02, rho / 10)), self.prior_steps, fold(seeds, 3 * step + 1)
            )
            calls += cost
        rows = len(seeds) / n
        told = {"denoiser_calls": calls * rows, "network_vjps": 0.0}
        return Draws.equal(x[:n], {**told, "forward_calls": len(levels) * self.moves * rows})

    def likelihood_draw(
        self, prior: Denoiser, white: Observation, x: Tensor, z: Tensor, rho: float, seeds: Seeds
    ) -> Tensor:
        """z after all moves, for one ensemble after the other in the rows of x and z; float64, a seed an ensemble."""
        count, precision, around = len(seeds), prior.noise.covariance(prior.shape), torch.zeros_like(x)
        start = torch.zeros(len(x), len(white.y), dtype=x.dtype, device=x.device)
        if self.metric == "displacements":
            around, start = x, -white.residual(x)
        members = len(z) // count
        # Members span at most J - 1 dimensions, in which the dynamics live.
        term = (min(z[0].numel(), members - 1) + 1) / members

        def whole(v: Tensor) -> Tensor:
            return v.reshape(count, members, -1)

        for move in range(self.moves):
            dev, residual = centred(whole(z - around)), white.residual(z)
            seen, dual = centred(whole(-residual - start)), whole(precision.solve(dev.reshape(z.shape)))
            pull = whole(residual) @ seen.mT + whole(x - z) @ dual.mT / rho**2
            hessian = (seen @ seen.mT + dual @ dev.mT / rho**2) / members
            h = self.rate / largest_eigenvalue(hessian)[:, None, None]
            xi = normal(fold(seeds, move), (members, members), dtype=torch.float64).to(z)
            change = h * (pull @ dev / members + term * dev) + (2 * h / members).sqrt() * xi @ dev
            z = z + change.reshape(z.shape)
        return z


def centred(v: Tensor) -> Tensor:
    """Deviations from the mean of each ensemble (ensemble, member, size)."""
    return v - v.mean(1, keepdim=True)


def largest_eigenvalue(matrix: Tensor, iterations: int = 10) -> Tensor:
    """Of symmetric positive matrices (k, n, n), to a few per cent from below, by the power method."""
    v = matrix.diagonal(dim1=1, dim2=2)[..., None] + 1e-300
    norm = torch.ones_like(v[:, 0, 0])
    for _ in range(iterations):
        v = matrix @ (v / v.norm(dim=1, keepdim=True))
        norm = v.norm(dim=1)[:, 0]
    return norm.clamp(min=1e-300)
