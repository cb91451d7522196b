"""The chaotic systems of Lorenz: three modes of convection (1963), and a ring of weather (1996)."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, ClassVar

import numpy as np
import torch
from torch import Tensor
from torch.utils.checkpoint import checkpoint

from pdediff.errors import ConfigError
from pdediff.pdes.base import Clock, Problem, Variable
from pdediff.pdes.ranges import Range, linear, require_order
from pdediff.types import Positive, fold, normal, uniform

Tendency = Callable[[Tensor], Tensor]
_METHOD = "classical Runge-Kutta, order 4"


@dataclass(frozen=True)
class Lorenz63:
    """Three modes of convection, the smallest test of the recovery of a chaotic state and of its parameter.

    x' = sigma (y - x), y' = x (rho - z) - y, z' = x y - beta z (Lorenz 1963, equations 25-27); nondimensional. Each
    sample draws its rho uniformly from `rho`. Start: normal of standard deviation 8 about (0, 0, rho - 1), carried over
    the warm-up to the attractor. Classical Runge-Kutta of order 4.
    Good values: sigma 10, beta 8/3, rho 28 (chaotic, leading Lyapunov exponent 0.906; chaos sets in at 24.06); step
    0.005 (relative error 2e-8 per 0.025).
    Raises ConfigError where the range is not in order.
    """

    name: ClassVar[str] = "lorenz_63"
    formula: ClassVar[str] = "x' = sigma (y - x), y' = x (rho - z) - y, z' = x y - beta z"
    boundary: ClassVar[str] = "none: ordinary differential equations"
    symmetries: ClassVar[str] = "none"
    levels: ClassVar[Mapping[str, Mapping[str, Any]]] = {}
    conserved: ClassVar[Mapping[str, float]] = {}

    sigma: Positive = 10.0
    beta: Positive = 8.0 / 3.0
    rho: Range = (28.0, 28.0)
    clock: Clock = Clock(frames=128, interval=0.025, step=0.005, warm_up=800)

    def __post_init__(self) -> None:
        require_order(rho=self.rho)

    def variables(self) -> tuple[Variable, ...]:
        """State at time 0 and rho (inputs), the three modes over time (outputs)."""
        # Twice the ball about (0, 0, sigma + rho) that every trajectory enters (Doering and Gibbon 1995).
        bound = 2.0 * (self.sigma + max(abs(end) for end in self.rho)) * max(1.0, 0.5 * self.beta)
        names = {"x": "convective motion", "y": "temperature difference", "z": "distortion of the profile"}
        start = [
            Variable(f"{name}_initial", (), "1", f"{text} at time 0", "input", -bound, bound)
            for name, text in names.items()
        ]
        rho = Variable("rho", (), "1", "Rayleigh number over its critical value", "input", *_rounded(self.rho))
        states = [Variable(name, ("time",), "1", text, "output", -bound, bound) for name, text in names.items()]
        return (*start, rho, *states)

    def coordinates(self, grid: int) -> dict[str, np.ndarray]:
        """Time from the end of the warm-up; the grid plays no part."""
        return {"time": self.clock.times()}

    def draw(self, seeds: Sequence[int], grid: int, device: torch.device | str = "cpu") -> Problem:
        """States after the warm-up and rho, `(batch,)` each."""
        rho = linear(uniform(fold(seeds, 0), ()), self.rho).to(device)
        state = 8.0 * normal(seeds, (3,), dtype=torch.float64, device=device).T.contiguous()
        state[2] += rho - 1.0
        state = warmed(self._flow(rho), state, self.clock)
        return Problem({}, {"x_initial": state[0], "y_initial": state[1], "z_initial": state[2], "rho": rho})

    def solve(self, problem: Problem) -> dict[str, Tensor]:
        """Trajectories `(batch, time)`; differentiable in the state at time 0 and in rho."""
        given = dict(problem.scalars)
        start = torch.stack([given[name] for name in ("x_initial", "y_initial", "z_initial")])
        x, y, z = trajectory(self._flow(given["rho"]), start, self.clock).unbind(1)
        return given | {name: value.T.contiguous() for name, value in {"x": x, "y": y, "z": z}.items()}

    def residual(self, fields: Mapping[str, Tensor]) -> Tensor:
        """Defect of each frame after one interval of the integrator, per unit time, `(batch, 3, time - 1)`."""
        values = torch.stack([fields[name] for name in ("x", "y", "z")])
        return step_defect(self._flow(fields["rho"][:, None]), values, self.clock).transpose(0, 1)

    def invariants(self, fields: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """`energy`: half the squared distance from (0, 0, sigma + rho), which stays bounded, `(batch, time)`."""
        depth = fields["z"] - self.sigma - fields["rho"][:, None]
        return {"energy": 0.5 * (fields["x"].square() + fields["y"].square() + depth.square())}

    def inner_description(self, grid: int) -> dict[str, object]:
        """Integrator and inner step."""
        return {"method": _METHOD, "step": self.clock.interval / self.clock.steps}

    def tendency(self, state: Tensor, rho: Tensor) -> Tensor:
        """Time derivative of states `(3, ...)`, for rho broadcastable to one component."""
        x, y, z = state.unbind(0)
        return torch.stack([self.sigma * (y - x), x * (rho - z) - y, x * y - self.beta * z])

    def _flow(self, rho: Tensor) -> Tendency:
        rho = rho.to(self.clock.dtype)
        return lambda state: self.tendency(state, rho)


@dataclass(frozen=True)
class Lorenz96:
    """Weather on a ring of latitude, the standard test of data assimilation at any size: the grid is its sites.

    x_i' = (x_{i+1} - x_{i-2}) x_{i-1} - x_i + F, periodic (Lorenz 1996, equation 1); nondimensional, one time unit
    stands for 5 days. Each sample draws its F uniformly from `forcing`. Start: F plus standard normal numbers, carried
    over the warm-up to the attractor. Classical Runge-Kutta of order 4.
    Good values: 40 sites and F = 8 (chaotic, leading Lyapunov exponent 1.7; waves without chaos below F = 4);
    step 0.0125 (relative error 6e-7 per 0.05).
    Raises ConfigError where the range is not in order, or the grid has fewer than 4 sites.
    """

    name: ClassVar[str] = "lorenz_96"
    formula: ClassVar[str] = "x_i' = (x_{i+1} - x_{i-2}) x_{i-1} - x_i + F"
    boundary: ClassVar[str] = "periodic"
    symmetries: ClassVar[str] = "none"
    levels: ClassVar[Mapping[str, Mapping[str, Any]]] = {
        "low": {"forcing": (5.0, 5.0)},
        "medium": {"forcing": (8.0, 8.0)},
        "high": {"forcing": (16.0, 16.0)},
    }
    conserved: ClassVar[Mapping[str, float]] = {}

    forcing: Range = (8.0, 8.0)
    clock: Clock = Clock(frames=128, interval=0.05, step=0.0125, warm_up=400)

    def __post_init__(self) -> None:
        require_order(forcing=self.forcing)

    def variables(self) -> tuple[Variable, ...]:
        """State at time 0 and forcing (inputs), the ring over time (output)."""
        # Extremes grow with F: 15 at F = 8 and 27 at F = 16, over 2,000 time units.
        bound = 10.0 + 5.0 * max(abs(end) for end in self.forcing)
        return (
            Variable("initial", ("site",), "1", "x at time 0, on the attractor", "input", -bound, bound),
            Variable("forcing", (), "1", "forcing F", "input", *_rounded(self.forcing)),
            Variable("x", ("time", "site"), "1", "atmospheric quantity", "output", -bound, bound),
        )

    def coordinates(self, grid: int) -> dict[str, np.ndarray]:
        """Time from the end of the warm-up, and the number of each site. Raises ConfigError below 4 sites."""
        if grid < 4:
            raise ConfigError(f"grid={grid} is too small a ring: Lorenz96 needs at least 4 sites")
        return {"time": self.clock.times(), "site": np.arange(grid, dtype=np.float64)}

    def draw(self, seeds: Sequence[int], grid: int, device: torch.device | str = "cpu") -> Problem:
        """States after the warm-up `(batch, site)` and forcings `(batch,)`. Raises ConfigError below 4 sites."""
        self.coordinates(grid)
        forcing = linear(uniform(fold(seeds, 0), ()), self.forcing).to(device)
        state = normal(seeds, (grid,), dtype=torch.float64, device=device).T + forcing
        state = warmed(self._flow(forcing), state, self.clock)
        return Problem({"initial": state.T.contiguous()}, {"forcing": forcing})

    def solve(self, problem: Problem) -> dict[str, Tensor]:
        """Trajectories `(batch, time, site)`; differentiable in `initial` and in the forcing."""
        initial, forcing = problem.fields["initial"], problem.scalars["forcing"]
        x = trajectory(self._flow(forcing), initial.T, self.clock)
        return {"initial": initial, "forcing": forcing, "x": x.movedim(-1, 0).contiguous()}

    def residual(self, fields: Mapping[str, Tensor]) -> Tensor:
        """Defect of each frame after one interval of the integrator, per unit time, `(batch, time - 1, site)`."""
        values = fields["x"].permute(2, 0, 1)
        return step_defect(self._flow(fields["forcing"][:, None]), values, self.clock).permute(1, 2, 0)

    def invariants(self, fields: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """`mean` of x and `energy`, the mean of x^2 / 2, `(batch, time)`; (energy)' = F mean - 2 energy."""
        x = fields["x"]
        return {"mean": x.mean(-1), "energy": 0.5 * x.square().mean(-1)}

    def inner_description(self, grid: int) -> dict[str, object]:
        """Integrator and inner step."""
        return {"method": _METHOD, "step": self.clock.interval / self.clock.steps}

    def tendency(self, state: Tensor, forcing: Tensor) -> Tensor:
        """Time derivative of states `(site, ...)`, for a forcing broadcastable to one site."""
        ring = torch.cat([state[-2:], state, state[:1]])
        return (ring[3:] - ring[:-3]) * ring[1:-2] - state + forcing

    def _flow(self, forcing: Tensor) -> Tendency:
        forcing = forcing.to(self.clock.dtype)
        return lambda state: self.tendency(state, forcing)


