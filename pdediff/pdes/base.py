"""What every equation of pdediff offers: variables, problems, a solver, a residual and invariants."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, ClassVar, Literal, Protocol, runtime_checkable

import numpy as np
import torch
from torch import Tensor

from pdediff.types import NonNegativeInt, Positive, PositiveInt


@dataclass(frozen=True)
class Clock:
    """When frames are taken and how finely time is stepped, in the time units of the equation.

    `frames` are stored, `interval` apart, after `warm_up` intervals; inner steps are at most `step`. `precision` is
    that of the state inside the integrator; its coefficients are float64 always.
    """

    frames: PositiveInt
    interval: Positive
    step: Positive
    warm_up: NonNegativeInt = 0
    precision: Literal["float64", "float32"] = "float64"

    @property
    def dtype(self) -> torch.dtype:
        """The type of the state."""
        return torch.float64 if self.precision == "float64" else torch.float32

    @property
    def steps(self) -> int:
        """Equal inner steps in one interval."""
        return max(1, math.ceil(self.interval / self.step - 1e-9))

    def times(self) -> np.ndarray:
        """Time of every frame, from the end of the warm-up, `(frames,)`."""
        return self.interval * np.arange(self.frames)

    def halved(self) -> Clock:
        """The same frames at half the inner step."""
        return replace(self, step=0.5 * self.interval / self.steps)


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

    def to(self, device: torch.device | str) -> Problem:
        """The same problems on another device."""
        return Problem(
            {name: value.to(device) for name, value in self.fields.items()},
            {name: value.to(device) for name, value in self.scalars.items()},
        )

    def __len__(self) -> int:
        return len(next(iter({**self.fields, **self.scalars}.values())))

    def rows(self, start: int, stop: int) -> Problem:
        """The problems `start` to `stop` (exclusive)."""
        return Problem(
            {name: value[start:stop] for name, value in self.fields.items()},
            {name: value[start:stop] for name, value in self.scalars.items()},
        )


@runtime_checkable
class PDE(Protocol):
    """An equation: draws problems, solves them and judges solutions; for data generation and inverse problems.

    `boundary` starts with "periodic" where the domain is periodic in all directions. `symmetries` is "square" where
    the 8 flips and rotations of the square map solutions to solutions with every field moved as a scalar, else "none".
    `levels` names difficulty levels: what each changes of the arguments of the class. `conserved` names the invariants
    that are constant in time, with the largest drift max_t |I(t) - I(0)| / max(1, |I(0)|) of an accepted sample.
    `clock` is None for steady equations.
    """

    name: ClassVar[str]
    formula: ClassVar[str]
    boundary: ClassVar[str]
    symmetries: ClassVar[str]
    levels: ClassVar[Mapping[str, Mapping[str, Any]]]
    conserved: ClassVar[Mapping[str, float]]

    @property
    def clock(self) -> Clock | None:
        """Frames and inner steps."""
        ...

    def variables(self) -> tuple[Variable, ...]:
        """All stored variables, inputs first."""
        ...

    def coordinates(self, grid: int) -> dict[str, np.ndarray]:
        """Coordinate of every dim, float64, in physical units."""
        ...

    def draw(self, seeds: Sequence[int], grid: int, device: torch.device | str = "cpu") -> Problem:
        """One problem per seed, on `device`; row i depends on seed i alone."""
        ...

    def solve(self, problem: Problem) -> dict[str, Tensor]:
        """Every variable, inputs and scalars included; differentiable with respect to the inputs."""
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
    """For each sample the reason to reject it (not finite, out of bounds, a constant frame), or None."""
    return check_variables(pde.variables(), fields)


def check_variables(variables: Sequence[Variable], fields: Mapping[str, Tensor]) -> list[str | None]:
    """As `check`, for variables of any origin.

    Only outputs are checked for constant frames: a constant input is a legitimate draw of some priors.
    """
    reasons: list[str | None] = [None] * len(next(iter(fields.values())))
    for variable in variables:
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
    """Whether any frame of each row, past a first one in time, has no variation in space: flows may start from rest."""
    space = len([d for d in variable.dims if d != "time"])
    if variable.role != "output" or space == 0:
        return torch.zeros(len(values), dtype=torch.bool)
    if variable.dims[0] == "time" and values.shape[1] > 1:
        values = values[:, 1:]
    frames = values.reshape(len(values), -1, math.prod(values.shape[-space:]))
    return (frames.amax(-1) == frames.amin(-1)).any(1)
