"""The heat equation on a ring, solved exactly mode by mode."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
import torch
from torch import Tensor

from pdediff.pdes.advection_diffusion import BOUND, propagate, propagated_residual
from pdediff.pdes.base import Clock, Problem, Variable
from pdediff.pdes.periodic_gaussian import PeriodicGaussian
from pdediff.pdes.ranges import logarithmic, require_positive
from pdediff.types import Positive, uniform


@dataclass(frozen=True)
class Heat:
    """Temperature of a ring: linear, Gaussian and strongly smoothing, the simplest ill-posed inverse problem.

    u_t = D u_xx, periodic on (0, length); all numbers are nondimensional. Initial state: a Gaussian field of known
    spectrum (`start`). Each sample draws its diffusivity D from `diffusivity`, evenly in the logarithm; equal ends fix
    it, and given D the state at any time is Gaussian. Exact exponential of each Fourier mode, no time stepping: the
    step of the clock is no limit and changes nothing.
    Good values: length 1, diffusivity 1e-3 to 1e-2 (mode m decays at the rate 39 D m^2).
    Raises ConfigError where the range is not in order or not positive.
    """

    name: ClassVar[str] = "heat"
    formula: ClassVar[str] = "u_t = D u_xx"
    boundary: ClassVar[str] = "periodic"
    symmetries: ClassVar[str] = "none"
    levels: ClassVar[Mapping[str, Mapping[str, Any]]] = {}
    conserved: ClassVar[Mapping[str, float]] = {"mean": 1e-6}

    length: Positive = 1.0
    diffusivity: tuple[float, float] = (1e-3, 1e-2)
    start: PeriodicGaussian = PeriodicGaussian()
    clock: Clock = Clock(frames=51, interval=0.02, step=0.02)

    def __post_init__(self) -> None:
        require_positive(diffusivity=self.diffusivity)

    def variables(self) -> tuple[Variable, ...]:
        """Initial state and diffusivity (inputs), u over time (output)."""
        bound = BOUND * self.start.deviation(1)
        return (
            Variable("initial", ("x",), "1", "u at time 0", "input", -bound, bound),
            Variable("diffusivity", (), "1", "diffusivity", "input", 0.0),
            Variable("u", ("time", "x"), "1", "temperature", "output", -bound, bound),
        )

    def coordinates(self, grid: int) -> dict[str, np.ndarray]:
        """Time, and the points of the ring."""
        return {"time": self.clock.times(), "x": self.length * np.arange(grid) / grid}

    def draw(self, seeds: Sequence[int], grid: int, device: torch.device | str = "cpu") -> Problem:
        """States `(batch, x)` and diffusivities `(batch,)`."""
        diffusivity = logarithmic(uniform(seeds, ()).to(device), self.diffusivity)
        initial = self.start.draw(seeds, grid, 1).to(device)
        warm = torch.tensor([self.clock.warm_up * self.clock.interval], dtype=torch.float64)
        return Problem({"initial": self._propagate(initial, warm, diffusivity)[:, 0]}, {"diffusivity": diffusivity})

    def solve(self, problem: Problem) -> dict[str, Tensor]:
        """Trajectory `(batch, time, x)` from the live modes of `initial`; differentiable in both inputs."""
        initial, diffusivity = problem.fields["initial"], problem.scalars["diffusivity"]
        u = self._propagate(initial, torch.from_numpy(self.clock.times()), diffusivity)
        return {"initial": initial, "diffusivity": diffusivity, "u": u}

    def residual(self, fields: Mapping[str, Tensor]) -> Tensor:
        """Defect of each frame after one exact interval, per unit time, `(batch, time - 1, x)`."""
        return propagated_residual(fields["u"], self.clock, self.length, (), fields["diffusivity"])

    def invariants(self, fields: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """`mean` of u (conserved) and `energy`, the mean of u^2 / 2 (decays), `(batch, time)`."""
        u = fields["u"]
        return {"mean": u.mean(-1), "energy": 0.5 * u.square().mean(-1)}

    def inner_description(self, grid: int) -> dict[str, object]:
        """Method; there is no inner step."""
        return {"method": "exact exponential of each Fourier mode", "step": self.clock.interval}

    def _propagate(self, initial: Tensor, times: Tensor, diffusivity: Tensor) -> Tensor:
        return propagate(initial, times, self.length, self.clock.dtype, (), diffusivity)
