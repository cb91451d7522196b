"""The plan: what a sampler compiles to; a flat list of steps on named slots, as plain data."""

from __future__ import annotations

import hashlib
import itertools
import json
import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from functools import cached_property
from typing import TYPE_CHECKING, ClassVar, Protocol

from pdediff.errors import ConfigError
from pdediff.samplers.steps import Band, Eval, Kick, Lin, Step, step_of

if TYPE_CHECKING:
    from pdediff.samplers.field import Parameterisation

STATE = "x"
"""Slot that holds the start of a plan and, after its last step, the result."""


@dataclass(frozen=True)
class Plan:
    """Steps from level `levels[0]` to level `levels[-1]`, with float64 coefficients fixed in advance.

    A plan is hashed and stored as provenance, sent to workers as JSON, folded on fields by `run` and on the
    exact moments of a Gaussian prior by `response`. `inputs` are the slots that hold the start; only a plan that
    continues or inverts another needs more than the state. `ConfigError` if a step reads a slot that was not written
    or holds a number that is not finite.
    """

    steps: tuple[Step, ...]
    levels: tuple[float, ...]
    inputs: tuple[str, ...] = (STATE,)

    def __post_init__(self) -> None:
        known = set(self.inputs)
        for number, step in enumerate(self.steps):
            if not step.reads or not known.issuperset(step.reads):
                raise ConfigError(
                    f"plan step {number} reads {step.reads}, but only {sorted(known)} are written before it"
                )
            if not step.sound:
                raise ConfigError(f"plan step {number} has a number that is not finite or is negative: {step}")
            known.add(step.dst)

    @property
    def slots(self) -> tuple[str, ...]:
        """Names of all slots, in the order in which they are first written; the inputs come first."""
        return tuple(dict.fromkeys((*self.inputs, *(step.dst for step in self.steps))))

    @cached_property
    def reuses(self) -> tuple[bool, ...]:
        """Whether each step may write into the tensor that its slot holds: one of the fold's own, not read after it."""
        own, found = set(self.inputs), []
        for step in self.steps:
            later = step.reads[1:] if isinstance(step, Lin) else ()
            found.append(isinstance(step, Lin) and step.dst in own and step.dst not in later)
            # What a denoiser or a kernel returned may be its caller's.
            (own.add if isinstance(step, Lin) else own.discard)(step.dst)
        return tuple(found)

    @cached_property
    def evaluated(self) -> tuple[float, ...]:
        """Levels of the evaluations and kernels, in their order."""
        return tuple(step.level for step in self.steps if isinstance(step, (Eval, Kick)))

    @cached_property
    def kicks(self) -> bool:
        """Whether any step is a kernel."""
        return any(isinstance(step, Kick) for step in self.steps)

    @property
    def nfe(self) -> int:
        """Number of denoiser evaluations."""
        kicks = sum(step.evaluations for step in self.steps if isinstance(step, Kick))
        return kicks + sum(isinstance(step, Eval) for step in self.steps)

    @property
    def stochastic(self) -> bool:
        """Whether any step draws noise."""
        return any(
            isinstance(step, Kick)
            or (isinstance(step, Lin) and step.variance > 0.0)
            or (isinstance(step, Band) and step.noisy)
            for step in self.steps
        )

    def to_json(self) -> str:
        """Canonical JSON text; float64 numbers survive the round trip to the last bit."""
        steps = [{"op": type(step).__name__, **asdict(step)} for step in self.steps]
        told = {"inputs": self.inputs, "levels": self.levels, "steps": steps}
        return json.dumps(told, sort_keys=True, separators=(",", ":"))

    @classmethod
    def from_json(cls, text: str) -> Plan:
        """The plan that `to_json` wrote; `ConfigError` for any other text."""
        try:
            data = json.loads(text)
            levels = tuple(float(level) for level in data["levels"])
            return cls(tuple(map(step_of, data["steps"])), levels, tuple(data.get("inputs", (STATE,))))
        except (KeyError, TypeError, ValueError, AttributeError) as error:
            raise ConfigError(f"not the JSON of a plan: {error}") from error

    def digest(self) -> str:
        """First 12 hex digits of the SHA-256 of the canonical JSON: the identity of the plan."""
        return hashlib.sha256(self.to_json().encode()).hexdigest()[:12]


class Sampler(Protocol):
    """Frozen hyper-parameters that compile, for a grid of noise levels, to a plan."""

    source: ClassVar[str]
    """The paper whose method it is."""

    @property
    def evaluations(self) -> float:
        """Denoiser evaluations of one step, the first and last steps aside."""
        ...

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
