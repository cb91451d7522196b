"""Trajectory of a chaotic system with noise from readings of one of its three variables."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Annotated, ClassVar

import numpy as np
import torch
from annotated_types import Interval
from torch import Tensor

from pdediff.diffusion import DenseCovariance, GaussianFieldPrior, GaussianPrior, isotropic
from pdediff.observe import GaussianNoise, Observation, PointSensors, Solution
from pdediff.pdes import Lorenz63, Variable
from pdediff.posterior import StateSpace
from pdediff.stages.problems.base import Layout, Posed, Setup
from pdediff.types import Positive, PositiveInt, normal

MEAN = (0.0, 0.0, 25.0)
"""Mean of the first state."""

COVARIANCE = ((64.0, 50.0, 0.0), (50.0, 81.0, 0.0), (0.0, 0.0, 75.0))
"""Covariance of the first state, near that of the attractor."""


@dataclass(frozen=True)
class Lorenz63Series(Posed):
    """Find x_1 ... x_frames, x_(k+1) = M(x_k) + sqrt(dt) z_(k+1), from every `every`-th value of the first variable.

    M is one step dt = `interval` of classical Runge-Kutta for `pdes.Lorenz63` (sigma 10, beta 8/3, rho 28), the first
    state is N(`MEAN`, `COVARIANCE`): the Markov chain of Rozet and Louppe (2023, SDA, section 4.1). Their chain starts
    64 steps before the window, here it starts in it. `noise` is relative to 8, the standard deviation of the first
    variable: theirs, which they give for normalised states.
    The unknown is the white noise z of all frames, first state included: its law is a standard normal, so that every
    method has its exact prior, and the trajectory is a nonlinear function of it. Reference: `ParticleSmoother` on
    `state_space`.
    Good values: every 8 with noise 0.05 (their "lo"), every 1 with noise 0.25 ("hi"), 65 frames; fewer for tests.
    """

    name: ClassVar[str] = "lorenz63"
    linear: ClassVar[bool] = False
    periodic: ClassVar[tuple[bool, ...]] = (False,)

    frames: Annotated[int, Interval(ge=2, le=4096)] = 65
    every: PositiveInt = 8
    noise: Positive = 0.05
    interval: Positive = 0.025

    def variables(self) -> tuple[Variable, ...]:
        """The three modes of convection over time."""
        return tuple(v for v in Lorenz63().variables() if v.dims == ("time",))

    def coordinates(self) -> dict[str, np.ndarray]:
        """Times of the frames."""
        return {"time": self.interval * np.arange(self.frames)}

    def setup(self) -> Setup:
        """White prior; derivatives through the steps by autograd."""
        shape = (3, self.frames)
        prior = GaussianFieldPrior(torch.zeros(shape, dtype=torch.float64), torch.ones(shape, dtype=torch.float64))
        seen = torch.arange(0, self.frames, self.every)
        sensors = PointSensors.at([0] * len(seen), seen[:, None].double(), shape)
        fields = Solution(self.trajectory)
        std = torch.full((len(seen),), self.noise * math.sqrt(COVARIANCE[0][0]), dtype=torch.float64)
        position = self.coordinates()["time"][seen.numpy(), None]
        layout = Layout(("x", "y", "z"), np.zeros(len(seen), int), position, ("time",))

        def draw(seeds: Sequence[int]) -> Tensor:
            return normal(seeds, shape, dtype=torch.float64)

        return Setup(prior, draw, fields, sensors @ fields, std, layout)  # type: ignore[arg-type, operator]

    def trajectory(self, z: Tensor) -> Tensor:
        """States (batch, 3, time) of white noise (batch, 3, time)."""
        root = torch.linalg.cholesky(torch.tensor(COVARIANCE, dtype=torch.float64)).to(z)
        states = [torch.tensor(MEAN).to(z) + z[..., 0] @ root.T]
        for k in range(1, self.frames):
            states.append(self.step(states[-1]) + math.sqrt(self.interval) * z[..., k])
        return torch.stack(states, -1)

    def step(self, state: Tensor) -> Tensor:
        """M of states (batch, 3)."""
        h, pde = self.interval, Lorenz63()
        rho = state.new_tensor(pde.rho[0])

        def rate(x: Tensor) -> Tensor:
            return pde.tendency(x.T, rho).T

        k1 = rate(state)
        k2 = rate(state + 0.5 * h * k1)
        k3 = rate(state + 0.5 * h * k2)
        k4 = rate(state + h * k3)
        return state + h / 6 * (k1 + 2 * (k2 + k3) + k4)

    def state_space(self, observation: Observation) -> StateSpace:
        """The law frame by frame given the first reading, for filters and smoothers of series.

        That reading is conditioned on in closed form, which spares the filter all particles that it would kill: the
        evidence of the others is log p(y_2 ... | y_1).
        """
        first = PointSensors(torch.zeros(1, 1, dtype=torch.long), torch.ones(1, 1, dtype=torch.float64))
        std = observation.noise.std  # type: ignore[attr-defined]
        seen: list[Observation | None] = [None] * self.frames
        for i, k in enumerate(range(0, self.frames, self.every)):
            seen[k] = Observation(observation.y[i : i + 1], first, GaussianNoise(std[i : i + 1]))
        law = GaussianPrior(torch.tensor(MEAN).double(), torch.tensor(COVARIANCE).double())
        given, _ = law.condition(torch.eye(3).double()[:1], observation.y[:1], std[:1, None] ** 2)
        initial, error = DenseCovariance(given.covariance, (3,)), isotropic((3,), self.interval)
        return StateSpace(given.mean, initial, self.step, error, (None, *seen[1:]))
