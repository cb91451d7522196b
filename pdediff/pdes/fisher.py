"""The Fisher-KPP equation on a ring: populations that grow and spread as travelling fronts."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
import torch
from torch import Tensor

from pdediff.errors import ConfigError
from pdediff.pdes import spectral
from pdediff.pdes.base import Clock, Problem, Variable
from pdediff.pdes.ranges import linear, logarithmic, require_positive
from pdediff.types import Positive, PositiveInt, uniform

# Standard deviation of the first colonies, in lengths.
_COLONY = (0.01, 0.03)

_HARMLESS = 1e-3
"""What rounding may grow to in the empty state, which is unstable."""


@dataclass(frozen=True)
class FisherKPP:
    """Colonies that grow to saturation and invade at the speed 2 sqrt(r D); for recovery of the rates and of the start.

    u_t = D u_xx + r u (1 - u), periodic on (0, length), nondimensional (Fisher 1937; Kolmogorov, Petrovsky and
    Piskunov 1937). Each sample draws D from `diffusivity` and r from `growth`, evenly in the logarithm, and 1 to
    `colonies` Gaussian bumps of height 0.2 to 1 and standard deviation 0.01 to 0.03 `length`, joined as
    u = 1 - prod (1 - bump): 0 <= u <= 1, and stays so. Fourier, ETDRK4 with diffusion and growth exact, 2/3 rule.
    Good values: grid 256 for the shipped ranges, whose sharpest front is sqrt(D / r) = 0.6 wide; step 0.1; an end
    before the fronts have met everywhere, or u becomes constant. Raises ConfigError where a range is not in order or
    not positive, or rounding ahead of the fronts, which grows as exp(r t), would reach 1e-3 (float64: r t = 29).
    """

    name: ClassVar[str] = "fisher_kpp"
    formula: ClassVar[str] = "u_t = D u_xx + r u (1 - u)"
    boundary: ClassVar[str] = "periodic"
    symmetries: ClassVar[str] = "none"
    levels: ClassVar[Mapping[str, Mapping[str, Any]]] = {}
    conserved: ClassVar[Mapping[str, float]] = {}

    diffusivity: tuple[float, float] = (0.5, 2.0)
    growth: tuple[float, float] = (0.5, 1.5)
    colonies: PositiveInt = 3
    length: Positive = 100.0
    clock: Clock = Clock(frames=51, interval=0.2, step=0.1)

    def __post_init__(self) -> None:
        require_positive(diffusivity=self.diffusivity, growth=self.growth)
        clock = self.clock
        time = (clock.warm_up + clock.frames - 1) * clock.interval
        longest = math.log(_HARMLESS / torch.finfo(clock.dtype).eps) / self.growth[1]
        if time > longest:
            raise ConfigError(
                f"clock: rounding ahead of the fronts grows as exp({self.growth[1]:g} t), and {clock.precision} bears "
                f"it up to t = {longest:.3g}, not {time:g}"
            )

    def variables(self) -> tuple[Variable, ...]:
        """Initial state, diffusivity and growth rate (inputs), u over time (output)."""
        return (
            Variable("initial", ("x",), "1", "u at time 0", "input", -0.05, 1.05),
            Variable("diffusivity", (), "1", "diffusivity D", "input", 0.0),
            Variable("growth", (), "1", "growth rate r", "input", 0.0),
            Variable("u", ("time", "x"), "1", "population, 1 where saturated", "output", -0.05, 1.05),
        )

    def coordinates(self, grid: int) -> dict[str, np.ndarray]:
        """Time from the end of the warm-up, points of the ring."""
        return {"time": self.clock.times(), "x": self.length * np.arange(grid) / grid}

    def draw(self, seeds: Sequence[int], grid: int, device: torch.device | str = "cpu") -> Problem:
        """States after the warm-up `(batch, x)`, diffusivities and growth rates `(batch,)`."""
        numbers = uniform(seeds, (3 + 3 * self.colonies,))
        rates = {
            "diffusivity": logarithmic(numbers[:, 0], self.diffusivity).to(device),
            "growth": logarithmic(numbers[:, 1], self.growth).to(device),
        }
        start = self._colonies(numbers[:, 2], numbers[:, 3:].unflatten(1, (3, -1)), grid).to(device)
        return Problem({"initial": self._evolve(start, rates, warm=True)}, rates)

    def solve(self, problem: Problem) -> dict[str, Tensor]:
        """Trajectory `(batch, time, x)` from `initial`, its first frame; differentiable in all inputs."""
        fields = {**problem.fields, **problem.scalars}
        return {**fields, "u": self._evolve(fields["initial"], problem.scalars)}

    def residual(self, fields: Mapping[str, Tensor]) -> Tensor:
        """Defect of each frame after one interval of the integrator, per unit time, `(batch, time - 1, x)`."""
        u, rates = fields["u"], {name: fields[name] for name in ("diffusivity", "growth")}
        return spectral.step_residual(self, u, self._box(u), self.clock, parameters=rates)

    def invariants(self, fields: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """`mean` of u, `(batch, time)`; nothing is conserved."""
        return {"mean": fields["u"].mean(-1)}

    def inner_description(self, grid: int) -> dict[str, object]:
        """Integrator, inner step and dealiasing."""
        return {
            "method": "Fourier pseudo-spectral, ETDRK4",
            "step": self.clock.interval / self.clock.steps,
            "dealiasing": "2/3 rule",
        }

    def symbol(self, modes: spectral.Modes) -> Tensor:
        """r - D k^2."""
        return modes.parameter("growth") - modes.parameter("diffusivity") * modes.squared

    def nonlinear(self, modes: spectral.Modes) -> Callable[[Tensor], Tensor]:
        """-r u^2."""
        crowding = modes.weigh(-modes.parameter("growth") * torch.ones_like(modes.squared))

        def rate(v: Tensor) -> Tensor:
            u = modes.to_space(v)
            return crowding(torch.mul(u, u, out=spectral.spare(u)))

        return rate

    def _colonies(self, number: Tensor, bumps: Tensor, grid: int) -> Tensor:
        """1 - prod (1 - bump), `(batch, grid)`, from uniform numbers `(batch,)` and `(batch, 3, colonies)`."""
        place, height, width = (n[..., None] for n in bumps.unbind(1))
        present = torch.arange(self.colonies) <= (number[:, None] * self.colonies).long()
        apart = torch.arange(grid, dtype=torch.float64) / grid - place
        apart = (apart - torch.round(apart)) / linear(width, _COLONY)
        bump = linear(height, (0.2, 1.0)) * torch.exp(-0.5 * apart.square())
        return 1.0 - torch.where(present[..., None], 1.0 - bump, 1.0).prod(1)

    def _box(self, like: Tensor) -> Tensor:
        return torch.full((1,), self.length, dtype=torch.float64, device=like.device)

    def _evolve(self, start: Tensor, rates: Mapping[str, Tensor], warm: bool = False) -> Tensor:
        return spectral.evolve(self, start, self._box(start), self.clock, parameters=rates, warm=warm)
