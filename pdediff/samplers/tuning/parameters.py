"""Tuning of the numbers in a sampler's fields: compensation ratios, intermediate points, scales."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, get_type_hints

import numpy as np
from pydantic import TypeAdapter, ValidationError

from pdediff.errors import ConfigError
from pdediff.samplers.plan import Plan, Sampler
from pdediff.samplers.tuning.engine import Descent, Tuned, told
from pdediff.samplers.tuning.pilots import Pilots


@dataclass(frozen=True)
class Fields:
    """A sampler on fixed levels with free numbers in the fields `names`: numbers or nested tuples of numbers.

    A number v becomes v + theta max(|v|, 0.1). `ConfigError` for a field that is not there or holds anything else.
    """

    sampler: Sampler
    levels: Sequence[float]
    names: tuple[str, ...]

    def __post_init__(self) -> None:
        known = sorted(set(told(self.sampler)) - {"kind"})
        for name in self.names:
            if name not in known:
                raise ConfigError(f"{type(self.sampler).__name__} has no field {name!r} to tune, only {known}")
            value = getattr(self.sampler, name)
            if not all(type(number) is float for number in _flat(value)):
                raise ConfigError(f"only fields of decimal numbers can be tuned, {name!r} is {value!r}")

    @property
    def size(self) -> int:
        """Number of free numbers."""
        return sum(1 for name in self.names for _ in _flat(getattr(self.sampler, name)))

    def moved(self, theta: np.ndarray) -> Any:
        """The sampler with these changes; `ConfigError` if its class or the types of its fields forbid them."""
        changes = iter(theta.tolist())
        values = {name: _move(getattr(self.sampler, name), changes) for name in self.names}
        hints = get_type_hints(type(self.sampler), include_extras=True)
        try:
            for name, value in values.items():
                TypeAdapter(hints[name]).validate_python(value)
        except ValidationError as error:
            raise ConfigError(f"{type(self.sampler).__name__} does not allow {values}") from error
        return dataclasses.replace(self.sampler, **values)  # type: ignore[type-var]

    def plan(self, theta: np.ndarray) -> Plan:
        """The plan of the moved sampler."""
        return self.moved(theta).plan(self.levels)


def fit(
    pilots: Pilots, sampler: Sampler, levels: Sequence[float], names: Sequence[str], *, budget: int = 4000
) -> Tuned:
    """The sampler with the numbers of the fields `names` tuned on fixed levels, for about `budget` evaluations.

    For compensation ratios (DC-Solver, Zhao et al. 2024, alg. 1), parallel points and weights (EPD-Solver, Zhu et al.
    2025) and scales such as `PC.s`: all at once against the end of the flow instead of one step after the other.
    `ConfigError` for a field that is not there or not of decimal numbers, and for a start that diverges.
    """
    family = Fields(sampler, tuple(levels), tuple(names))
    if family.size == 0:
        raise ConfigError(
            f"the fields {list(names)} of {type(sampler).__name__} hold no number to tune",
            hint="give the sampler the numbers to start from",
        )
    first = pilots.evaluations
    descent = Descent(pilots, family)
    descent.spend(budget - (pilots.evaluations - first))
    return descent.tuned(told(family.moved(descent.best[3])), pilots.evaluations - first)


def _flat(value: Any) -> Iterator[Any]:
    if isinstance(value, tuple):
        for entry in value:
            yield from _flat(entry)
    else:
        yield value


def _move(value: Any, changes: Iterator[float]) -> Any:
    if isinstance(value, tuple):
        return tuple(_move(entry, changes) for entry in value)
    return value + next(changes) * max(abs(value), 0.1)
