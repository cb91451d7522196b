"""The exact posterior of a linear problem, whatever its prior."""

from __future__ import annotations

import math
from functools import lru_cache

import torch
from torch import Tensor

from pdediff.diffusion import GaussianFieldMixturePrior
from pdediff.errors import ConfigError
from pdediff.observe import GaussianNoise, Observation
from pdediff.posterior import Conditioning, FieldMixturePosterior
from pdediff.stages.problems.base import InverseProblem, Posed, setup_of
from pdediff.stages.problems.linear import ExactPosterior, Rows
from pdediff.stages.problems.mixture import ExactMixturePosterior


@lru_cache(maxsize=4)
def exact_posterior(problem: InverseProblem | Posed) -> ExactPosterior | ExactMixturePosterior:
    """The exact posterior of a linear problem. Raises ConfigError for any other."""
    made = setup_of(problem)
    if not isinstance(made.readings, Rows):
        raise ConfigError(f"{type(problem).__name__} has no exact posterior: its readings are not linear")
    with torch.no_grad():
        rows = made.readings.rows
        unread = Observation(torch.zeros(len(rows), dtype=rows.dtype), made.readings, GaussianNoise(made.std))
        if isinstance(made.prior, GaussianFieldMixturePrior):
            return ExactMixturePosterior(made.fields, FieldMixturePosterior.of(made.prior, unread))
        covariance = made.prior.error(math.inf)
        return ExactPosterior(made.fields, made.prior.mean, covariance, Conditioning.of(unread, covariance, rows))


@lru_cache(maxsize=4)
def exact_std(problem: InverseProblem | Posed) -> Tensor:
    """`ExactPosterior.std`, kept: it is the same for all cases. Raises ConfigError where it is not."""
    found = exact_posterior(problem)
    if isinstance(found, ExactMixturePosterior):
        raise ConfigError(
            f"the spread of {type(problem).__name__} depends on the readings",
            hint="exact_moments(problem, observation)",
        )
    with torch.no_grad():
        return found.std()


def exact_moments(problem: InverseProblem | Posed, observation: Observation) -> tuple[Tensor, Tensor]:
    """Mean and pointwise standard deviation of all fields given these readings, (channel, *space) each."""
    found = exact_posterior(problem)
    with torch.no_grad():
        if isinstance(found, ExactMixturePosterior):
            return found.mean(observation), found.std(observation)
        return found.mean(observation), exact_std(problem)
