"""What every law of measurement errors offers."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

import numpy as np
import torch
from torch import Tensor

from pdediff.errors import ConfigError
from pdediff.observe.operator import Operator


class Noise(Protocol):
    """The law p(y | prediction) of readings y (batch, m) or (m,), given what the operator predicts (batch, m).

    `whiten` is defined by the law: -|whiten(y, prediction)|^2 / 2 is log_prob(y, prediction) up to a term without the
    prediction. So it has independent standard normal values for Gaussian errors, and minimising its squares maximises
    the likelihood for every law. Without a prediction, y holds residuals, which only laws of additive errors accept;
    others raise ConfigError, as they do for `sample`. Each row depends on itself and its seed alone.
    """

    @property
    def std(self) -> Tensor:
        """Standard deviations (m,) of errors that are Gaussian and independent; ConfigError from every other law."""
        ...

    def whitening(self) -> Operator:
        """The linear map of readings after which errors are standard normal; ConfigError where there is none."""
        ...

    def check(self, y: Tensor) -> None:
        """Raises DataError where readings y (m,) cannot come from this law, or its own numbers are wrong."""
        ...

    def log_prob(self, y: Tensor, prediction: Tensor | None = None) -> Tensor:
        """Log density (or probability, for counts) of each row, (batch,)."""
        ...

    def whiten(self, y: Tensor, prediction: Tensor | None = None) -> Tensor:
        """Deviance residuals (batch, m): signed roots of twice the log-likelihood lost to a prediction equal to y."""
        ...

    def variance(self, prediction: Tensor) -> Tensor:
        """Variance of the local Gaussian approximation of each reading, (batch, m): one over the Fisher information."""
        ...

    def sample(self, seeds: Sequence[int], dtype: torch.dtype = torch.float64) -> Tensor:
        """Errors (len(seeds), m) that do not depend on the prediction."""
        ...

    def draw(self, prediction: Tensor, seeds: Sequence[int]) -> Tensor:
        """Readings (batch, m), row i from seed i alone. Raises DataError for predictions that the law does not have."""
        ...


def keyed(seed: int) -> np.random.Generator:
    """The generator of one row; all 63 bits of the seed count."""
    return np.random.Generator(np.random.Philox(key=seed))


def difference(y: Tensor, prediction: Tensor | None) -> Tensor:
    """Residuals, which y holds already where there is no prediction."""
    return y if prediction is None else y - prediction


def not_additive(noise: Noise) -> ConfigError:
    """The error of a law that is asked about residuals alone."""
    hint = "pass the prediction: log_prob(y, prediction), whiten(y, prediction), draw(prediction, seeds)"
    return ConfigError(f"the errors of {type(noise).__name__} depend on what is predicted", hint=hint)


def not_gaussian(noise: Noise) -> ConfigError:
    """The error of a law that is asked for what only Gaussian errors have."""
    hint = "use a method that takes log_prob, whiten or variance(prediction)"
    return ConfigError(f"{type(noise).__name__} is not Gaussian, which this method needs", hint=hint)
