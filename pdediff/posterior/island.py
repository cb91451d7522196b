"""An island: particles that are resampled together, from a Feynman-Kac model to draws and their diagnostics."""

from __future__ import annotations

from dataclasses import dataclass

import torch

from pdediff.posterior.base import Draws
from pdediff.posterior.resampling import SchemeName, resample
from pdediff.posterior.smc import FeynmanKac, Particles, smc
from pdediff.types import Fraction, PositiveInt, Purpose, derive_many


@dataclass(frozen=True)
class Island:
    """How many particles a draw, and when (ESS below threshold) and how they are resampled; the unit of work."""

    particles_per_draw: PositiveInt = 2
    threshold: Fraction = 0.5
    resampling: SchemeName = "systematic"

    def run(self, model: FeynmanKac, particles: int, seed: int) -> Particles:
        """The weighted particles; they depend on `seed` and their number alone."""
        seeds = derive_many(seed, Purpose.STEP, range(particles))
        return smc(model, seeds, seed=seed, threshold=self.threshold, scheme=self.resampling)

    def draws(self, model: FeynmanKac, n: int, seed: int, *, calls: float, vjps: float = 0.0) -> Draws:
        """n equally weighted draws; calls and vjps of the network are those of one particle.

        Diagnostics: `ess` a step and its minimum, over the particles; `log_evidence` and its standard deviation by
        the genealogy; the largest weight; `distinct_roots`, the first ancestors of the draws; the largest variance of
        the log-weight increments of a step, where the grid of levels is too coarse.
        """
        particles = self.particles_per_draw * n
        result = self.run(model, particles, seed)
        chosen = resample(self.resampling, result.log_weights, n, seed, model.steps)
        return Draws.equal(
            result.state[0][chosen],
            {
                "ess": result.ess / particles,
                "ess_min": float(result.ess.min()) / particles,
                "max_weight": float(result.trace["max_weight"].max()),
                "increment_variance": float(result.trace["increment_variance"].max()),
                "log_evidence": result.log_evidence,
                "log_evidence_std": max(result.evidence_variance(), 0.0) ** 0.5 if particles > 1 else 0.0,
                "distinct_roots": float(len(torch.unique(result.roots[chosen.cpu()]))),
                "denoiser_calls": float(self.particles_per_draw * calls),
                "network_vjps": float(self.particles_per_draw * vjps),
            },
        )
