"""The sequential Monte Carlo engine: propagate, weigh, resample, collect; what is propagated is the model's affair."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np
import torch
from torch import Tensor

from pdediff.errors import NumericalError
from pdediff.posterior.collectors import COLLECTORS, Collector, Snapshot, State, genealogy_variance
from pdediff.posterior.resampling import SchemeName, effective_sample_size, resample
from pdediff.types import Seeds, fold


class FeynmanKac(Protocol):
    """A sequence of weighted moves; every tensor of a state has one row a particle."""

    @property
    def steps(self) -> int: ...

    def start(self, seeds: Seeds) -> tuple[State, Tensor]:
        """First states and log weights (particles,)."""
        ...

    def move(self, state: State, step: int, seeds: Seeds) -> tuple[State, Tensor]:
        """Next states and log-weight increments (particles,)."""
        ...


@dataclass(frozen=True, eq=False)
class Particles:
    """The end of a run: states, normalised log weights, evidence estimate, and how healthy the run was.

    trace: one number a step for each collector; ancestors: one (particles,) tensor a resampling; roots: the particles
    of the first generation from which the last descend.
    """

    state: State
    log_weights: Tensor
    log_evidence: float
    resampled: np.ndarray
    roots: Tensor
    ancestors: tuple[Tensor, ...]
    trace: Mapping[str, np.ndarray]

    @property
    def ess(self) -> np.ndarray:
        """Effective sample size after the start and after each move."""
        return self.trace["ess"]

    def evidence_variance(self) -> float:
        """Relative variance of the evidence estimate by the genealogy of this run."""
        return float(genealogy_variance(self.log_weights, self.roots, len(self.ancestors)))

    def variance(self, values: Tensor) -> Tensor:
        """Variance of the weighted mean of `values` (particles, ...) by the genealogy of this run."""
        return genealogy_variance(self.log_weights, self.roots, len(self.ancestors), values)


def smc(
    model: FeynmanKac,
    seeds: Sequence[int],
    *,
    seed: int,
    threshold: float,
    scheme: SchemeName = "systematic",
    collectors: Mapping[str, Collector] = COLLECTORS,
) -> Particles:
    """Run `model` with one particle a seed, resampling by `scheme` where ESS < threshold * particles.

    The evidence estimate is unbiased for the chain that `model` defines, whatever the threshold: weights that are not
    spent by resampling are kept. `collectors` replace the default ones, but for "ess", which is always there. Good
    values: threshold 0.5 to 0.9; 0.1 and "always" (1) are both worse. Raises NumericalError if all weights vanish.
    """
    n = len(seeds)
    kept = {"ess": COLLECTORS["ess"], **collectors}
    state, log_weights = model.start(fold(seeds, 0))
    log_weights = _finite(log_weights)
    _require_some(log_weights, f"all {n} particles have zero weight at the start")
    roots, ancestors = torch.arange(n, device=log_weights.device), []
    spent, resampled = torch.zeros_like(log_weights[0]), np.zeros(model.steps + 1, dtype=bool)
    before = torch.full_like(log_weights, -math.log(n))
    seen = [_collect(kept, Snapshot(state, log_weights, log_weights, before, roots, spent))]
    for step in range(model.steps):
        resampled[step] = effective_sample_size(log_weights) < threshold * n
        if resampled[step]:
            chosen = resample(scheme, log_weights, n, seed, step)
            state, roots = tuple(s[chosen] for s in state), roots[chosen]
            ancestors.append(chosen)
            spent = spent + log_weights.logsumexp(0) - math.log(n)
            log_weights = torch.zeros_like(log_weights)
        before = log_weights.log_softmax(0)
        state, increment = model.move(state, step, fold(seeds, step + 1))
        increment = _finite(increment.to(log_weights))
        log_weights = log_weights + increment
        _require_some(log_weights, f"all {n} particles have zero weight at step {step} of {model.steps}")
        seen.append(_collect(kept, Snapshot(state, log_weights, increment, before, roots, spent)))
    trace = {name: torch.stack([s[name] for s in seen]).cpu().numpy() for name in kept}
    total = float(spent + log_weights.logsumexp(0)) - math.log(n)
    lineage = tuple(chosen.cpu() for chosen in ancestors)
    return Particles(state, log_weights.log_softmax(0), total, resampled, roots.cpu(), lineage, trace)


def _collect(collectors: Mapping[str, Collector], now: Snapshot) -> dict[str, Tensor]:
    return {name: collector(now) for name, collector in collectors.items()}


def _require_some(log_weights: Tensor, message: str) -> None:
    if not bool(torch.isfinite(log_weights).any()):
        raise NumericalError(message, hint="more particles, more steps, or a larger noise of the readings")


def _finite(log_weights: Tensor) -> Tensor:
    """A particle whose weight is not a number counts for nothing; it must not poison the others."""
    return log_weights.where(torch.isfinite(log_weights), torch.full_like(log_weights, -math.inf))
