"""Rows of a semilinear equation on their way through time, and the adjoint of that way."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import torch
from torch import Tensor

from pdediff.pdes.base import Clock
from pdediff.pdes.etdrk import ETDRK, Order
from pdediff.pdes.modes import Modes, Semilinear

INTERVAL = "__interval__"
"""Name, among the parameters, of the time between frames of each row."""

STATES = 16
"""Spectra that the adjoint holds between the ends of a stretch of steps."""


@dataclass(frozen=True)
class Run:
    """What all rows have in common; `names` are those of the parameters."""

    equation: Semilinear
    clock: Clock
    names: tuple[str, ...]
    components: bool
    order: Order

    def tile(self, tensors: Sequence[Tensor]) -> Tile:
        """Rows from their initial states, box lengths and parameters."""
        initial, length, *values = tensors
        parameters = dict(zip(self.names, values, strict=True))
        modes = Modes(
            initial.shape[-1], initial.ndim - 1 - self.components, length, parameters, self.components, self.clock.dtype
        )
        interval: Tensor | float = modes.parameter(INTERVAL) if INTERVAL in parameters else self.clock.interval
        stepper = ETDRK(self.equation, modes, interval / self.clock.steps, self.order)
        return Tile(modes, stepper, modes.project(initial), self.clock.steps)


@dataclass(frozen=True)
class Tile:
    """Some rows: their modes, their steps of which `steps` make an interval, and their first spectrum."""

    modes: Modes
    stepper: ETDRK
    start: Tensor
    steps: int

    @property
    def tracked(self) -> bool:
        """Whether autograd follows anything that the frames depend on."""
        return self.stepper.depends_on_tracked(self.start)

    def spectra(self, times: Sequence[int]) -> Iterator[Tensor]:
        """Spectra at increasing multiples of the interval; each may be overwritten by the one after the next."""
        v = self.start
        for before, now in pairwise((0, *times)):
            v = self.stepper.advance(v, (now - before) * self.steps)
            yield v

    def fill(self, out: Tensor, times: Sequence[int]) -> None:
        """Write the frames to `out` `(batch, frames, ...)`, out of autograd's sight."""
        with torch.inference_mode():
            for frame, v in zip(out.unbind(1), self.spectra(times), strict=True):
                frame.copy_(self.modes.to_space(v))

    def stacked(self, times: Sequence[int]) -> Tensor:
        """The frames, every operation seen by autograd."""
        return torch.stack([self.modes.to_space(v) for v in self.spectra(times)], 1)


class Trajectory(torch.autograd.Function):
    """Frames `(batch, frames, ...)` of a tile, with the discrete adjoint of the integrator as derivative.

    One spectrum per interval is kept. The backward pass steps through each interval again and differentiates single
    steps, last first; it holds the intermediate values of one step and at most 16 spectra for each factor of 16 in the
    number of steps. Where it must be differentiable itself, autograd sees every operation.
    """

    @staticmethod
    def forward(ctx: Any, run: Run, tile: Tile, times: Sequence[int], *tensors: Tensor) -> Tensor:
        """Frames of the tile that was made of the tensors."""
        ctx.run, ctx.times = run, times
        states, frames, wanted = [], [], set(times)
        for time, v in enumerate(tile.spectra(range(times[-1] + 1))):
            states.append(v.clone())
            if time in wanted:
                frames.append(tile.modes.to_space(v))
        ctx.save_for_backward(*tensors, *states)
        return torch.stack(frames, 1)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        """Gradients with respect to initial states, lengths and parameters."""
        needed = ctx.needs_input_grad[3:]
        tensors, states = ctx.saved_tensors[: len(needed)], ctx.saved_tensors[len(needed) :]
        if torch.is_grad_enabled():
            inputs = [t for t, is_needed in zip(tensors, needed, strict=True) if is_needed]
            frames = ctx.run.tile(tensors).stacked(ctx.times)
            found = torch.autograd.grad(frames, inputs, gradients, create_graph=True, allow_unused=True)
        else:
            leaves = [t.detach().requires_grad_(n) for t, n in zip(tensors, needed, strict=True)]
            with torch.enable_grad():
                tile = ctx.run.tile(leaves)
            by_time = dict(zip(ctx.times, gradients[0].unbind(1), strict=True))
            found = _Adjoint(tile, [t for t in leaves if t.requires_grad]).pull(states, by_time)
        ordered = iter(found)
        return None, None, None, *(next(ordered) if n else None for n in needed)


class _Adjoint:
    """Gradients of one backward pass with respect to `leaves`, of which the tile is made."""

    def __init__(self, tile: Tile, leaves: Sequence[Tensor]) -> None:
        self._tile, self._leaves = tile, leaves
        # the kernels are leaves of each step of their own: what they are made of is differentiated once, at the end
        self._kernels = [k for k in tile.stepper.kernels if k.requires_grad]
        inner = [k.detach().requires_grad_(k.requires_grad) for k in tile.stepper.kernels]
        self._stepper = tile.stepper.with_kernels(inner)
        self._wanted = [k for k in inner if k.requires_grad] + list(leaves)
        self._totals: list[Tensor | None] = [None] * len(self._wanted)

    def pull(self, states: Sequence[Tensor], gradients: dict[int, Tensor]) -> list[Tensor | None]:
        """Gradients of the leaves from those of the frames, by their time."""
        last = len(states) - 1
        cotangent = torch.zeros_like(states[last])
        for time in range(last, -1, -1):
            if time in gradients:
                cotangent = cotangent + self._tile.modes.pull_back(gradients[time])
            if time:
                cotangent = self._back(states[time - 1], self._tile.steps, cotangent)
        kernels = [(k, g) for k, g in zip(self._kernels, self._totals, strict=False) if g is not None]
        sources = [(o, g) for o, g in [*kernels, (self._tile.start, cotangent)] if o.requires_grad]
        if sources:
            outputs, cotangents = zip(*sources, strict=True)
            found = torch.autograd.grad(outputs, self._leaves, cotangents, allow_unused=True)
            self._add(len(self._kernels), found)
        return self._totals[len(self._kernels) :]

    def _back(self, v: Tensor, steps: int, cotangent: Tensor) -> Tensor:
        """Cotangent of `v` from that of the spectrum `steps` later."""
        if steps == 1:
            with torch.enable_grad():
                start = v.detach().requires_grad_()
                end = self._stepper.advance(start, 1)
            # what the rate is made of is part of every step's graph
            found = torch.autograd.grad(
                end, [start, *self._wanted], cotangent, retain_graph=bool(self._wanted), allow_unused=True
            )
            self._add(0, found[1:])
            return torch.zeros_like(v) if found[0] is None else found[0]
        part = -(-steps // STATES)
        states = [v]
        for _ in range(part, steps, part):
            states.append(self._stepper.advance(states[-1], part).clone())
        for i in range(len(states) - 1, -1, -1):
            cotangent = self._back(states[i], min(part, steps - i * part), cotangent)
        return cotangent

    def _add(self, first: int, gradients: Sequence[Tensor | None]) -> None:
        for i, gradient in enumerate(gradients, first):
            if gradient is not None:
                total = self._totals[i]
                self._totals[i] = gradient if total is None else total + gradient
