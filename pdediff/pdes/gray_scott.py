"""The Gray-Scott reaction-diffusion system in two dimensions: patterns whose rates are to be recovered."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, Literal

import numpy as np
import torch
from torch import Tensor

from pdediff.errors import ConfigError
from pdediff.pdes import spectral
from pdediff.pdes.base import Clock, Problem, Variable
from pdediff.pdes.ranges import linear
from pdediff.types import Fraction, Positive, uniform

Regime = Literal["gliders", "bubbles", "maze", "worms", "spirals", "spots"]

REGIMES: Mapping[Regime, tuple[float, float]] = {
    "gliders": (0.014, 0.054),
    "bubbles": (0.098, 0.057),
    "maze": (0.029, 0.057),
    "worms": (0.058, 0.065),
    "spirals": (0.018, 0.051),
    "spots": (0.030, 0.062),
}
"""Feed and kill rates (F, k) of the patterns, those of gray_scott_reaction_diffusion in The Well."""

# Bumps of a start, those of The Well: how many per unit area, their heights, and the factor s of exp(-s r^2).
_DENSITY = (2.5, 25.0)
_HEIGHT = (1.0, 3.0)
_SHARPNESS = (150.0, 300.0)


@dataclass(frozen=True)
class GrayScott:
    """Two chemicals that feed, react and spread into spots, worms and spirals; for recovery of the rates F and k.

    a_t = D_a laplace a - a b^2 + F (1 - a), b_t = D_b laplace b + a b^2 - (F + k) b, periodic on (-length / 2,
    length / 2)^2, nondimensional (Gray and Scott 1984; Pearson 1993). Each sample draws one of `regimes`, whose (F, k)
    are each multiplied by U[1 - spread, 1 + spread] and stored. Start: a = exp(-g), b = 1 - exp(-g'), carried over the
    warm-up; g and g' are sums of 2.5 to 25 Gaussian bumps per unit area, of random place, height 1 to 3 and standard
    deviation 0.04 to 0.06. Fourier, ETDRK4 with diffusion and decay exact; the cubic product is filtered by the 2/3
    rule, which frees it of aliases only where its spectrum has decayed by |m| = n / 3.
    Good values: 128 points per unit length (64 leave 1e-2 of the energy in the tail); step 1 from a warm-up of 50 on,
    0.5 before. A spread of 0.1 mixes neighbouring patterns. Raises ConfigError where no regime is named.
    """

    name: ClassVar[str] = "gray_scott"
    formula: ClassVar[str] = "a_t = D_a laplace a - a b^2 + F (1 - a), b_t = D_b laplace b + a b^2 - (F + k) b"
    boundary: ClassVar[str] = "periodic"
    symmetries: ClassVar[str] = "square"
    levels: ClassVar[Mapping[str, Mapping[str, Any]]] = {}
    conserved: ClassVar[Mapping[str, float]] = {}

    regimes: tuple[Regime, ...] = tuple(REGIMES)
    spread: Fraction = 0.0
    diffusivity: tuple[Positive, Positive] = (2e-5, 1e-5)
    length: Positive = 1.0
    clock: Clock = Clock(frames=101, interval=50.0, step=1.0, warm_up=1)

    def __post_init__(self) -> None:
        if not self.regimes:
            raise ConfigError(f"regimes=[] must name one or more of {', '.join(REGIMES)}")

    def variables(self) -> tuple[Variable, ...]:
        """Concentrations at time 0, feed and kill rates (inputs), both concentrations over time (outputs)."""
        space, low, high = ("y", "x"), -0.05, 1.5
        return (
            Variable("initial_a", space, "1", "concentration of a at time 0", "input", low, high),
            Variable("initial_b", space, "1", "concentration of b at time 0", "input", low, high),
            Variable("feed", (), "1", "feed rate F", "input", 0.0),
            Variable("kill", (), "1", "kill rate k", "input", 0.0),
            Variable("a", ("time", *space), "1", "concentration of the fed chemical", "output", low, high),
            Variable("b", ("time", *space), "1", "concentration of the one that consumes it", "output", low, high),
        )

    def coordinates(self, grid: int) -> dict[str, np.ndarray]:
        """Time from the end of the warm-up, points of the box."""
        points = self.length * (np.arange(grid) / grid - 0.5)
        return {"time": self.clock.times(), "y": points, "x": points.copy()}

    def draw(self, seeds: Sequence[int], grid: int, device: torch.device | str = "cpu") -> Problem:
        """Concentrations after the warm-up `(batch, y, x)` and rates `(batch,)`."""
        most = max(1, round(_DENSITY[1] * self.length**2))
        numbers = uniform(seeds, (3 + 2 * (1 + 4 * most),))
        rates = torch.tensor([REGIMES[name] for name in self.regimes], dtype=torch.float64)
        chosen = rates[(numbers[:, 0] * len(rates)).long()] * (1.0 + self.spread * (2.0 * numbers[:, 1:3] - 1.0))
        feed, kill = chosen.to(device).unbind(1)
        bumps = numbers[:, 3:].unflatten(1, (2, -1)).flatten(0, 1)
        eaten, grown = _bumps(bumps, grid, self.length).unflatten(0, (-1, 2)).unbind(1)
        start = torch.stack([torch.exp(-eaten), -torch.expm1(-grown)], 1).to(device)
        start = self._evolve(start, feed, kill, warm=True)
        return Problem({"initial_a": start[:, 0], "initial_b": start[:, 1]}, {"feed": feed, "kill": kill})

    def solve(self, problem: Problem) -> dict[str, Tensor]:
        """Both concentrations `(batch, time, y, x)` from their first frames; differentiable in all inputs."""
        fields = {**problem.fields, **problem.scalars}
        start = torch.stack([fields["initial_a"], fields["initial_b"]], 1)
        a, b = self._evolve(start, fields["feed"], fields["kill"]).unbind(2)
        return {**fields, "a": a, "b": b}

    def residual(self, fields: Mapping[str, Tensor]) -> Tensor:
        """Defect of each frame after one interval, per unit time, a then b, `(batch, time - 1, 2, y, x)`."""
        values = torch.stack([fields["a"], fields["b"]], 2)
        rates = {"feed": fields["feed"], "kill": fields["kill"]}
        return spectral.step_residual(self, values, self._box(values), self.clock, parameters=rates, components=True)

    def invariants(self, fields: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """`mean_a` and `mean_b`, `(batch, time)`; nothing is conserved."""
        return {"mean_a": fields["a"].mean((-2, -1)), "mean_b": fields["b"].mean((-2, -1))}

    def inner_description(self, grid: int) -> dict[str, object]:
        """Integrator, inner step and dealiasing."""
        return {
            "method": "Fourier pseudo-spectral, ETDRK4",
            "step": self.clock.interval / self.clock.steps,
            "dealiasing": "2/3 rule, cubic product not free of aliases",
        }

    def symbol(self, modes: spectral.Modes) -> Tensor:
        """-D_a k^2 - F and -D_b k^2 - (F + k)."""
        feed, kill = modes.parameter("feed"), modes.parameter("kill")
        d_a, d_b = self.diffusivity
        return torch.cat([-d_a * modes.squared - feed, -d_b * modes.squared - feed - kill], 1)

    def nonlinear(self, modes: spectral.Modes) -> Callable[[Tensor], Tensor]:
        """F - a b^2 and a b^2."""
        constant = torch.zeros((2, *modes.live.shape), dtype=torch.complex128, device=modes.squared.device)
        constant[0, 0, 0] = 1.0
        source = modes.cast(modes.parameter("feed") * constant)
        signs = modes.cast(torch.tensor([-1.0, 1.0], device=source.device, dtype=torch.complex128).reshape(2, 1, 1))

        def react(v: Tensor) -> Tensor:
            a, b = modes.to_space(v).unbind(1)
            eaten = modes.to_modes(torch.mul(a * b, b, out=spectral.spare(b)))
            return torch.addcmul(source, signs, eaten.unsqueeze(1))

        return react

    def _box(self, like: Tensor) -> Tensor:
        return torch.full((1,), self.length, dtype=torch.float64, device=like.device)

    def _evolve(self, start: Tensor, feed: Tensor, kill: Tensor, warm: bool = False) -> Tensor:
        rates = {"feed": feed, "kill": kill}
        return spectral.evolve(self, start, self._box(start), self.clock, parameters=rates, components=True, warm=warm)


def _bumps(numbers: Tensor, grid: int, length: float) -> Tensor:
    """Sums of periodic Gaussian bumps, `(rows, grid, grid)`, from uniform `numbers` `(rows, 1 + 4 most)`."""
    most = (numbers.shape[1] - 1) // 4
    fewest = max(1, round(_DENSITY[0] * length**2))
    count = fewest + (numbers[:, :1] * (most - fewest + 1)).long()
    x, y, height, sharpness = numbers[:, 1:].unflatten(1, (4, most)).unbind(1)
    height = torch.where(torch.arange(most) < count, linear(height, _HEIGHT), 0.0)
    width = linear(sharpness, _SHARPNESS).rsqrt() / length
    # a bump is the product of its profiles along y and x: matrix products instead of a sum over planes
    along_x, along_y = (_profile(centre, width, grid) for centre in (x, y))
    return (height[..., None] * along_y).transpose(1, 2) @ along_x


def _profile(centre: Tensor, width: Tensor, grid: int) -> Tensor:
    """exp(-(r / width)^2) with r the distance to the nearest image of the centre on the unit ring, `(..., grid)`."""
    r = torch.arange(grid, dtype=torch.float64) / grid - centre[..., None]
    return torch.exp(-((r - torch.round(r)) / width[..., None]).square())
