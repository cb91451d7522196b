"""The exact posterior of a mixture of Gaussian fields with one covariance: components conditioned and reweighted."""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch
from torch import Tensor

from pdediff.diffusion import GaussianFieldMixturePrior
from pdediff.observe import Observation
from pdediff.posterior.conditioning import Conditioning
from pdediff.types import Seeds, fold, uniform


@dataclass(frozen=True, eq=False)
class FieldMixturePosterior:
    """w_k N(y; H m_k, R + H S H^T) N(m_k + S H^T (R + H S H^T)^-1 (y - H m_k), V): V is the same for all components.

    The part without y is `conditioning`, of the common covariance S; no matrix over the grid is built.
    """

    prior: GaussianFieldMixturePrior
    conditioning: Conditioning

    @staticmethod
    def of(prior: GaussianFieldMixturePrior, observation: Observation) -> FieldMixturePosterior:
        """For all readings y of the operator and noise of `observation`, independent Gaussian."""
        return FieldMixturePosterior(
            prior, Conditioning.of(observation, prior.within, observation.rows(prior.mean.double()))
        )

    def weights(self, observation: Observation) -> tuple[Tensor, float]:
        """Probabilities of the components given y (k,), and log p(y)."""
        residual = observation.residual(self.prior.means)
        joint = self.prior.weights.log() + self.conditioning.log_evidence(residual)
        return joint.softmax(0), float(joint.logsumexp(0))

    def means(self, observation: Observation) -> Tensor:
        """Means of the components given y, (k, channel, *space)."""
        return self.conditioning.update(self.prior.means, observation.residual(self.prior.means))

    def draws(self, observation: Observation, seeds: Seeds) -> Tensor:
        """Independent draws, row i from seed i alone: a component, and Matheron's rule within it."""
        rising = self.weights(observation)[0].cumsum(0)
        coin = uniform(fold(seeds, 0), (1,)).to(rising)[:, 0]
        which = torch.searchsorted(rising, coin).clamp(max=len(rising) - 1)
        return replace(self.conditioning, observation=observation).draw(self.prior.means[which], fold(seeds, 1))
