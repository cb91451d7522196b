"""Student-t errors: readings among which some are far off."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from pdediff.errors import DataError
from pdediff.observe.gaussian_noise import check_positive
from pdediff.observe.noise import difference, keyed, not_gaussian
from pdediff.observe.operator import Operator


@dataclass(frozen=True, eq=False)
class StudentTNoise:
    """Independent errors scale_i t_nu, with `scale` (m,) in the units of the readings and `freedom` nu.

    log p(y | f) = sum_i log Gamma((nu + 1) / 2) - log Gamma(nu / 2) - log(nu pi scale_i^2) / 2
    - (nu + 1) / 2 log(1 + (y_i - f_i)^2 / (nu scale_i^2)). Without a prediction, y holds residuals.
    Lange, Little and Taylor 1989, equation 1. The variance is scale^2 nu / (nu - 2), where nu > 2.
    Good values: freedom 4, with scale what the std would be without outliers.
    """

    scale: Tensor
    freedom: float = 4.0

    @property
    def std(self) -> Tensor:
        """Refused: the errors are not Gaussian."""
        raise not_gaussian(self)

    def whitening(self) -> Operator:
        """Refused: no linear map makes the errors Gaussian."""
        raise not_gaussian(self)

    def check(self, y: Tensor) -> None:
        """Raises DataError unless there is one positive scale for each reading and positive degrees of freedom."""
        if self.scale.shape != y.shape:
            raise DataError(f"{tuple(y.shape)} readings need as many scales; got {tuple(self.scale.shape)}")
        if not 0 < self.freedom < math.inf:
            raise DataError(f"freedom={self.freedom:g} must be a positive number")
        check_positive(self.scale, "noise scale")

    def log_prob(self, y: Tensor, prediction: Tensor | None = None) -> Tensor:
        """Log density of rows (batch, m), (batch,)."""
        residual, nu = difference(y, prediction), self.freedom
        scale = self.scale.to(residual)
        constant = math.lgamma((nu + 1) / 2) - math.lgamma(nu / 2) - 0.5 * math.log(nu * math.pi)
        terms = constant - scale.log() - 0.5 * (nu + 1) * torch.log1p((residual / scale) ** 2 / nu)
        return terms.sum(1)

    def whiten(self, y: Tensor, prediction: Tensor | None = None) -> Tensor:
        """sign(r) sqrt((nu + 1) log(1 + r^2 / nu)), r = (y - prediction) / scale."""
        residual, nu = difference(y, prediction), self.freedom
        r = residual / self.scale.to(residual)
        square = r**2 / nu
        small = square < 1e-4
        safe = torch.where(small, 1.0, square)
        # log(1 + q) / q, by its series where the quotient would lose its derivative.
        ratio = torch.where(small, 1 - square / 2 + square**2 / 3 - square**3 / 4, torch.log1p(safe) / safe)
        return r * (ratio * ((nu + 1) / nu)).sqrt()

    def variance(self, prediction: Tensor) -> Tensor:
        """scale^2 (nu + 3) / (nu + 1), one over the Fisher information, for every prediction."""
        return (self.scale.to(prediction) ** 2 * ((self.freedom + 3) / (self.freedom + 1))).expand_as(prediction)

    def sample(self, seeds: Sequence[int], dtype: torch.dtype = torch.float64) -> Tensor:
        """Errors, rows (len(seeds), m)."""
        rows = np.stack([keyed(seed).standard_t(self.freedom, len(self.scale)) for seed in seeds])
        return self.scale.to("cpu", dtype) * torch.from_numpy(rows).to(dtype)

    def draw(self, prediction: Tensor, seeds: Sequence[int]) -> Tensor:
        """Prediction plus errors."""
        return prediction + self.sample(seeds, prediction.dtype).to(prediction.device)
