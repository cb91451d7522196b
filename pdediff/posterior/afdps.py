"""AFDPS: the weighted SDE or ODE whose potential is the likelihood of the noisy state as it stands."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import ClassVar

import torch

from pdediff.diffusion import Denoiser
from pdediff.errors import ConfigError
from pdediff.observe import Observation
from pdediff.posterior.base import Draws
from pdediff.posterior.island import Island
from pdediff.posterior.tilt import likelihood_tilt
from pdediff.posterior.weighted_sde import WeightedChain
from pdediff.samplers import uniform_lambda
from pdediff.types import NonNegativeInt, Positive, PositiveInt


@dataclass(frozen=True)
class AFDPS:
    """Particles along p_sigma(x) N(y; H x, R): `WeightedChain` with a tilt that is not inflated.

    With `stochastic` eta = 1 and a = 1, otherwise the probability-flow ODE, eta = 0 and a = 0, that leaves the data to
    the weights and to `corrections` Langevin steps a level. Chen et al. 2025, algorithms 1 and 2; here the ensemble
    starts from the exact conditional at sigma_max, the stiff pull of the data is taken implicitly, and particles are
    resampled, which the released code leaves out. The path is far from the posterior's at large sigma, and all roots
    are lost when the readings are precise: on such problems it is the last to try. Good values: sigma_max 10 standard
    deviations of the data, readings with noise of a standard deviation or more, and so many steps that the diagnostic
    `stiffness`, the fall of sigma^2 in a step over the variance of the readings, stays far below 2; above it the
    weights are those of the time stepping, and no evidence is given. Raises ConfigError for a nonlinear operator.
    """

    stochastic: bool = True
    corrections: NonNegativeInt = 0
    island: Island = field(default_factory=Island)
    steps: PositiveInt = 128
    sigma_max: Positive = 10.0
    sigma_min: Positive = 0.02
    exact: ClassVar[bool] = True
    linear_only: ClassVar[bool] = True

    @property
    def trace(self) -> int:
        return self.steps + 1

    def chain(self, prior: Denoiser, observation: Observation) -> WeightedChain:
        """The Feynman-Kac model, for runs of its own."""
        if not observation.operator.linear:
            raise ConfigError("AFDPS needs a linear observation operator", hint="use posterior=tds_calibrated")
        levels = (*uniform_lambda(self.sigma_max, self.sigma_min, self.steps - 1), 0.0)
        share = float(self.stochastic)
        tilt = likelihood_tilt(prior, observation, 0.0)
        return WeightedChain(((prior, 1.0),), levels, tilt, share, share, self.corrections)

    @torch.no_grad()
    def __call__(self, prior: Denoiser, observation: Observation, n: int, seed: int) -> Draws:
        calls = self.steps + self.corrections * (self.steps - 1)
        chain = self.chain(prior, observation)
        draws = self.island.draws(chain, n, seed, calls=calls)
        told = {**draws.diagnostics, "stiffness": chain.stiffness}
        if chain.stiffness > 2:
            # The weights are those of the time stepping: an evidence made of them would only mislead a merge.
            told = {name: value for name, value in told.items() if not name.startswith("log_evidence")}
        return Draws(draws.x, draws.log_weights, told)
