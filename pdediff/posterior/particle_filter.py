"""The bootstrap particle filter: any dynamics, any law of errors, exact as particles grow."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from pdediff.diffusion import Covariance
from pdediff.posterior.collectors import Snapshot, State
from pdediff.posterior.latent import log_likelihood, root
from pdediff.posterior.resampling import SchemeName
from pdediff.posterior.smc import Particles, smc
from pdediff.posterior.state_space import StateSpace
from pdediff.types import Fraction, PositiveInt, Purpose, Seeds, derive, normal


@dataclass(frozen=True, eq=False)
class BootstrapChain:
    """Particles that move by the model alone and are weighed by each reading: a Feynman-Kac model for `smc`."""

    model: StateSpace

    @property
    def steps(self) -> int:
        return len(self.model.observations) - 1

    def start(self, seeds: Seeds) -> tuple[State, Tensor]:
        x = self.model.mean.double() + _noise(self.model.initial, seeds)
        return (x,), self._weight(x, 0)

    def move(self, state: State, step: int, seeds: Seeds) -> tuple[State, Tensor]:
        x = self.model.step(state[0]) + _noise(self.model.error, seeds)
        return (x,), self._weight(x, step + 1)

    def _weight(self, x: Tensor, frame: int) -> Tensor:
        observation = self.model.observations[frame]
        if observation is None:
            return torch.zeros(len(x), dtype=torch.float64, device=x.device)
        return log_likelihood(observation, x)


@dataclass(frozen=True, eq=False)
class Filtered:
    """Weighted moments (frame, channel, *space) given the readings so far, log p(y), and the paths of all particles.

    paths: (particle, frame, channel, *space), each traced back through its ancestors, with log weights (particle,): the
    smoothing law, good for the last frames only, since early ones stem from few roots (`distinct_roots`).
    """

    mean: Tensor
    variance: Tensor
    log_evidence: float
    evidence_variance: float
    ess: Tensor
    paths: Tensor
    log_weights: Tensor

    @property
    def distinct_roots(self) -> Tensor:
        """How many different states each frame of the paths holds, (frame,)."""
        flat = self.paths.flatten(2)
        return torch.tensor([len(torch.unique(flat[:, k], dim=0)) for k in range(flat.shape[1])])


@dataclass(frozen=True)
class BootstrapFilter:
    """Gordon, Salmond and Smith 1993: propose from the dynamics, weigh by the likelihood, resample where ESS is low.

    The evidence is unbiased at any number of particles; moments err by about 1 / sqrt(particles). The reference for
    nonlinear time series of few dimensions: the particles needed grow exponentially with the readings of a frame.

    Good values: 10^4 particles for Lorenz 63, threshold 0.5. `NumericalError` where all weights vanish.
    """

    particles: PositiveInt = 16384
    threshold: Fraction = 0.5
    scheme: SchemeName = "systematic"

    @torch.no_grad()
    def __call__(self, model: StateSpace, seed: int) -> Filtered:
        seeds = (derive(seed, Purpose.START),) * self.particles
        collectors = {"mean": _mean, "variance": _variance, "state": _state}
        found = smc(
            BootstrapChain(model),
            seeds,
            seed=seed,
            threshold=self.threshold,
            scheme=self.scheme,
            collectors=collectors,
        )
        mean, variance, ess = (torch.from_numpy(found.trace[name]) for name in ("mean", "variance", "ess"))
        return Filtered(
            mean, variance, found.log_evidence, found.evidence_variance(), ess, _paths(found), found.log_weights
        )


def _noise(covariance: Covariance, seeds: Seeds) -> Tensor:
    """Draws from N(0, C) for all particles at once, from the seed of the first: an island is one unit of work."""
    found = root(covariance)
    return found.spread(normal(seeds[:1], (len(seeds), found.size), dtype=torch.float64)[0])


def _paths(found: Particles) -> Tensor:
    """States of each particle's line of ancestors, the last frame first traced."""
    states, ancestors = torch.from_numpy(found.trace["state"]), list(found.ancestors)
    index, out = torch.arange(states.shape[1]), []
    for frame in range(len(states) - 1, -1, -1):
        out.insert(0, states[frame, index])
        if frame and found.resampled[frame - 1]:
            index = ancestors.pop()[index]
    return torch.stack(out, 1)


def _state(now: Snapshot) -> Tensor:
    return now.state[0]


def _mean(now: Snapshot) -> Tensor:
    return torch.tensordot(now.log_weights.softmax(0), now.state[0], dims=1)


def _variance(now: Snapshot) -> Tensor:
    return torch.tensordot(now.log_weights.softmax(0), (now.state[0] - _mean(now)).square(), dims=1)
