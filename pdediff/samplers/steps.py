"""The four steps of which every plan is made, as plain data."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

Span = tuple[float, float]
"""Stretch (from, to) of the clock of a Brownian path."""


@dataclass(frozen=True)
class Eval:
    """dst <- E[x0 | src at noise level `level`]: one evaluation of the denoiser."""

    dst: str
    src: str
    level: float

    @property
    def reads(self) -> tuple[str, ...]:
        """Slots it needs."""
        return (self.src,)

    @property
    def sound(self) -> bool:
        """Whether its numbers are finite and its level is not negative."""
        return math.isfinite(self.level) and self.level >= 0.0


@dataclass(frozen=True)
class Lin:
    """dst <- sum_j c_j slot_j + sqrt(variance) xi_key.

    xi_key is the noise of number `key`, drawn for each row from its own seed; two steps with one key share it,
    as a stochastic corrector must with its predictor. `span` is the stretch of the sampler's own Brownian clock that
    the noise stands for: run with `path=True`, xi is the path's increment over it, whatever the number of steps.
    """

    dst: str
    terms: tuple[tuple[str, float], ...]
    variance: float = 0.0
    key: int = 0
    span: Span | None = None

    @property
    def reads(self) -> tuple[str, ...]:
        """Slots it needs."""
        return tuple(name for name, _ in self.terms)

    @property
    def sound(self) -> bool:
        """Whether its numbers are finite and its variance is not negative."""
        return _sound((self.variance, *(c for _, c in self.terms)), self.variance, self.span)


@dataclass(frozen=True)
class Band:
    """`Lin` with numbers for each radial Fourier band: c_j[r] and variances[r] for the wave numbers round(|k|) = r.

    The last entry holds for all larger wave numbers; r counts periods per box. For spectral noise strengths and
    linear parts that come from an energy spectrum.
    """

    dst: str
    terms: tuple[tuple[str, tuple[float, ...]], ...]
    variances: tuple[float, ...]
    key: int = 0

    @property
    def reads(self) -> tuple[str, ...]:
        """Slots it needs."""
        return tuple(name for name, _ in self.terms)

    @property
    def noisy(self) -> bool:
        """Whether any band draws noise."""
        return any(variance > 0.0 for variance in self.variances)

    @property
    def sound(self) -> bool:
        """Whether all numbers are finite, no variance is negative and each term has a number for each band."""
        bands = len(self.variances)
        numbers = (*self.variances, *(c for _, cs in self.terms for c in cs))
        return bands > 0 and all(len(cs) == bands for _, cs in self.terms) and _sound(numbers, min(self.variances))


@dataclass(frozen=True)
class Kick:
    """slot <- kernel(slot), a Markov kernel that leaves the law at `level` as it is, found by its name when run.

    `numbers` are the kernel's own; it evaluates the denoiser `evaluations` times and may draw as many noises, of
    numbers key, key + 1, ...
    """

    slot: str
    level: float
    kernel: str
    numbers: tuple[float, ...] = ()
    evaluations: int = 1
    key: int = 0

    @property
    def dst(self) -> str:
        """The slot it changes."""
        return self.slot

    @property
    def reads(self) -> tuple[str, ...]:
        """Slots it needs."""
        return (self.slot,)

    @property
    def sound(self) -> bool:
        """Whether its numbers are finite and its level is positive."""
        return _sound((self.level, *self.numbers), self.level) and self.level > 0.0 and self.evaluations >= 0


Step = Eval | Lin | Band | Kick

KINDS: dict[str, type[Step]] = {kind.__name__: kind for kind in (Eval, Lin, Band, Kick)}


def step_of(entry: Mapping[str, Any]) -> Step:
    """The step that `asdict` and its class name ("op") told; ValueError, TypeError or KeyError for anything else."""
    values = {name: _frozen(value) for name, value in entry.items() if name != "op"}
    if entry["op"] not in KINDS:
        raise ValueError(f"unknown step {entry['op']!r}")
    return KINDS[entry["op"]](**values)


def _frozen(value: Any) -> Any:
    return tuple(map(_frozen, value)) if isinstance(value, list) else value


def _sound(numbers: tuple[float, ...], least: float, span: Span | None = None) -> bool:
    in_order = span is None or 0.0 < span[0] < span[1] < math.inf
    return all(map(math.isfinite, numbers)) and least >= 0.0 and in_order
