"""The sequential Monte Carlo engine: propagate, weigh, resample, collect; what is propagated is the model's affair."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np
import torch
from torch import Tensor

from pdediff.errors import NumericalError
from pdediff.posterior.resampling import effective_sample_size, systematic
from pdediff.types import Purpose, Seeds, derive, fold, uniform

State = tuple[Tensor, ...]


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
    """The end of a run: states, normalised log weights, evidence estimate, and how healthy the run was."""

    state: State
    log_weights: Tensor
    log_evidence: float
    ess: np.ndarray
    resampled: np.ndarray
    roots: Tensor


def smc(model: FeynmanKac, seeds: Sequence[int], *, seed: int, threshold: float) -> Particles:
    """Run `model` with one particle a seed, resampling (systematic) where ESS < threshold * particles.

    The evidence estimate is unbiased for the chain that `model` defines. Raises NumericalError if all weights vanish.
    """
    n = len(seeds)
    state, log_weights = model.start(fold(seeds, 0))
    log_weights = _finite(log_weights)
    if not bool(torch.isfinite(log_weights).any()):
        raise NumericalError(f"all {n} particles have zero weight at the start")
    roots = torch.arange(n)
    log_evidence = 0.0
    ess, resampled = [effective_sample_size(log_weights)], [False]
    for step in range(model.steps):
        choose = ess[-1] < threshold * n
        if choose:
            offset = float(uniform((derive(seed, Purpose.RESAMPLE, step),), ())[0])
            ancestors = systematic(log_weights.softmax(0), n, offset)
            state = tuple(s[ancestors] for s in state)
            roots = roots[ancestors.cpu()]
            log_evidence += float(log_weights.logsumexp(0)) - math.log(n)
            log_weights = torch.zeros_like(log_weights)
        resampled[-1] = choose
        state, increment = model.move(state, step, fold(seeds, step + 1))
        log_weights = log_weights + _finite(increment.to(log_weights))
        if not bool(torch.isfinite(log_weights).any()):
            raise NumericalError(f"all {n} particles have zero weight at step {step} of {model.steps}")
        ess.append(effective_sample_size(log_weights))
        resampled.append(False)
    log_evidence += float(log_weights.logsumexp(0)) - math.log(n)
    return Particles(state, log_weights.log_softmax(0), log_evidence, np.array(ess), np.array(resampled), roots)


def _finite(log_weights: Tensor) -> Tensor:
    """A particle whose weight is not a number counts for nothing; it must not poison the others."""
    return log_weights.where(torch.isfinite(log_weights), torch.full_like(log_weights, -math.inf))
