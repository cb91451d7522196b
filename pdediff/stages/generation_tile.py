"""One tile of a data set: problems drawn, solved, checked, and drawn again where they fail."""

from __future__ import annotations

import time
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch

from pdediff.errors import NumericalError, ResourceError
from pdediff.pdes import PDE, check
from pdediff.pdes.accuracy import drift
from pdediff.store import Receipt
from pdediff.types import Purpose, derive, derive_many

ATTEMPTS = 3
"""How often a sample is drawn that fails its checks, each time from a seed of its own."""

Solved = tuple[dict[str, np.ndarray], list[str | None]]


@dataclass(frozen=True, eq=False)
class Tile:
    """Rows of one batch: fields by name, the seed and the number of attempts of each, why some are rejected."""

    fields: dict[str, np.ndarray]
    seeds: list[int]
    attempts: list[int]
    reasons: list[str | None]
    seconds: float
    """Of one row: those of the batch, attempts included, over its length."""


def solve_tile(pde: PDE, root: int, rows: Sequence[int], grid: int, device: str) -> Tile:
    """The samples `rows` of the set with root seed `root`; those that fail are drawn again, `ATTEMPTS` times in all."""
    begun = time.perf_counter()
    seeds = list(derive_many(root, Purpose.PROBLEM, rows))
    fields, reasons = solve(pde, seeds, grid, device)
    attempts = [1] * len(seeds)
    for attempt in range(1, ATTEMPTS):
        failed = [i for i, reason in enumerate(reasons) if reason is not None]
        if not failed:
            break
        for i in failed:
            seeds[i], attempts[i] = derive(root, Purpose.PROBLEM, rows[i], attempt), attempt + 1
        again, found = solve(pde, seeds, grid, device)  # the whole batch, so that its size never changes
        for i in failed:
            reasons[i] = found[i]
            for name in fields:
                fields[name][i] = again[name][i]
    return Tile(fields, seeds, attempts, reasons, (time.perf_counter() - begun) / len(seeds))


@torch.no_grad()
def solve(pde: PDE, seeds: Sequence[int], grid: int, device: str) -> Solved:
    """The solutions from `seeds` as arrays, and for each the reason to reject it or None.

    Raises ResourceError where the memory of the device does not hold the batch.
    """
    try:
        fields = pde.solve(pde.draw(seeds, grid, device))
        drifts = drift(pde, fields)
    except NumericalError as error:
        return _apart(pde, seeds, grid, device, error)
    except torch.OutOfMemoryError as error:
        raise ResourceError(
            f"a tile of {len(seeds)} samples on grid={grid} does not fit the memory of the device",
            hint=f"tile={max(1, len(seeds) // 2)}",
        ) from error
    kept = {name: values.cpu() for name, values in fields.items()}
    reasons = [found or drifted for found, drifted in zip(check(pde, kept), drifts, strict=True)]
    return {name: values.numpy().copy() for name, values in kept.items()}, reasons


def _apart(pde: PDE, seeds: Sequence[int], grid: int, device: str, error: NumericalError) -> Solved:
    """A solver that gives up a whole batch is asked for its halves, until the row is found that it cannot solve."""
    if len(seeds) == 1:
        sides = {name: len(values) for name, values in pde.coordinates(grid).items()}
        nothing = {v.name: np.full((1, *(sides[d] for d in v.dims)), np.nan) for v in pde.variables()}
        return nothing, [error.message]
    half = len(seeds) // 2
    (first, reasons), (second, others) = (solve(pde, part, grid, device) for part in (seeds[:half], seeds[half:]))
    return {name: np.concatenate([first[name], second[name]]) for name in first}, reasons + others


def duplicates(receipts: Mapping[int, Receipt], outputs: Iterable[str]) -> dict[int, int]:
    """Accepted samples whose outputs are those of an earlier one, bit for bit, with the number of the earlier one."""
    names, first, found = sorted(outputs), {}, {}
    for index in sorted(receipts):
        receipt = receipts[index]
        if receipt.status == "ok":
            earlier = first.setdefault(tuple(receipt.sha256[name] for name in names), index)
            if earlier != index:
                found[index] = earlier
    return found
