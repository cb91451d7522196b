"""Two-dimensional Navier-Stokes flow on the unit torus: decaying, forced, or past obstacles, over Reynolds numbers."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, ClassVar

import numpy as np
import torch
from torch import Tensor

from pdediff.errors import ConfigError
from pdediff.pdes import spectral
from pdediff.pdes.base import Clock, Problem, Variable
from pdediff.pdes.discs import ATTEMPTS, Discs
from pdediff.pdes.periodic_gaussian import PeriodicGaussian
from pdediff.pdes.ranges import logarithmic, require_order, require_positive
from pdediff.pdes.vorticity import damped_transport, flow_invariants, transport, velocity
from pdediff.types import NonNegative, NonNegativeInt, uniform

_BOUND = 500.0

_DAMPED = 2.7
"""Largest product of inner step and rate of decay at which the scheme still decays."""


@dataclass(frozen=True)
class NavierStokes:
    """Incompressible flow from laminar to turbulent, past none to many obstacles: surrogates, recovery of the start.

    w_t + u . grad w = nu laplace w + forcing (sin 2 pi (x + y) + cos 2 pi (x + y)) - curl(chi (u, v) / penalty),
    periodic on the unit square, nondimensional. Signs: w = v_x - u_y, (u, v) = (flow, 0) + (psi_y, -psi_x),
    laplace psi = -w: the mean velocity stays (flow, 0), kept by a uniform pressure gradient. The start is a
    Gaussian field (`start`). Each sample draws nu from `viscosity`, evenly in the logarithm, and a number of discs
    evenly from `obstacles` (fewest, most), with radii and places by `discs`; chi is their mask. Without obstacles this
    is the flow of Li et al. 2021, section 5.3. Fourier, 2/3 rule on products of velocities, ETDRK4; the step of the
    clock holds up to grid 64 and shrinks as 64 / grid beyond: (|u| + |v|) k_max h must stay below 2.8, h below 2.7
    penalty. Good values: grid 64 for viscosity 1e-3 without obstacles, 128 with them or for 1e-4.
    Raises ConfigError where a range is not in order, a viscosity not positive, obstacles have no room, or the step is
    too large for them.
    """

    name: ClassVar[str] = "navier_stokes"
    formula: ClassVar[str] = (
        "w_t + u . grad w = nu laplace w + a (sin 2 pi (x + y) + cos 2 pi (x + y)) - curl(chi (u, v) / eta), "
        "w = v_x - u_y, a = forcing, eta = penalty, mean velocity (flow, 0)"
    )
    boundary: ClassVar[str] = "periodic on the unit square"
    symmetries: ClassVar[str] = "none"
    levels: ClassVar[Mapping[str, Mapping[str, Any]]] = {
        "low": {"viscosity": (2e-3, 4e-3), "obstacles": (0, 0), "flow": 0.25},
        "medium": {"viscosity": (1e-3, 2e-3), "obstacles": (1, 1), "flow": 0.25},
        "high": {"viscosity": (5e-4, 1e-3), "obstacles": (2, 4), "flow": 0.25},
    }
    conserved: ClassVar[Mapping[str, float]] = {"mean": 1e-6}

    viscosity: tuple[float, float] = (1e-3, 1e-3)
    forcing: NonNegative = 0.1
    flow: float = 0.0
    obstacles: tuple[NonNegativeInt, NonNegativeInt] = (0, 0)
    discs: Discs = Discs()
    start: PeriodicGaussian = PeriodicGaussian(sigma=26.19, alpha=2.5, tau=7.0)
    clock: Clock = Clock(frames=51, interval=1.0, step=0.02)

    def __post_init__(self) -> None:
        require_positive(viscosity=self.viscosity)
        require_order(obstacles=self.obstacles)
        self.discs.require_room(self.obstacles[1])
        if self.obstacles[1] and self.clock.step > _DAMPED * self.discs.penalty:
            limit = f"{_DAMPED:g} discs.penalty = {_DAMPED * self.discs.penalty:g}"
            raise ConfigError(f"clock.step={self.clock.step:g} must be at most {limit} where there are obstacles")

    def variables(self) -> tuple[Variable, ...]:
        """Initial vorticity, mask of the obstacles and viscosity (inputs), vorticity over time (output)."""
        return (
            Variable("initial", ("y", "x"), "1", "vorticity at time 0", "input", -_BOUND, _BOUND),
            Variable("obstacle", ("y", "x"), "1", "1 in an obstacle, 0 in the flow", "input", 0.0, 1.0),
            Variable("viscosity", (), "1", "kinematic viscosity", "input", 0.0),
            Variable("vorticity", ("time", "y", "x"), "1", "vorticity v_x - u_y", "output", -_BOUND, _BOUND),
        )

    def coordinates(self, grid: int) -> dict[str, np.ndarray]:
        """Time from the end of the warm-up, points of the square. Raises ConfigError for a grid below 8."""
        if grid < 8:
            raise ConfigError(f"grid={grid} holds no flow: it must be at least 8")
        points = np.arange(grid) / grid
        return {"time": self.clock.times(), "y": points, "x": points.copy()}

    def draw(self, seeds: Sequence[int], grid: int, device: torch.device | str = "cpu") -> Problem:
        """Vorticity after the warm-up and masks `(batch, y, x)`, viscosities `(batch,)`."""
        self.coordinates(grid)
        numbers = uniform(seeds, (2 + 3 * ATTEMPTS,))
        fewest, most = self.obstacles
        counts = fewest + (numbers[:, 1] * (most - fewest + 1)).long()
        placed = self.discs.place(counts, most, numbers[:, 2:].unflatten(1, (ATTEMPTS, 3)))
        scalars = {"viscosity": logarithmic(numbers[:, 0], self.viscosity).to(device)}
        fields = {"obstacle": self.discs.mask(placed, grid).to(device), **scalars}
        initial = self._evolve(self.start.draw(seeds, grid, 2).to(device), fields, warm=True)
        return Problem({"initial": initial, "obstacle": fields["obstacle"]}, scalars)

    def solve(self, problem: Problem) -> dict[str, Tensor]:
        """Trajectory `(batch, time, y, x)` from `initial`, its first frame; differentiable in all inputs."""
        fields = {**problem.fields, **problem.scalars}
        return {**fields, "vorticity": self._evolve(fields["initial"], fields)}

    def residual(self, fields: Mapping[str, Tensor]) -> Tensor:
        """Defect of each frame after one interval of the integrator, per unit time, `(batch, time - 1, y, x)`."""
        w = fields["vorticity"]
        equation, parameters = self._equation(fields)
        return spectral.step_residual(equation, w, _box(w), self._clock(w.shape[-1]), parameters=parameters)

    def invariants(self, fields: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """`mean` vorticity (0), `energy`, `enstrophy` and `drag`, the force on the obstacles along x, `(batch, time)`.

        The force is the mean of chi u / penalty, in units of density times side times speed squared.
        """
        w = fields["vorticity"]
        u, _ = velocity(w, _box(w), self.flow)
        drag = (fields["obstacle"][:, None] * u).mean((-2, -1)) / self.discs.penalty
        return {**flow_invariants(w, _box(w), self.flow), "drag": drag}

    def inner_description(self, grid: int) -> dict[str, object]:
        """Integrator, inner step and dealiasing."""
        clock = self._clock(grid)
        return {
            "method": "Fourier pseudo-spectral vorticity, ETDRK4, volume penalisation",
            "step": clock.interval / clock.steps,
            "dealiasing": "2/3 rule for the transport, none for the mask",
        }

    def symbol(self, modes: spectral.Modes) -> Tensor:
        """-nu |k|^2."""
        return -modes.parameter("viscosity") * modes.squared

    def nonlinear(self, modes: spectral.Modes) -> Callable[[Tensor], Tensor]:
        """Transport in flux form, and the force."""
        return self._forced(modes, transport(modes, self.flow))

    def _forced(self, modes: spectral.Modes, rate: Callable[[Tensor], Tensor]) -> Callable[[Tensor], Tensor]:
        diagonal = torch.zeros_like(modes.squared)
        diagonal[..., 1, 1] = 1.0
        force = modes.cast(self.forcing * (0.5 - 0.5j) * diagonal)
        return (lambda w: rate(w) + force) if self.forcing else rate

    def _evolve(self, start: Tensor, fields: Mapping[str, Tensor], warm: bool = False) -> Tensor:
        equation, parameters = self._equation(fields)
        clock = self._clock(start.shape[-1])
        return spectral.evolve(equation, start, _box(start), clock, parameters=parameters, warm=warm)

    def _equation(self, fields: Mapping[str, Tensor]) -> tuple[spectral.Semilinear, dict[str, Tensor]]:
        """The form of the equation that these rows take, with its parameters.

        Rows of a class that draws obstacles all take the same form, whether they have any or not: the two forms round
        differently, and the bits of a row must not depend on its batch.
        """
        obstacle = fields["obstacle"]
        parameters = {"viscosity": fields["viscosity"]}
        if self.obstacles[1] or obstacle.requires_grad or bool(obstacle.any()):
            return _PastObstacles(self), parameters | {"obstacle": obstacle}
        return self, parameters

    def _clock(self, grid: int) -> Clock:
        return replace(self.clock, step=self.clock.step * min(1.0, 64.0 / grid))


@dataclass(frozen=True)
class _PastObstacles:
    """The equation of rows with obstacles."""

    pde: NavierStokes

    def symbol(self, modes: spectral.Modes) -> Tensor:
        """-nu |k|^2."""
        return self.pde.symbol(modes)

    def nonlinear(self, modes: spectral.Modes) -> Callable[[Tensor], Tensor]:
        """Transport and penalisation in divergence form, and the force."""
        damping = modes.parameter("obstacle") / self.pde.discs.penalty
        return self.pde._forced(modes, damped_transport(modes, damping, self.pde.flow))


def _box(like: Tensor) -> Tensor:
    return torch.ones(1, dtype=torch.float64, device=like.device)
