"""Independent islands of particles: merged by their evidence, with the spread between them as error bar."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from pdediff.diffusion import Denoiser
from pdediff.observe import Observation
from pdediff.posterior.base import Draws, Posterior, island_weights, merge
from pdediff.types import PositiveInt, Purpose, derive


@dataclass(frozen=True)
class Islands:
    """`count` runs of one posterior with n / count draws each, a seed an island, weighted by their evidence.

    Islands never wait for each other, so any number of workers gives the same bits. The evidence estimates are
    unbiased, and so is their mean; weighting by them takes away the bias that small islands have (Whiteley, Lee and
    Heine 2016, section 3). Good values: islands of 64 particles; 4 to 16 of them for an error bar. Diagnostics beside
    those of `merge`: see `between`. Fewer than `count` draws get an island each.
    """

    posterior: Posterior
    count: PositiveInt = 8

    @property
    def exact(self) -> bool:
        """That of the posterior."""
        return self.posterior.exact

    @property
    def linear_only(self) -> bool:
        """That of the posterior."""
        return self.posterior.linear_only

    @property
    def trace(self) -> int:
        return self.posterior.trace

    def __call__(self, prior: Denoiser, observation: Observation, n: int, seed: int) -> Draws:
        count, parts = min(self.count, n), []
        size = -(-n // count)
        for island in range(count):
            key, kept = derive(seed, Purpose.START, island), (island + 1) * n // count - island * n // count
            parts.append((self.posterior(prior, observation, size, key), kept))
        return together(parts)


def together(parts: Sequence[tuple[Draws, int]]) -> Draws:
    """`merge` of the first n_i draws of island i, with the spread `between` islands in the diagnostics."""
    merged = merge(parts)
    return Draws(merged.x, merged.log_weights, {**merged.diagnostics, **between(parts)})


def between(parts: Sequence[tuple[Draws, int]]) -> dict[str, float]:
    """How far islands disagree.

    log_evidence_spread: standard deviation of log Z over islands; log_evidence_error: that of the log of their mean,
    by the delta method; island_ess: effective number of islands over their number, by evidence; mean_spread: standard
    error of the merged mean in standard deviations of a draw, root mean square over the field.
    Nothing for a single island.
    """
    if len(parts) < 2:
        return {}
    count = len(parts)
    log_z = torch.tensor([float(d.diagnostics.get("log_evidence", 0.0)) for d, _ in parts], dtype=torch.float64)
    share = island_weights(log_z).softmax(0)
    means = torch.stack([_mean(draws, n) for draws, n in parts])
    centre = (share[:, None] * means).sum(0)
    # The variance of a ratio of sums over independent islands.
    error = (share[:, None] ** 2 * (means - centre) ** 2).sum(0) * count / (count - 1)
    everything = torch.cat([draws.x[:n].flatten(1).double().cpu() for draws, n in parts])
    told = {"mean_spread": float((error.sum() / everything.var(0).sum()).sqrt())}
    if all("log_evidence" in draws.diagnostics for draws, _ in parts):
        ratio = (log_z - log_z.logsumexp(0)).exp() * count
        told |= {
            "log_evidence_spread": float(log_z.std()),
            "log_evidence_error": float(ratio.std()) / count**0.5,
            "island_ess": float(1 / (log_z.softmax(0) ** 2).sum()) / count,
        }
    return told


def _mean(draws: Draws, n: int) -> Tensor:
    weights = draws.log_weights[:n].softmax(0).cpu()
    return weights @ draws.x[:n].flatten(1).double().cpu()
