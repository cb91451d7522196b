"""The plan: what a sampler compiles to; a flat list of steps on named slots, as plain data."""

from __future__ import annotations

import hashlib
import itertools
import json
import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Protocol

from pdediff.errors import ConfigError

if TYPE_CHECKING:
    from pdediff.samplers.field import Parameterisation

STATE = "x"
"""Slot that holds the start of a plan and, after its last step, the result."""


@dataclass(frozen=True)
class Eval:
    """dst <- E[x0 | src at noise level `level`]: one evaluation of the denoiser."""

    dst: str
    src: str
    level: float


@dataclass(frozen=True)
class Lin:
    """dst <- sum_j c_j slot_j + sqrt(variance) xi_key.

    xi_key is the noise of number `key`, drawn for each row from its own seed; two steps with one key share it,
    as a stochastic corrector must with its predictor.
    """

    dst: str
    terms: tuple[tuple[str, float], ...]
    variance: float = 0.0
    key: int = 0


Step = Eval | Lin


@dataclass(frozen=True)
class Plan:
    """Steps from level `levels[0]` to level `levels[-1]`, with float64 coefficients fixed in advance.

    A plan is hashed and stored as provenance, sent to workers as JSON, folded on fields by `run` and on the
    exact moments of a Gaussian prior by `response`. `ConfigError` if a step reads a slot that was not written
    or holds a number that is not finite.
    """

    steps: tuple[Step, ...]
    levels: tuple[float, ...]

    def __post_init__(self) -> None:
        known = {STATE}
        for number, step in enumerate(self.steps):
            read = (step.src,) if isinstance(step, Eval) else tuple(name for name, _ in step.terms)
            if not read or not known.issuperset(read):
                raise ConfigError(f"plan step {number} reads {read}, but only {sorted(known)} are written before it")
            numbers = (step.level,) if isinstance(step, Eval) else (step.variance, *(c for _, c in step.terms))
            if not all(map(math.isfinite, numbers)) or numbers[0] < 0.0:
                raise ConfigError(f"plan step {number} has a number that is not finite or a negative level: {step}")
            known.add(step.dst)

    @property
    def slots(self) -> tuple[str, ...]:
        """Names of all slots, in the order in which they are first written; the state comes first."""
        return tuple(dict.fromkeys((STATE, *(step.dst for step in self.steps))))

    @property
    def nfe(self) -> int:
        """Number of denoiser evaluations."""
        return sum(isinstance(step, Eval) for step in self.steps)

    @property
    def stochastic(self) -> bool:
        """Whether any step draws noise."""
        return any(isinstance(step, Lin) and step.variance > 0.0 for step in self.steps)

    def to_json(self) -> str:
        """Canonical JSON text; float64 numbers survive the round trip to the last bit."""
        steps = [{"op": type(step).__name__, **asdict(step)} for step in self.steps]
        return json.dumps({"levels": self.levels, "steps": steps}, sort_keys=True, separators=(",", ":"))

    @classmethod
    def from_json(cls, text: str) -> Plan:
        """The plan that `to_json` wrote; `ConfigError` for any other text."""
        try:
            data = json.loads(text)
            steps = tuple(_step(dict(entry)) for entry in data["steps"])
            return cls(steps, tuple(float(level) for level in data["levels"]))
        except (KeyError, TypeError, ValueError) as error:
            raise ConfigError(f"not the JSON of a plan: {error}") from error

    def digest(self) -> str:
        """First 12 hex digits of the SHA-256 of the canonical JSON: the identity of the plan."""
        return hashlib.sha256(self.to_json().encode()).hexdigest()[:12]


class Sampler(Protocol):
    """Frozen hyper-parameters that compile, for a grid of noise levels, to a plan."""

    @property
    def order(self) -> int:
        """Evaluations a step combines; a grid needs at least as many steps."""
        ...

    @property
    def slope(self) -> int:
        """Promised power of 1/steps by which the error falls (weak error for a stochastic sampler)."""
        ...

    def plan(self, sigmas: Sequence[float]) -> Plan:
        """Plan along decreasing noise levels: n + 1 of them for n steps, only the last may be 0."""
        ...

    def grid(self, steps: int, sigma_max: float, sigma_min: float) -> list[float]:
        """Noise levels that suit this sampler when nothing is known of the prior."""
        ...

    def integrator(self, steps: int) -> tuple[Parameterisation, int]:
        """Parameterisation and predictor order used for this number of steps (what a pilot grid is made for)."""
        ...


def check_levels(sigmas: Sequence[float], order: int = 1) -> tuple[float, ...]:
    """The levels as float64 numbers; `ConfigError` unless decreasing, positive (the last may be 0), order <= steps."""
    levels = tuple(float(sigma) for sigma in sigmas)
    if len(levels) < 2 or not all(map(math.isfinite, levels)):
        raise ConfigError(f"a grid needs at least two finite noise levels, got {levels}")
    for i, (before, after) in enumerate(itertools.pairwise(levels)):
        if not 0.0 <= after < before:
            raise ConfigError(
                f"noise levels must decrease to a last one >= 0, got sigma[{i}]={before:g}, sigma[{i + 1}]={after:g}",
                hint="give the largest level first and each level once",
            )
    if len(levels) - 1 < order:
        raise ConfigError(
            f"order {order} needs at least {order} steps, got {len(levels) - 1}",
            hint="take more steps or a lower order",
        )
    return levels


def _step(entry: dict[str, object]) -> Step:
    kind = entry.pop("op")
    if kind == "Eval":
        return Eval(str(entry["dst"]), str(entry["src"]), float(entry["level"]))  # type: ignore[arg-type]
    if kind != "Lin":
        raise ValueError(f"unknown step {kind!r}")
    terms = tuple((str(name), float(c)) for name, c in entry["terms"])  # type: ignore[attr-defined]
    return Lin(str(entry["dst"]), terms, float(entry["variance"]), int(entry["key"]))  # type: ignore[arg-type, call-overload]
