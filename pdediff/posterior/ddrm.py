"""DDRM: diffusion in the singular basis of the operator, each direction by the noise of its own reading."""

from __future__ import annotations

import itertools
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from pdediff.diffusion import Denoiser
from pdediff.errors import NumericalError
from pdediff.observe import Observation
from pdediff.posterior.base import Draws
from pdediff.posterior.gain import need_linear
from pdediff.posterior.latent import root
from pdediff.posterior.probes import denoised_rows
from pdediff.samplers import edm_grid, gaussian_start
from pdediff.types import Fraction, Positive, PositiveInt, Purpose, derive_many, fold


@dataclass(frozen=True)
class DDRM:
    """The step to level s, in coordinates along the singular vectors of R^-1/2 H = U diag(1 / b) V^T; z ~ N(0, 1):

        unseen      D + sqrt(1 - eta^2) s (x - D) / t + eta s z
        b > s       D + sqrt(1 - eta^2) s (yh - D) / b + eta s z
        b <= s      (1 - eta_b) D + eta_b yh + sqrt(s^2 - eta_b^2 b^2) z,

    t the level before, yh = b U^T R^-1/2 y the reading of a direction and b its noise: Kawar et al. 2022, equations 7
    and 8, on any grid of levels. For noise of covariance N, V is orthonormal in N^-1. Were D the true x0, every state
    would have the law N(x0, s^2 N) over the noise of the readings (their proposition 3.1); eta = 1 with `eta_b` None,
    eta_b = 2 s^2 / (s^2 + b^2), is the case of their theorem 3.2, whose objective is that of the unconditional model.
    Not exact for any prior: what is seen never tells what is unseen but through D, and the fresh share eta^2 is of the
    whole noise at each step and not of its change: for a Gaussian, many steps leave (1 + sqrt(1 - eta^2)) / 2 of the
    variance of what is unseen, few steps less. The published benchmark code leaves eta_b^2 out of the variance.

    Good values: eta 0.85, eta_b 1, 20 to 100 steps. Raises ConfigError for nonlinear operators.
    """

    eta: Fraction = 0.85
    eta_b: Fraction | None = 1.0
    steps: PositiveInt = 40
    sigma_max: Positive = 80.0
    sigma_min: Positive = 0.02
    exact: ClassVar[bool] = False
    linear_only: ClassVar[bool] = True

    @property
    def trace(self) -> int:
        return 0

    @torch.no_grad()
    def __call__(self, prior: Denoiser, observation: Observation, n: int, seed: int) -> Draws:
        need_linear(observation, self)
        seen = SeenDirections.of(observation, prior)
        levels = [*edm_grid(self.sigma_max, self.sigma_min, self.steps - 1), 0.0] if self.steps > 1 else None
        levels = levels or [self.sigma_max, 0.0]
        seeds, start = derive_many(seed, Purpose.STEP, range(n)), derive_many(seed, Purpose.START, range(n))
        free = gaussian_start(prior, levels[0], start)
        x = self.begun(seen, free, levels[0], prior.noise.sample(fold(start, 2), prior.shape, free.dtype).to(free))
        for step, (level, after) in enumerate(itertools.pairwise(levels)):
            noise = prior.noise.sample(fold(seeds, step), prior.shape, x.dtype).to(x)
            x = self.moved(seen, (x, denoised_rows(prior, x, level)), (level, after), noise)
        if not bool(torch.isfinite(x).all()):
            raise NumericalError("DDRM left the numbers", hint="lower sigma_max, or use posterior=calibrated")
        return Draws.equal(x, {"denoiser_calls": float(self.steps), "network_vjps": 0.0})

    def begun(self, seen: SeenDirections, free: Tensor, level: float, noise: Tensor) -> Tensor:
        """The start: what is seen at the level of its noise or above lies around its reading."""
        z = seen.along(noise)
        b = seen.spread
        wanted = seen.readings + (level**2 - b**2).clamp(min=0).sqrt() * z
        change = (wanted - seen.coordinates(free)).where(b <= level, torch.zeros_like(wanted))
        return free + seen.lift(change, free)

    def moved(
        self, seen: SeenDirections, now: tuple[Tensor, Tensor], levels: tuple[float, float], noise: Tensor
    ) -> Tensor:
        """The next state, from the state and its D, between two levels."""
        (x, denoised), (level, after) = now, levels
        keep, b = (1 - self.eta**2) ** 0.5, seen.spread
        free = denoised + keep * after / level * (x - denoised) + self.eta * after * noise
        d, z = seen.coordinates(denoised), seen.along(noise)
        share = self.share(seen, after)
        below = d + keep * after / b * (seen.readings - d) + self.eta * after * z
        above = (1 - share) * d + share * seen.readings + (after**2 - (share * b) ** 2).clamp(min=0).sqrt() * z
        wanted = below.where(b > after, above)
        return free + seen.lift(wanted - seen.coordinates(free), free)

    def share(self, seen: SeenDirections, after: float) -> Tensor:
        """eta_b of each direction."""
        if self.eta_b is None:
            return 2 * after**2 / (after**2 + seen.spread**2)
        return torch.full_like(seen.spread, self.eta_b)


@dataclass(frozen=True, eq=False)
class SeenDirections:
    """Directions v_i of the field that the readings determine, float64: duals d_i with d_i . v_j = 1(i = j).

    duals and basis (r, d), the noise of a reading in its direction b (r,), the reading there, from the mean (r,).
    Coordinates are those of x - mean. Singular values below 1e-10 of the largest are unseen.
    """

    duals: Tensor
    basis: Tensor
    spread: Tensor
    readings: Tensor
    mean: Tensor

    @staticmethod
    def of(observation: Observation, prior: Denoiser) -> SeenDirections:
        """For linear operators and additive Gaussian errors."""
        white, mean = observation.whitened(), prior.mean.double()
        rows, half = white.rows(mean), root(prior.noise.covariance(prior.shape))
        # N = B B^T: singular vectors of A B are orthonormal where the noise is white.
        u, s, vt = torch.linalg.svd(half.gather(rows), full_matrices=False)
        kept = s > 1e-10 * s[0]
        u, s, vt = u[:, kept], s[kept], vt[kept]
        readings = (white.residual(mean[None])[0].double() @ u) / s
        return SeenDirections((u / s).T @ rows.flatten(1), half.spread(vt).flatten(1), 1 / s, readings, mean)

    def along(self, v: Tensor) -> Tensor:
        """Coordinates of a difference of fields (batch, r)."""
        return v.flatten(1).double() @ self.duals.T

    def coordinates(self, x: Tensor) -> Tensor:
        """Coordinates of a field, from the mean."""
        return self.along(x - self.mean.to(x))

    def lift(self, coordinates: Tensor, like: Tensor) -> Tensor:
        """sum_i c_i v_i."""
        return (coordinates @ self.basis).reshape(like.shape).to(like)
