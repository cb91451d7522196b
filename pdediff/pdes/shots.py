"""Records of point sources at receivers: the forward model of full waveform inversion."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.utils.checkpoint import checkpoint

from pdediff.errors import ConfigError
from pdediff.pdes.acoustics import Acoustics, State
from pdediff.pdes.base import Clock
from pdediff.types import NonNegativeInt, Positive

# The wavelet is centred this many periods after time 0, where it is 4e-6 of its peak.
_DELAY = 1.2


@dataclass(frozen=True)
class Survey:
    """Shots fired one after the other and what the receivers hear: `gather` maps speeds to records.

    p_tt = c^2 (laplace p + r(t) delta(x - source)) on the unit square, at rest at time 0, waves leave through `layer`
    matched cells around it (`acoustics.Acoustics`); with layer 0 the edge reflects. r is the wavelet of Ricker (1953),
    (1 - 2 s) exp(-s) with s = (pi frequency (t - 1.2 / frequency))^2. `sources` and `receivers` are cells (y, x); the
    record starts at time 0 with `clock.frames` samples, `clock.interval` apart; all numbers are nondimensional.
    Swapping source and receiver changes nothing. `fastest` is an upper bound of the speeds.
    Good values: clock.step at most 0.5 cell / fastest; slowest / frequency at least 15 cells, the shortest wave being
    near a third of it; layer 12.
    Raises ConfigError where there is no source or receiver, or the clock warms up.
    """

    sources: tuple[tuple[int, int], ...]
    receivers: tuple[tuple[int, int], ...]
    frequency: Positive
    fastest: Positive
    clock: Clock
    layer: NonNegativeInt = 12

    def __post_init__(self) -> None:
        if not self.sources or not self.receivers:
            raise ConfigError("sources and receivers must each name at least one cell")
        if self.clock.warm_up:
            raise ConfigError(f"clock.warm_up={self.clock.warm_up} must be 0: the record starts at rest")

    def gather(self, speed: Tensor) -> Tensor:
        """Records `(batch, shot, time, receiver)` of speeds `(batch, y, x)`; differentiable in the speed.

        Under autograd one state every square root of the number of steps is kept, the others are recomputed.
        Raises ConfigError where a source or receiver is not on the grid, NumericalError where a speed is not positive
        or too large for the step.
        """
        grid = speed.shape[-1]
        for name, cells in (("sources", self.sources), ("receivers", self.receivers)):
            if not all(0 <= y < grid and 0 <= x < grid for y, x in cells):
                raise ConfigError(f"{name}={cells} must lie on the grid, 0 to {grid - 1}")
        acoustics = Acoustics(self._repeated(speed), self._step, self.layer, self.fastest, self.clock.dtype)
        still = torch.zeros_like(speed[:1]).expand(len(speed) * len(self.sources), -1, -1)
        state, records = acoustics.start(still), []
        frames = self.clock.frames
        span = max(1, round(math.sqrt(frames * self.clock.steps)) // self.clock.steps)
        for first in range(0, frames, span):
            count = min(span, frames - first)
            if torch.is_grad_enabled() and acoustics.squared.requires_grad:
                *parts, record = checkpoint(self._span, acoustics, state, first, count, use_reentrant=False)
            else:
                *parts, record = self._span(acoustics, state, first, count)
            state = State(*parts)
            records.append(record)
        return torch.cat(records, 1).unflatten(0, (len(speed), len(self.sources)))

    def wavelet(self, times: Tensor) -> Tensor:
        """r at some times."""
        s = (math.pi * self.frequency * (times - _DELAY / self.frequency)) ** 2
        return (1.0 - 2.0 * s) * torch.exp(-s)

    @property
    def _step(self) -> float:
        return self.clock.interval / self.clock.steps

    def _repeated(self, speed: Tensor) -> Tensor:
        """One row for each shot of each speed."""
        return speed.double().repeat_interleave(len(self.sources), 0)

    def _span(self, acoustics: Acoustics, state: State, first: int, count: int) -> tuple[Tensor, ...]:
        """The state `count` intervals after frame `first`, and what the receivers hear in between, frame by frame."""
        y, x = torch.tensor(self.receivers, device=state.p_x.device).T
        y_s, x_s = torch.tensor(self.sources, device=state.p_x.device).T.repeat(1, len(state.p_x) // len(self.sources))
        rows = torch.arange(len(state.p_x), device=state.p_x.device)
        place = (rows, y_s + acoustics.layer, x_s + acoustics.layer)
        grid = state.p_x.shape[-1] - 2 * acoustics.layer
        strength = self._step * grid**2 * acoustics.squared[place]
        heard = []
        for frame in range(first, first + count):
            heard.append(acoustics.pressure(state)[:, y, x])
            # the integral of the wavelet at the middles of the steps: p_t = c^2 (q delta - div v) with q_t = r
            middles = torch.arange(self.clock.steps, dtype=torch.float64) + 0.5
            late = frame * self.clock.interval + self._step * middles - _DELAY / self.frequency
            given = (late * torch.exp(-((math.pi * self.frequency * late) ** 2))).tolist()

            def source(p: Tensor, i: int, given: list[float] = given) -> Tensor:
                return p.index_put(place, (strength * given[i]).to(p), accumulate=True)

            state = acoustics.advance(state, self.clock.steps, source)
        return (*state, torch.stack(heard, 1))
