"""How much larger or smaller than average the error of a denoiser is where it gave a certain value.

The average covariance of a noise level knows nothing of the field at hand. For fields with phases or fronts most of
the error sits where the denoised value is undecided: with two phases at -1 and 1 the conditional variance is exactly
1 - D^2. This table measures it, channel by channel, and costs nothing at sampling time.
"""

from __future__ import annotations

import bisect
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from pdediff.types import Field

WORTH = 0.003
"""Least gain in the mean log likelihood of an error at a point for which a table is kept: factors that vary by 5 %."""


@dataclass(frozen=True, eq=False)
class LocalScale:
    """Ratio of the error's variance given the denoised value to its average, by level, channel and value.

    sigmas (level,) increasing; edges (channel, bins - 1) increasing values that separate the bins; ratio
    (level, channel, bins), whose mean over the points of the calibration fields is one.
    """

    sigmas: tuple[float, ...]
    edges: Tensor
    ratio: Tensor

    def __call__(self, denoised: Field, sigma: float) -> Field:
        """Factors (batch, channel, *space) for the error's standard deviation, interpolated in log sigma."""
        ratio = self._at(sigma).to(denoised)
        edges = self.edges.to(denoised)
        out = [ratio[c][torch.bucketize(denoised[:, c].contiguous(), edges[c])] for c in range(denoised.shape[1])]
        return torch.stack(out, 1).sqrt()

    def _at(self, sigma: float) -> Tensor:
        if sigma <= self.sigmas[0]:
            return self.ratio[0]
        if sigma >= self.sigmas[-1]:
            return self.ratio[-1]
        i = bisect.bisect_right(self.sigmas, sigma) - 1
        weight = math.log(sigma / self.sigmas[i]) / math.log(self.sigmas[i + 1] / self.sigmas[i])
        return torch.lerp(self.ratio[i], self.ratio[i + 1], weight)

    def tensors(self) -> dict[str, Tensor]:
        """Flat tensors for a checkpoint."""
        sigmas = torch.tensor(self.sigmas, dtype=torch.float64)
        return {"scale.sigmas": sigmas, "scale.edges": self.edges.float(), "scale.ratio": self.ratio.float()}

    @staticmethod
    def from_tensors(tensors: Mapping[str, Tensor]) -> LocalScale | None:
        """The inverse of `tensors`; None where there are none."""
        if "scale.sigmas" not in tensors:
            return None
        sigmas = tuple(float(s) for s in tensors["scale.sigmas"])
        return LocalScale(sigmas, tensors["scale.edges"], tensors["scale.ratio"])


def value_edges(fields: Tensor, bins: int = 24) -> Tensor:
    """Edges (channel, bins - 1): half of them at equal steps, half at equal shares of the clean values.

    Equal shares alone would leave no bin between two phases, equal steps alone none in the bulk of a skewed field.
    """
    rows = fields.transpose(0, 1).flatten(1)
    low, high = rows.amin(1, keepdim=True), rows.amax(1, keepdim=True)
    steps = low + (high - low) * torch.linspace(0, 1, bins // 2 + 2)[1:-1].to(rows)
    thinned = rows[:, :: max(1, rows.shape[1] // 100_000)]
    shares = torch.quantile(thinned, torch.linspace(0, 1, bins - bins // 2 + 1)[1:-1].to(rows), dim=1).T
    return torch.cat([steps, shares], 1).sort(1).values


def local_ratio(denoised: Tensor, errors: Tensor, edges: Tensor, prior_count: float = 50.0) -> Tensor:
    """Ratio (channel, bins) of one level from D and x0 - D (n, channel, *space).

    Each bin is shrunk towards one by `prior_count` points, so a bin without data says nothing.
    """
    out = []
    bins = edges.shape[1] + 1
    for channel in range(denoised.shape[1]):
        which = torch.bucketize(denoised[:, channel].contiguous(), edges[channel]).flatten()
        # The average is taken out point by point: what depends on the place alone is in the covariance already.
        square = errors[:, channel].double().square()
        relative = (square / square.mean(0).clamp(min=1e-30)).flatten()
        count = torch.bincount(which, minlength=bins).double()
        total = torch.bincount(which, weights=relative, minlength=bins)
        out.append((total + prior_count) / (count + prior_count))
    ratio = torch.stack(out)
    return ratio.clamp(1e-3, 1e2).float()


def measure_scale(
    pairs: Sequence[tuple[Tensor, Tensor]], sigmas: Sequence[float], fields: Tensor, bins: int = 24
) -> LocalScale | None:
    """From (denoised, errors) of each level on held-out `fields` (n, channel, *space).

    None where the value says nothing of the error: half of the errors are no likelier, by `WORTH`, with a table that
    was made from the other half.
    """
    edges = value_edges(fields, bins)
    if sum(_gain(d, e, edges) for d, e in pairs) < WORTH * len(pairs):
        return None
    return LocalScale(tuple(sigmas), edges, torch.stack([local_ratio(d, e, edges) for d, e in pairs]))


def _gain(denoised: Tensor, errors: Tensor, edges: Tensor) -> float:
    """Mean log likelihood of an error at a point, by value of the denoised field less without it, on unseen fields."""
    one = LocalScale((1.0,), edges, local_ratio(denoised[::2], errors[::2], edges)[None])
    ratio = one(denoised[1::2], 1.0).double() ** 2
    square = errors.double().square()
    relative = square[1::2] / square.mean(0).clamp(min=1e-30)
    return float(0.5 * (relative - relative / ratio - ratio.log()).mean())
