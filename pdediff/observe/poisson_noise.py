"""Counts: photons, particles, events in a time."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from pdediff.errors import DataError
from pdediff.observe.noise import keyed, not_additive, not_gaussian
from pdediff.observe.operator import Operator
from pdediff.types import Positive


@dataclass(frozen=True)
class PoissonNoise:
    """Counts y ~ Poisson(f) of the expected number f that the operator predicts.

    log p(y | f) = sum_i y_i log f_i - f_i - log y_i!; minus infinity where an expected number is negative.
    Exposure and background belong to the operator: `Scaling(background, exposure) @ sensors`.
    Good values: `floor`, the least variance of the Gaussian approximation, 1: fewer would trust an empty counter.
    """

    floor: Positive = 1.0

    @property
    def std(self) -> Tensor:
        """Refused: the spread depends on the prediction."""
        raise not_gaussian(self)

    def whitening(self) -> Operator:
        """Refused: no linear map makes the errors Gaussian."""
        raise not_gaussian(self)

    def check(self, y: Tensor) -> None:
        """Raises DataError for readings that are not counts."""
        bad = (y < 0) | (y != y.round())
        if bool(bad.any()):
            row = int(bad.nonzero()[0])
            raise DataError(f"reading {row} is {float(y[row]):g}; counts are whole numbers from 0 on")

    def log_prob(self, y: Tensor, prediction: Tensor | None = None) -> Tensor:
        """Log probability of rows (batch, m), (batch,)."""
        if prediction is None:
            raise not_additive(self)
        possible = prediction >= 0
        rate = torch.where(possible, prediction, 1.0)
        terms = torch.xlogy(y, rate) - rate - torch.lgamma(y + 1)
        return torch.where(possible, terms, -torch.inf).sum(1)

    def whiten(self, y: Tensor, prediction: Tensor | None = None) -> Tensor:
        """sign(y - f) sqrt(2 (y log(y / f) - y + f)); infinite where f is negative, or 0 under a count."""
        if prediction is None:
            raise not_additive(self)
        rate = torch.where(prediction > 0, prediction, 1.0)
        delta = y / rate - 1
        small = delta.abs() < 1e-3
        safe = torch.where(small, 1.0, delta)
        # 2 ((1 + d) log(1 + d) - d) / d^2, by its series where the quotient would lose its digits.
        series = 1 - delta * (1 / 3 - delta * (1 / 6 - delta * (1 / 10 - delta / 15)))
        ratio = torch.where(small, series, 2 * (torch.xlogy(1 + safe, 1 + safe) - safe) / safe**2)
        white = rate.sqrt() * delta * ratio.sqrt()
        at_zero = torch.where((prediction == 0) & (y == 0), 0.0, torch.inf)
        return torch.where(prediction > 0, white, at_zero)

    def variance(self, prediction: Tensor) -> Tensor:
        """f, and at least `floor`."""
        return prediction.clamp(min=self.floor)

    def sample(self, seeds: Sequence[int], dtype: torch.dtype = torch.float64) -> Tensor:
        """Refused: there are no errors without a prediction."""
        raise not_additive(self)

    def draw(self, prediction: Tensor, seeds: Sequence[int]) -> Tensor:
        """Counts. Raises DataError for an expected number that is negative or not finite."""
        rates = prediction.detach().cpu().double().numpy()
        bad = ~(np.isfinite(rates) & (rates >= 0))
        if bad.any():
            row, sensor = np.argwhere(bad)[0].tolist()
            raise DataError(f"row {row} expects {rates[row, sensor]:g} counts at sensor {sensor}; a rate is >= 0")
        rows = np.stack([keyed(seed).poisson(rate) for seed, rate in zip(seeds, rates, strict=True)])
        return torch.from_numpy(rows).to(prediction)
