"""The control problem of the part `control`: forced Burgers flow between walls, its data, its cost, its solver."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any, Literal

import torch
from torch import Tensor

from pdediff.models.wavelets import Wavelet
from pdediff.pdes import Clock
from pdediff.pdes.modes import Modes
from pdediff.pdes.self_advection import self_advection
from pdediff.pdes.spectral import evolve
from pdediff.types import NonNegativeInt, Positive, PositiveInt, uniform

Method = Literal["none", "optimal", "unet", "wdno"]


@dataclass(frozen=True)
class ForcedBurgers:
    """u_t + (u^2 / 2)_x = nu u_xx + w on a ring; the parameter `force` of a row is w at the points."""

    viscosity: Positive = 0.01

    def symbol(self, modes: Modes) -> Tensor:
        """-nu k^2."""
        return -self.viscosity * modes.squared

    def nonlinear(self, modes: Modes) -> Callable[[Tensor], Tensor]:
        """-(u^2 / 2)_x + w."""
        advect, force = self_advection(modes), modes.to_modes(modes.parameter("force").to(modes.dtype))
        return lambda v: advect(v) + force


@dataclass(frozen=True)
class ControlSetting:
    """u_t + u u_x = nu u_xx + w(t, x) on (0, 1), u = 0 at both walls; find w that takes u_0 to u_d at time T.

    J = mean_x (u(T) - u_d)^2 + `energy` mean_(t, x) w^2. w is constant over each of `frames` - 1 intervals, and linear
    between the `points` inner points x_i = i / (points + 1), as is u_0. Initial states, forces of the training data,
    nu, walls and targets that are final states of unseen trajectories are those of the released generator of Hu et al.
    2025 (WDNO); time 1 and the coarser grid are ours, as is `energy`.

    The walls are exact: the odd continuation of u and w to a ring of length 2 stays odd. It is solved there by ETDRK4
    on `fine` times the points, in steps of at most `step`.
    """

    points: PositiveInt = 32
    frames: PositiveInt = 32
    time: Positive = 1.0
    energy: Positive = 0.01
    equation: ForcedBurgers = ForcedBurgers()
    fine: PositiveInt = 4
    step: Positive = 3.3e-3

    @cached_property
    def _ring(self) -> tuple[Tensor, Tensor]:
        """Matrices (ring, points) from the inner points to the ring: with values 0 at the walls, and held constant."""
        cells = self.points + 1
        x = torch.arange(1, self.fine * cells, dtype=torch.float64) / self.fine
        hats = (1 - (x[:, None] - torch.arange(1, cells, dtype=torch.float64)).abs()).clamp(min=0)
        held = hats.clone()
        held[x < 1, 0], held[x > cells - 1, -1] = 1.0, 1.0
        wall = torch.zeros(1, self.points, dtype=torch.float64)
        return tuple(torch.cat([wall, m, wall, -m.flip(0)]) for m in (hats, held))  # type: ignore[return-value]

    def solve(self, start: Tensor, force: Tensor) -> Tensor:
        """States (batch, frames, points) from start (batch, points) and force (batch, frames - 1, points), float64."""
        from_state, from_force = (m.to(start) for m in self._ring)
        interval = self.time / (self.frames - 1)
        clock, length = Clock(2, interval, self.step), torch.full((1,), 2.0, dtype=torch.float64)
        state, out = start @ from_state.T, [start]
        for w in force.unbind(1):
            state = evolve(self.equation, state, length, clock, parameters={"force": w @ from_force.T})[:, 1]
            out.append(state[:, self.fine : self.fine * (self.points + 1) : self.fine])
        return torch.stack(out, 1)

    def draw(self, seeds: Sequence[int]) -> tuple[Tensor, Tensor]:
        """Initial states (batch, points) and forces (batch, frames - 1, points): sums of bumps, row i of seed i."""
        free = uniform(seeds, (6 + 8 * 6,))
        x = torch.arange(1, self.points + 1, dtype=torch.float64) / (self.points + 1)
        t = torch.arange(1, self.frames, dtype=torch.float64) / self.frames
        u = free[:, :6, None]
        right = 2 * u[:, 0] * _bump(x, 0.2 + 0.2 * u[:, 1], 0.05 + 0.1 * u[:, 2])
        left = (2 * u[:, 3] - 2) * _bump(x, 0.6 + 0.2 * u[:, 4], 0.05 + 0.1 * u[:, 5])
        amplitude, present, *places = free[:, 6:].reshape(-1, 8, 6).unbind(2)
        # the first bump is always there, each other one every second time
        present = torch.cat([torch.ones_like(present[:, :1]), (present[:, 1:] < 0.5).double()], 1)
        at_x, wide_x, at_t, wide_t = (p[..., None] for p in places)
        in_space, in_time = _bump(x, at_x, 0.1 + 0.3 * wide_x), 2 * _bump(t, at_t, 0.1 + 0.3 * wide_t)
        force = torch.einsum("bk,bkt,bkx->btx", present * (3 * amplitude - 1.5), in_time, in_space)
        return right + left, force

    def cost(self, end: Tensor, target: Tensor, force: Tensor) -> tuple[Tensor, Tensor]:
        """The two parts of J, (batch,) each: the mean square miss, and `energy` times the mean square of the force."""
        return (end - target).square().mean(1), self.energy * force.square().flatten(1).mean(1)


def _bump(x: Tensor, centre: Tensor, width: Tensor) -> Tensor:
    return torch.exp(-0.5 * ((x - centre) / width) ** 2)


@dataclass(frozen=True)
class ControlFit:
    """Both networks train for `seconds` of one thread on `train` trajectories; `valid` more calibrate the prior."""

    seconds: Positive = 60.0
    train: PositiveInt = 4096
    valid: PositiveInt = 512
    batch: PositiveInt = 32
    learning_rate: Positive = 2e-3
    seed: NonNegativeInt = 0


@dataclass(frozen=True)
class ControlSearch:
    """How a control is looked for: `iterations` of L-BFGS through a surrogate or the solver; of the prior `draws`,
    tilted by exp(-tilt (miss + thrift energy)), with the error `known` that the given start is allowed.

    Good values: thrift 1 where the prior is exact; a learned one gives way in its dynamics before the energy pays, and
    has the energies of its data in it already: 0.02.
    """

    iterations: PositiveInt = 40
    tilt: Positive = 1.8e4
    thrift: Positive = 0.02
    known: Positive = 0.02
    draws: PositiveInt = 32


@dataclass(frozen=True)
class ControlRun:
    """`methods` on `cases` problems; `network` names the U-Net of the surrogate and of the prior, `posterior` is the
    node of the one that conditions the prior.

    Good values: the defaults.
    """

    methods: tuple[Method, ...] = ("none", "optimal", "unet", "wdno")
    network: str = "unet"
    posterior: dict[str, Any] = field(default_factory=dict)
    cases: PositiveInt = 16
    setting: ControlSetting = field(default_factory=ControlSetting)
    fit: ControlFit = field(default_factory=ControlFit)
    search: ControlSearch = field(default_factory=ControlSearch)
    wavelet: Wavelet = field(default_factory=Wavelet)
