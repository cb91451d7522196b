"""Strong-stability-preserving time stepping for conservation laws, differentiable at the memory of one step."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from functools import cache

import torch
from torch import Tensor
from torch.utils.checkpoint import checkpoint

from pdediff.pdes.base import Clock

ForwardEuler = Callable[..., Tensor]
"""`(v, h, *statics)` to v + h L(v), limited where something has to stay positive."""

# Rows per tile are chosen so that the temporaries of a step stay in the cache of a processor.
TILE_NUMBERS = 32768


def ssprk3(advance: ForwardEuler, v: Tensor, h: float, *statics: Tensor) -> Tensor:
    """v one step `h` later, third order (Shu and Osher 1988, equation 2.18).

    A convex combination of Euler steps: what each of them keeps (sign, bounds) the whole step keeps.
    """
    a = advance(v, h, *statics)
    b = torch.lerp(v, advance(a, h, *statics), 0.25)
    return torch.lerp(v, advance(b, h, *statics), 2.0 / 3.0)


def evolve(
    advance: ForwardEuler, initial: Tensor, clock: Clock, *, statics: tuple[Tensor, ...] = (), warm: bool = False
) -> Tensor:
    """Frames `(batch, frames, ...)` from `initial`, the first, in the precision of the clock.

    `warm`: instead the state after the warm-up. `statics` are tensors `(batch, ...)` or `(1, ...)` that the steps read:
    parameters of each row, a topography. Under autograd one state per frame is kept; the backward pass recomputes the
    states of one frame and then the graph of one step at a time.
    """
    _keep_freed_memory()
    tiles = []
    for rows in _tiles(initial):
        v = initial[rows].to(clock.dtype)
        own = tuple(s[rows] if len(s) > 1 else s for s in statics)
        if warm:
            for _ in range(clock.warm_up):
                v = _interval(advance, clock, v, *own)
            tiles.append(v)
            continue
        frames = [v]
        for _ in range(clock.frames - 1):
            frames.append(_interval(advance, clock, frames[-1], *own))
        tiles.append(torch.stack(frames, 1))
    return torch.cat(tiles)


def step_residual(advance: ForwardEuler, values: Tensor, clock: Clock, *, statics: tuple[Tensor, ...] = ()) -> Tensor:
    """(next frame - frame carried one interval forward) / interval, `(batch, frames - 1, ...)`: what is left of v_t.

    Zero to rounding for a float64 solution, about 1e-7 |v| / interval for one stored in float32.
    """
    frames = values.shape[1]
    repeated = tuple(s.repeat_interleave(frames - 1, 0) if len(s) > 1 else s for s in statics)
    carried = evolve(advance, values[:, :-1].flatten(0, 1), replace(clock, frames=2), statics=repeated)[:, 1]
    return (values[:, 1:] - carried.reshape(values[:, 1:].shape)) / clock.interval


def _interval(advance: ForwardEuler, clock: Clock, v: Tensor, *statics: Tensor) -> Tensor:
    if torch.is_grad_enabled() and (v.requires_grad or any(s.requires_grad for s in statics)):
        return checkpoint(_steps, advance, clock, v, *statics, use_reentrant=False, preserve_rng_state=False)
    return _steps(advance, clock, v, *statics)


def _steps(advance: ForwardEuler, clock: Clock, v: Tensor, *statics: Tensor) -> Tensor:
    h = clock.interval / clock.steps
    for _ in range(clock.steps):
        if torch.is_grad_enabled() and v.requires_grad:
            v = checkpoint(ssprk3, advance, v, h, *statics, use_reentrant=False, preserve_rng_state=False)
        else:
            v = ssprk3(advance, v, h, *statics)
    return v


@cache
def _keep_freed_memory() -> None:
    """Stops glibc from giving the memory of every temporary back to the system: to fault it in again costs as much as
    the arithmetic. Its limits grow to the size of the largest block that was mapped and freed, up to 32 MiB.
    """
    torch.empty(31 * 2**20, dtype=torch.uint8)


def _tiles(initial: Tensor) -> list[slice]:
    """On a processor tiles that fit its cache, elsewhere all rows at once."""
    rows = len(initial)
    size = max(1, TILE_NUMBERS // initial[0].numel()) if initial.device.type == "cpu" else rows
    return [slice(start, start + size) for start in range(0, rows, size)]