def trajectory(tendency: Tendency, start: Tensor, clock: Clock) -> Tensor:
    """Frames `(frames, ...)` from `start`, the first; under autograd one state per frame is kept."""
    frames = [start.to(clock.dtype)]
    for _ in range(clock.frames - 1):
        frames.append(_carried(tendency, frames[-1], clock))
    return torch.stack(frames)


def warmed(tendency: Tendency, start: Tensor, clock: Clock) -> Tensor:
    """The state after the warm-up."""
    state = start.to(clock.dtype)
    for _ in range(clock.warm_up):
        state = _carried(tendency, state, clock)
    return state


def step_defect(tendency: Tendency, values: Tensor, clock: Clock) -> Tensor:
    """(next frame - frame carried one interval forward) / interval, frames along the last dim of `values`."""
    values = values.to(clock.dtype)
    carried = trajectory(tendency, values[..., :-1], replace(clock, frames=2))[1]
    return (values[..., 1:] - carried) / clock.interval


def _carried(tendency: Tendency, state: Tensor, clock: Clock) -> Tensor:
    if torch.is_grad_enabled():
        return checkpoint(_steps, tendency, state, clock, use_reentrant=False, preserve_rng_state=False)
    return _steps(tendency, state, clock)


def _steps(tendency: Tendency, state: Tensor, clock: Clock) -> Tensor:
    """Classical Runge-Kutta steps that fill one interval."""
    h = clock.interval / clock.steps
    for _ in range(clock.steps):
        k1 = tendency(state)
        k2 = tendency(torch.add(state, k1, alpha=0.5 * h))
        k3 = tendency(torch.add(state, k2, alpha=0.5 * h))
        k4 = tendency(torch.add(state, k3, alpha=h))
        state = torch.add(state, torch.add(k1 + k4, k2 + k3, alpha=2.0), alpha=h / 6.0)
    return state


def _rounded(ends: Range) -> Range:
    """A range that holds its ends after rounding to float32."""
    low, high = ends
    return min(low, float(np.float32(low))), max(high, float(np.float32(high)))
