"""What every equation of pdediff offers: variables, problems, a solver, a residual and invariants."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import ClassVar, Literal, Protocol, runtime_checkable

import numpy as np
import torch
from torch import Tensor


@dataclass(frozen=True)
class Variable:
    """One stored array of a sample: its dims in array order, units, role and the bounds checked at write.

    `dims` is empty for a number per sample. Bounds are inclusive and hold after rounding to float32.
    """

    name: str
    dims: tuple[str, ...]
    units: str
    long_name: str
    role: Literal["input", "output"]
    lower: float = -math.inf
    upper: float = math.inf


@dataclass(frozen=True)
class Problem:
    """A batch of problems: input fields `(batch, *space)` and parameters `(batch,)`, float64, by variable name."""

    fields: dict[str, Tensor]
    scalars: dict[str, Tensor] = field(default_factory=dict)

    def __len__(self) -> int:
        return len(next(iter(self.fields.values())))

    def rows(self, start: int, stop: int) -> Problem:
        """The problems `start` to `stop` (exclusive)."""
        return Problem(
            {name: value[start:stop] for name, value in self.fields.items()},
            {name: value[start:stop] for name, value in self.scalars.items()},
        )


@runtime_checkable
class PDE(Protocol):
    """An equation: draws problems, solves them and judges solutions; for data generation and inverse problems.

    `symmetries` is "square" where the 8 flips and rotations of the square map solutions to solutions with every
    field moved as a scalar, else "none".
    """

    name: ClassVar[str]
    formula: ClassVar[str]
    boundary: ClassVar[str]
    symmetries: ClassVar[str]

    def variables(self) -> tuple[Variable, ...]:
        """All stored variables, inputs first."""
        ...

    def coordinates(self, grid: int) -> dict[str, np.ndarray]:
        """Coordinate of every dim, float64, in physical units."""
        ...

    def draw(self, seeds: Sequence[int], grid: int) -> Problem:
        """One problem per seed; row i depends on seed i alone."""
        ...

    def solve(self, problem: Problem) -> dict[str, Tensor]:
        """Every variable, inputs and scalars included, float64; differentiable with respect to the inputs."""
        ...

    def residual(self, fields: Mapping[str, Tensor]) -> Tensor:
        """What the fields leave over in the discrete equation, `(batch, *pointwise)`, physical scaling."""
        ...

    def invariants(self, fields: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Conserved or monitored quantities, `(batch, ...)`."""
        ...

    def inner_description(self, grid: int) -> dict[str, object]:
        """Method, inner step and dealiasing, for the attributes of a data set."""
        ...


def check(pde: PDE, fields: Mapping[str, Tensor]) -> list[str | None]:
    """For each sample the reason to reject it (not finite, out of bounds, a constant frame), or None.

    Only outputs are checked for constant frames: a constant input is a legitimate draw of some priors.
    """
    reasons: list[str | None] = [None] * len(next(iter(fields.values())))
    for variable in pde.variables():
        rows = fields[variable.name].detach().flatten(1) if variable.dims else fields[variable.name].detach()[:, None]
        finite = torch.isfinite(rows).all(1)
        low, high = rows.amin(1), rows.amax(1)
        constant = _constant_frames(variable, fields[variable.name].detach())
        for i in range(len(rows)):
            if reasons[i] is not None:
                continue
            if not finite[i]:
                reasons[i] = f"{variable.name} is not finite"
            elif low[i] < variable.lower or high[i] > variable.upper:
                span = f"[{variable.lower:g}, {variable.upper:g}]"
                reasons[i] = f"{variable.name} spans [{low[i]:.4g}, {high[i]:.4g}], outside {span}"
            elif constant[i]:
                reasons[i] = f"{variable.name} has a constant frame"
    return reasons


def _constant_frames(variable: Variable, values: Tensor) -> Tensor:
    """Whether any frame of each row has no variation in space."""
    space = len([d for d in variable.dims if d != "time"])
    if variable.role != "output" or space == 0:
        return torch.zeros(len(values), dtype=torch.bool)
    frames = values.reshape(len(values), -1, math.prod(values.shape[-space:]))
    return (frames.amax(-1) == frames.amin(-1)).any(1)
