"""The exact posterior of a linear problem whose prior is a mixture of Gaussian fields."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import torch
from torch import Tensor

from pdediff.observe import Observation, Operator
from pdediff.posterior import FieldMixturePosterior
from pdediff.stages.problems.linear import ExactPosterior
from pdediff.types import Seeds


@dataclass(frozen=True, eq=False)
class ExactMixturePosterior:
    """Mean, standard deviation and draws of all stored fields; all of them depend on the readings."""

    fields: Operator
    posterior: FieldMixturePosterior

    def mean(self, observation: Observation) -> Tensor:
        """E[fields | y], (channel, *space)."""
        weights, means = self._components(observation)
        return torch.tensordot(weights, means, dims=1)

    def std(self, observation: Observation) -> Tensor:
        """Pointwise standard deviation of the fields, (channel, *space): within components and between them."""
        weights, means = self._components(observation)
        between = torch.tensordot(weights, (means - torch.tensordot(weights, means, dims=1)).square(), dims=1)
        return (self._within.square() + between).sqrt()

    def draws(self, observation: Observation, seeds: Seeds) -> Tensor:
        """Independent draws (n, channel, *space), row i from seed i alone."""
        return self.fields(self.posterior.draws(observation, seeds))

    def _components(self, observation: Observation) -> tuple[Tensor, Tensor]:
        return self.posterior.weights(observation)[0], self.fields(self.posterior.means(observation))

    @cached_property
    def _within(self) -> Tensor:
        conditioning = self.posterior.conditioning
        return ExactPosterior(self.fields, self.posterior.prior.mean, conditioning.covariance, conditioning).std()
