"""Feynman-Kac correctors for inverse problems: the reward-tilted weighted SDE with an annealed likelihood."""

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
from pdediff.posterior.weighted_sde import WeightedChain, require_stable
from pdediff.samplers import uniform_lambda
from pdediff.types import NonNegative, Positive, PositiveInt


@dataclass(frozen=True)
class FKC:
    """Draws from p(x0)^power p(y | x0) by `WeightedChain` with rho = log N(y; H x, R + inflation sigma^2 H N H^T).

    Feynman-Kac corrector with a reward tilt, Skreta et al. 2025, proposition 4. No gradient of the network. The
    potential lies on the noisy state and knows nothing of what the prior will make of it, so roots are lost fast:
    compare with `TwistedSMC`. Good values: eta 2 (the published 1 is worse, power > 1 needs eta > 1 - 1 / power),
    inflation 1, 128 steps, sigma_max 50 standard deviations of the data, all particles one can afford. Raises
    ConfigError for a nonlinear operator and for an unstable eta.
    """

    eta: NonNegative = 2.0
    inflation: NonNegative = 1.0
    power: Positive = 1.0
    island: Island = field(default_factory=Island)
    steps: PositiveInt = 128
    sigma_max: Positive = 80.0
    sigma_min: Positive = 0.02
    exact: ClassVar[bool] = True
    linear_only: ClassVar[bool] = True

    def __post_init__(self) -> None:
        require_stable(self.power, self.eta)

    @property
    def trace(self) -> int:
        return self.steps + 1

    def chain(self, prior: Denoiser, observation: Observation) -> WeightedChain:
        """The Feynman-Kac model, for runs of its own."""
        if not observation.operator.linear:
            raise ConfigError("FKC needs a linear observation operator", hint="use posterior=tds_calibrated")
        levels = (*uniform_lambda(self.sigma_max, self.sigma_min, self.steps - 1), 0.0)
        tilt = likelihood_tilt(prior, observation, self.inflation)
        return WeightedChain(((prior, self.power),), levels, tilt, self.eta)

    @torch.no_grad()
    def __call__(self, prior: Denoiser, observation: Observation, n: int, seed: int) -> Draws:
        return self.island.draws(self.chain(prior, observation), n, seed, calls=self.steps)
