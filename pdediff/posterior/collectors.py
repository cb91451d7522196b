"""What is kept of every step of a particle run, and what the genealogy says of the variance of its results."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

State = tuple[Tensor, ...]


@dataclass(frozen=True, eq=False)
class Snapshot:
    """An island after one move.

    log_weights (particles,): since the last resampling, not normalised; increment: of this move alone; before: the
    normalised log weights with which the particles went into it; roots: first ancestors; spent: the log evidence that
    was booked at resampling.
    """

    state: State
    log_weights: Tensor
    increment: Tensor
    before: Tensor
    roots: Tensor
    spent: Tensor


Collector = Callable[[Snapshot], Tensor]


def ess(now: Snapshot) -> Tensor:
    """Effective sample size, 1 / sum W^2."""
    return torch.exp(-torch.logsumexp(2 * now.log_weights.log_softmax(0), 0))


def conditional_ess(now: Snapshot) -> Tensor:
    """Particles * (sum W w)^2 / sum W w^2: how much this move alone costs (Zhou, Johansen and Aston 2016, eq. 3.16)."""
    mean = torch.logsumexp(now.before + now.increment, 0)
    return len(now.before) * torch.exp(2 * mean - torch.logsumexp(now.before + 2 * now.increment, 0))


def max_weight(now: Snapshot) -> Tensor:
    """The largest normalised weight."""
    return now.log_weights.softmax(0).max()


def distinct_roots(now: Snapshot) -> Tensor:
    """First ancestors that still have descendants; falls long before the effective sample size shows anything."""
    alive = torch.zeros(len(now.roots), dtype=torch.float64, device=now.roots.device)
    return alive.index_fill(0, now.roots, 1.0).sum()


def log_evidence(now: Snapshot) -> Tensor:
    """The estimate up to this step."""
    return now.spent + now.log_weights.logsumexp(0) - math.log(len(now.log_weights))


def increment_variance(now: Snapshot) -> Tensor:
    """Weighted variance of the log-weight increment: a grid is good when it is equal over the steps."""
    finite = torch.isfinite(now.increment) & torch.isfinite(now.before)
    value = now.increment.where(finite, torch.zeros_like(now.increment))
    weight = now.before.exp() * finite
    weight = weight / weight.sum()
    return (weight * (value - (weight * value).sum()) ** 2).sum()


COLLECTORS: Mapping[str, Collector] = {
    "ess": ess,
    "conditional_ess": conditional_ess,
    "max_weight": max_weight,
    "distinct_roots": distinct_roots,
    "log_evidence": log_evidence,
    "increment_variance": increment_variance,
}
"""What every run keeps; `smc` takes more. A collector returns a number that stays on the device until the end."""


def ancestors_at(ancestors: Sequence[Tensor], n: int, lag: int | None = None) -> Tensor:
    """The ancestor of each of n last particles `lag` resamplings ago, of the first generation by default.

    ancestors: one (particles,) tensor a resampling, as `Particles.ancestors`.
    """
    kept = ancestors if lag is None else ancestors[max(len(ancestors) - lag, 0) :]
    found = torch.arange(n)
    for chosen in kept:
        found = found[chosen]
    return found


def genealogy_variance(log_weights: Tensor, roots: Tensor, resamplings: int, values: Tensor | None = None) -> Tensor:
    """Variance, from one run, of its evidence (relative) or of the weighted mean of `values` (particles, ...).

    With a_r the sum of W over the descendants of root r, or of W (value - mean):
    evidence: 1 - (N / (N - 1))^(k + 1) sum over r != s of a_r a_s; mean: (N / (N - 1))^(k + 1) sum a_r^2,
    k the number of resamplings. Lee and Whiteley 2018, equations 8 and 10 (Chan and Lai 2013 for the mean); times the
    squared evidence the first is unbiased with multinomial resampling at every step, and too large with the schemes
    that resample better. Once one root is left it knows nothing: take `ancestors_at` with a lag of a few resamplings
    (Olsson and Douc 2019) or the spread over islands.
    """
    n = len(roots)
    w = log_weights.softmax(0)
    factor = (n / (n - 1)) ** (resamplings + 1)
    if values is None:
        share = torch.zeros_like(w).index_add(0, roots.to(w.device), w)
        return 1 - factor * (share.sum() ** 2 - (share**2).sum())
    flat = values.reshape(n, -1).to(w)
    part = w[:, None] * (flat - w @ flat)
    share = torch.zeros_like(part).index_add(0, roots.to(w.device), part)
    return factor * (share**2).sum(0).reshape(values.shape[1:])
