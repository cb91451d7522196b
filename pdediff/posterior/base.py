"""The two protocols of the room: guidance makes a denoiser of E[x0 | x, y]; a posterior makes weighted draws."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import ClassVar, Protocol

import numpy as np
import torch
from torch import Tensor

from pdediff.diffusion import Covariance, Denoiser, NoiseField
from pdediff.observe import CorrelatedGaussianNoise, Observation
from pdediff.types import Field, Levels


@dataclass(frozen=True, eq=False)
class Draws:
    """Posterior draws x (n, channel, *space) with log weights (n,) that are normalised to sum one."""

    x: Tensor
    log_weights: Tensor
    diagnostics: Mapping[str, float | np.ndarray] = field(default_factory=dict)

    @staticmethod
    def equal(x: Tensor, diagnostics: Mapping[str, float | np.ndarray] | None = None) -> Draws:
        """Draws of equal weight."""
        return Draws(x, torch.full((len(x),), -np.log(len(x)), dtype=torch.float64), diagnostics or {})


class Posterior(Protocol):
    """Draws from p(x0 | y) for one observation.

    `exact` says whether the law of the draws tends to the posterior of the given prior as the computation grows;
    `linear_only` whether the operator must be linear; row i of the result depends on `seed` and i alone.
    """

    exact: ClassVar[bool]
    linear_only: ClassVar[bool]

    @property
    def trace(self) -> int:
        """Number of effective sample sizes that the diagnostic `ess` holds; 0 for methods without weights."""
        ...

    def __call__(self, prior: Denoiser, observation: Observation, n: int, seed: int) -> Draws: ...


class Guidance(Protocol):
    """A wrapper (prior, observation) -> denoiser of E[x0 | x, y]; works with every sampler."""

    exact: ClassVar[bool]
    linear_only: ClassVar[bool]
    needs_vjp: ClassVar[bool]

    def __call__(self, prior: Denoiser, observation: Observation) -> Denoiser: ...


@dataclass(frozen=True, eq=False)
class Wrapped:
    """Base of denoisers around another: everything but the estimate is that of `prior`."""

    prior: Denoiser

    @property
    def shape(self) -> tuple[int, ...]:
        return self.prior.shape

    @property
    def dtype(self) -> torch.dtype:
        return self.prior.dtype

    @property
    def device(self) -> torch.device:
        return self.prior.device

    @property
    def noise(self) -> NoiseField:
        return self.prior.noise

    @property
    def mean(self) -> Tensor:
        return self.prior.mean

    def error_scale(self, denoised: Field, sigma: float) -> Field | None:
        return self.prior.error_scale(denoised, sigma)

    def error(self, sigma: float) -> Covariance:
        return self.prior.error(sigma)

    def __call__(self, x: Field, sigma: Levels) -> Field:
        raise TypeError(f"{type(self).__name__} defines no estimate of its own")


@dataclass(frozen=True, eq=False)
class GuidedDenoiser(Wrapped):
    """Base of guided denoisers."""

    observation: Observation


def independent(observation: Observation) -> Observation:
    """The observation with independent errors: correlated Gaussian noise is whitened, the posterior stays."""
    return observation.whitened() if isinstance(observation.noise, CorrelatedGaussianNoise) else observation


def levels_of(sigma: Levels) -> float | None:
    """The one level of a batch, or None when rows differ."""
    first = float(sigma[0])
    return first if bool((sigma == first).all()) else None


def island_weights(log_evidence: Tensor) -> Tensor:
    """b log Z (islands,), with the largest b <= 1 that leaves an effective number of half of the islands.

    Where estimates of the evidence scatter by more than one in the logarithm, the largest of a few says more of chance
    than of the island, and would take all the weight: a bias of equal pooling is preferred to that variance.
    """
    low, high = 0.0, 1.0
    if _effective(log_evidence) >= 0.5:
        return log_evidence
    for _ in range(50):
        middle = 0.5 * (low + high)
        low, high = (middle, high) if _effective(middle * log_evidence) >= 0.5 else (low, middle)
    return low * log_evidence


def _effective(log_weights: Tensor) -> float:
    """Effective number of islands over their number."""
    return float(1 / log_weights.softmax(0).square().sum()) / len(log_weights)


def merge(parts: Sequence[tuple[Draws, int]]) -> Draws:
    """Independent runs as one set of draws, the first n_i draws of run i.

    A run counts as often as it gives draws and, where it estimates the evidence (islands of particles), in proportion
    to that, which removes the bias that small islands have (Whiteley et al. 2016, section 3), or to the power of it
    that leaves half of the runs (`island_weights`). Diagnostics are averaged.
    """
    if len(parts) == 1 and len(parts[0][0].x) == parts[0][1]:
        return parts[0][0]
    evidence = torch.tensor([float(d.diagnostics.get("log_evidence", 0.0)) for d, _ in parts], dtype=torch.float64)
    kept = torch.cat(
        [
            d.log_weights[:n].log_softmax(0) + w + float(np.log(n))
            for (d, n), w in zip(parts, island_weights(evidence), strict=True)
        ]
    )
    told = {
        name: sum(np.asarray(d.diagnostics[name]) for d, _ in parts) / len(parts) for name in parts[0][0].diagnostics
    }
    if "log_evidence" in told:
        told["log_evidence"] = float(evidence.logsumexp(0)) - float(np.log(len(parts)))
    return Draws(torch.cat([d.x[:n] for d, n in parts]), kept.log_softmax(0), told)
