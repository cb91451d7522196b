"""Semilinear periodic equations v_t = L v + N(v): a batched spectral integrator, differentiable by autograd."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import replace
from itertools import pairwise
from types import MappingProxyType

import numpy as np
import torch
from torch import Tensor
from torch.autograd.forward_ad import unpack_dual

from pdediff.pdes.base import Clock
from pdediff.pdes.etdrk import ETDRK, Order
from pdediff.pdes.modes import Modes, Semilinear, keep_freed_memory, spare
from pdediff.pdes.trajectory import INTERVAL, Run, Trajectory

__all__ = ["ETDRK", "Modes", "Order", "Semilinear", "evolve", "spare", "step_residual"]

TILE_BYTES = {"cpu": 2**19}
"""Size of the values of one tile, by device: larger ones leave the cache, smaller ones pay for the calls."""

DEVICE_TILE_BYTES = 2**27
"""The same on devices not named above: enough to fill them, about 3 GB with all that a step needs."""


def evolve(
    equation: Semilinear,
    initial: Tensor,
    length: Tensor,
    clock: Clock,
    *,
    parameters: Mapping[str, Tensor] = MappingProxyType({}),
    components: bool = False,
    interval: Tensor | None = None,
    warm: bool = False,
    order: Order = 4,
) -> Tensor:
    """Frames `(batch, frames, [component,] *space)` from `initial` `(batch, [component,] *space)`, its live modes.

    With `warm` the state after the warm-up instead, `(batch, [component,] *space)`. `length` `(batch,)` or `(1,)` is
    the side of the box, `parameters` are numbers `(batch,)` or fields `(batch, *space)` that the equation reads,
    `interval` is the time between frames of each row (default: the clock's; the number of inner steps is the clock's
    always), `order` that of the scheme (Cox and Matthews 2002). Times and lengths in the units of the equation. Rows
    run in tiles that fit the cache.

    Differentiable in `initial`, `length`, `parameters` and `interval`: backwards by the adjoint, which keeps one
    spectrum per frame, forwards and under `torch.func` operation by operation.
    """
    parameters = dict(parameters)
    if interval is not None:
        parameters[INTERVAL] = interval
    rows = len(initial)
    if initial.ndim == 2 and rows == 1:  # a lone 1-D transform takes another path and rounds differently
        initial, length = initial.expand(2, -1), length.expand(2)
        parameters = {name: value.expand(2, *value.shape[1:]) for name, value in parameters.items()}
    names = tuple(parameters)
    tensors = (initial, length, *parameters.values())
    run = Run(equation, clock, names, components, order)
    times = [clock.warm_up] if warm else list(range(clock.frames))
    frames = _evolve(run, tensors, times)[:rows]
    return frames[:, 0] if warm else frames


def _evolve(run: Run, tensors: Sequence[Tensor], times: Sequence[int]) -> Tensor:
    """Frames at `times`, in the way that the caller's kind of differentiation asks for."""
    keep_freed_memory()
    initial = tensors[0]
    tiles = _tiles(initial, run.clock.dtype, run.components)
    if torch._C._are_functorch_transforms_active() or any(unpack_dual(t).tangent is not None for t in tensors):
        with torch.enable_grad():  # no arithmetic in place
            return torch.cat([run.tile(_rows(tensors, tile)).stacked(times) for tile in tiles])
    backwards = torch.is_grad_enabled() and any(t.requires_grad for t in tensors)
    out = _empty((len(initial), len(times), *initial.shape[1:]), run.clock, initial.device)
    recorded = []
    for part in tiles:
        rows = _rows(tensors, part)
        tile = run.tile([t.detach() for t in rows])
        if torch.is_grad_enabled() and tile.tracked:  # the equation itself holds what is differentiated
            recorded.append(run.tile(rows).stacked(times))
        elif backwards:
            recorded.append(Trajectory.apply(run, tile, times, *rows))
        else:
            tile.fill(out[part], times)
    return torch.cat(recorded) if recorded else out


def step_residual(
    equation: Semilinear,
    values: Tensor,
    length: Tensor,
    clock: Clock,
    *,
    parameters: Mapping[str, Tensor] = MappingProxyType({}),
    components: bool = False,
    interval: Tensor | None = None,
    order: Order = 4,
) -> Tensor:
    """(next frame - frame carried one interval forward) / interval, `(batch, frames - 1, ...)`: what is left of v_t.

    Zero to rounding for the solver's own output, about 1e-7 |v| / interval for one stored in float32.
    """
    batch, frames = values.shape[:2]
    repeated = {
        name: value.expand(batch, *value.shape[1:]).repeat_interleave(frames - 1, 0)
        for name, value in parameters.items()
    }
    times = torch.full_like(length, clock.interval) if interval is None else interval
    times = times.expand(batch).repeat_interleave(frames - 1)
    carried = evolve(
        equation,
        values[:, :-1].flatten(0, 1),
        length.expand(batch).repeat_interleave(frames - 1),
        replace(clock, frames=2),
        parameters=repeated,
        components=components,
        interval=None if interval is None else times,
        order=order,
    )[:, 1]
    defect = (values[:, 1:].flatten(0, 1) - carried) / times.reshape(-1, *[1] * (carried.ndim - 1))
    return defect.unflatten(0, (batch, frames - 1))


def _empty(shape: tuple[int, ...], clock: Clock, device: torch.device) -> Tensor:
    """Memory for frames; numpy's comes in huge pages, which take a third of the time to map."""
    if device.type != "cpu":
        return torch.empty(shape, dtype=clock.dtype, device=device)
    return torch.from_numpy(np.empty(shape, dtype=clock.precision))


def _rows(tensors: Sequence[Tensor], part: slice) -> list[Tensor]:
    return [t[part] if len(t) > 1 else t for t in tensors]


def _tiles(initial: Tensor, dtype: torch.dtype, components: bool) -> list[slice]:
    """Tiles of even sizes, so that none of several holds a lone row."""
    dims, rows = initial.ndim - 1 - components, len(initial)
    size = TILE_BYTES.get(initial.device.type, DEVICE_TILE_BYTES) // (math.prod(initial.shape[1:]) * dtype.itemsize)
    count = -(-rows // max(2 if dims == 1 else 1, size))
    bounds = [rows * i // count for i in range(count + 1)]
    return [slice(start, stop) for start, stop in pairwise(bounds)]
