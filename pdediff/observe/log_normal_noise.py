"""Log-normal errors: positive readings whose error is a factor."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from pdediff.errors import DataError
from pdediff.observe.gaussian_noise import check_positive
from pdediff.observe.noise import not_additive, not_gaussian
from pdediff.observe.operator import Operator
from pdediff.types import normal


@dataclass(frozen=True, eq=False)
class LogNormalNoise:
    """Readings f exp(spread eps), eps ~ N(0, 1): the prediction f > 0 is their median; `spread` (m,) has no unit.

    log p(y | f) = -sum_i [log(y_i / f_i)^2 / spread_i^2 + log(2 pi spread_i^2)] / 2 + log y_i; minus infinity where a
    prediction is not positive. Good values: spread 0.1 for an error of ten per cent.
    """

    spread: Tensor

    @property
    def std(self) -> Tensor:
        """Refused: the spread depends on the prediction."""
        raise not_gaussian(self)

    def whitening(self) -> Operator:
        """Refused: no linear map makes the errors Gaussian."""
        raise not_gaussian(self)

    def check(self, y: Tensor) -> None:
        """Raises DataError unless readings are positive, with one positive spread each."""
        if self.spread.shape != y.shape:
            raise DataError(f"{tuple(y.shape)} readings need as many spreads; got {tuple(self.spread.shape)}")
        check_positive(self.spread, "noise spread")
        bad = ~(y > 0)
        if bool(bad.any()):
            row = int(bad.nonzero()[0])
            raise DataError(f"reading {row} is {float(y[row]):g}; readings with log-normal errors are positive")

    def log_prob(self, y: Tensor, prediction: Tensor | None = None) -> Tensor:
        """Log density of rows (batch, m), (batch,)."""
        if prediction is None:
            raise not_additive(self)
        spread, possible = self.spread.to(prediction), prediction > 0
        median = torch.where(possible, prediction, 1.0)
        white = (y.log() - median.log()) / spread
        terms = -0.5 * (white**2 + math.log(2 * math.pi)) - spread.log() - y.log()
        return torch.where(possible, terms, -torch.inf).sum(1)

    def whiten(self, y: Tensor, prediction: Tensor | None = None) -> Tensor:
        """log(y / prediction) / spread; infinite where a prediction is not positive."""
        if prediction is None:
            raise not_additive(self)
        possible = prediction > 0
        median = torch.where(possible, prediction, 1.0)
        return torch.where(possible, (y.log() - median.log()) / self.spread.to(prediction), torch.inf)

    def variance(self, prediction: Tensor) -> Tensor:
        """(spread f)^2, one over the Fisher information: that of the error as seen from close by."""
        return (self.spread.to(prediction) * prediction) ** 2

    def sample(self, seeds: Sequence[int], dtype: torch.dtype = torch.float64) -> Tensor:
        """Refused: there are no errors without a prediction."""
        raise not_additive(self)

    def draw(self, prediction: Tensor, seeds: Sequence[int]) -> Tensor:
        """Prediction times errors. Raises DataError for predictions that are not positive."""
        if not bool((prediction > 0).all()):
            row, sensor = (~(prediction > 0)).nonzero()[0].tolist()
            raise DataError(f"row {row} predicts {float(prediction[row, sensor]):g} at sensor {sensor}; it must be > 0")
        eps = normal(seeds, self.spread.shape, dtype=prediction.dtype).to(prediction.device)
        return prediction * (self.spread.to(prediction) * eps).exp()
