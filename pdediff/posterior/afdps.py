"""AFDPS: the weighted SDE or ODE whose potential is the likelihood of the noisy state as it stands."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import ClassVar

import numpy as np
import torch

from pdediff.diffusion import Denoiser
from pdediff.errors import ConfigError
from pdediff.observe import Observation
from pdediff.posterior.base import Draws
from pdediff.posterior.island import Island
from pdediff.posterior.tilt import likelihood_tilt
from pdediff.posterior.weighted_sde import WeightedChain
from pdediff.samplers import equal_mass, uniform_lambda
from pdediff.types import NonNegative, NonNegativeInt, Positive, PositiveInt


@dataclass(frozen=True)
class AFDPS:
    """Particles along p_sigma(x) N(y; H x, R): `WeightedChain` with a tilt that is not inflated.

    eta = 1 with a = 1 is the SDE of Chen et al. 2025, algorithm 1; eta = 0 their probability-flow ODE, algorithm 2,
    which leaves the data to the weights and to `corrections` Langevin steps a level. Here a is eta / 2 unless
    given: the weights then need no second derivative and scatter far less. Particles are resampled, which the
    released code leaves out, and the pull of the data is taken implicitly. Steps in which sigma^2 falls by more
    than the variance of the readings have weights of the time stepping alone: the levels start at sigma_max or,
    where so many steps cannot do that, lower, from the Gaussian fit of p_sigma(x) N(y; H x, R) (diagnostic `start`;
    then no evidence is given). The path is far from the posterior's at large sigma, and few roots are left when the
    readings are precise: on such problems it is the last to try. Good values: sigma_max 10 standard deviations of
    the data, readings with noise of a standard deviation or more. Raises ConfigError for a nonlinear operator.
    """

    eta: NonNegative = 1.0
    a: float | None = None
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
        tilt = likelihood_tilt(prior, observation, 0.0)
        levels = (*self.levels(tilt.width(self.sigma_max)), 0.0)
        return WeightedChain(((prior, 1.0),), levels, tilt, self.eta, self.a, self.corrections)

    def levels(self, width: float) -> list[float]:
        """Equal in log sigma, or half of them equal in sigma^2 where a step would be longer than `width` there."""
        steps = self.steps - 1
        even = uniform_lambda(self.sigma_max, self.sigma_min, steps)
        if even[0] ** 2 - even[1] ** 2 <= width:
            return even
        first = min(self.sigma_max, max((0.5 * steps * width) ** 0.5, 2 * self.sigma_min))
        lambdas = np.linspace(-math.log(first), -math.log(self.sigma_min), 4001)
        squares = 2 * np.exp(-2 * lambdas) / (first**2 - self.sigma_min**2)
        found = equal_mass(lambdas, squares + 1 / (lambdas[-1] - lambdas[0]), steps)
        return [first, *found[1:-1], self.sigma_min]

    @torch.no_grad()
    def __call__(self, prior: Denoiser, observation: Observation, n: int, seed: int) -> Draws:
        calls = self.steps + self.corrections * (self.steps - 1)
        chain = self.chain(prior, observation)
        draws = self.island.draws(chain, n, seed, calls=calls)
        told = {**draws.diagnostics, "start": chain.levels[0], "stiffness": chain.stiffness}
        if chain.levels[0] < self.sigma_max:
            told = {name: value for name, value in told.items() if not name.startswith("log_evidence")}
        return Draws(draws.x, draws.log_weights, told)
