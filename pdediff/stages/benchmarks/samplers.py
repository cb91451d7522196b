"""Suite `samplers`: our plans against diffusers and azula, on priors whose probability flow is known."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, ClassVar, Literal

from pdediff import config as configs
from pdediff.errors import ConfigError, ConfigErrors
from pdediff.stages.benchmarks.base import Goal, Measurement, Section
from pdediff.stages.benchmarks.sampler_contest import FlowRun, accuracy
from pdediff.stages.benchmarks.sampler_overhead import OverheadRun, overhead
from pdediff.stages.benchmarks.sampler_priors import PowerLaw
from pdediff.wording import nearest, show

Part = Literal["rough", "smooth", "overhead"]

GOALS: dict[str, float] = {
    "rough_rule_20": 2.8e-4,
    "rough_rule_40": 2.7e-5,
    "rough_rule_80": 2.9e-6,
    "rough_tuned_20": 1.6e-4,
    "rough_tuned_40": 1.1e-5,
    "rough_tuned_80": 7.1e-7,
    "smooth_rule_20": 7.6e-4,
    "smooth_rule_40": 4.3e-5,
    "smooth_rule_80": 2.7e-6,
    "smooth_tuned_20": 3.2e-4,
    "smooth_tuned_40": 2.3e-5,
    "smooth_tuned_80": 1.1e-6,
    "smooth_rule_spectral_40": 0.01,
    "smooth_tuned_spectral_40": 0.01,
    **{f"{part}_diffusers_{n}": 2.0 for part in ("rough", "smooth") for n in (5, 10)},
    **{f"{part}_diffusers_{n}": 1.0 for part in ("rough", "smooth") for n in (20, 40, 80)},
    **{f"{part}_azula_{n}": 1.0 for part in ("rough", "smooth") for n in (5, 10, 20, 40, 80)},
    "overhead_us": 30.0,
}


@dataclass(frozen=True)
class Samplers:
    """Samplers `ours` (name -> node), their pilot grids and tuned plans, against every setting of the peers.

    Error and spectrum on two exact priors, then the cost of a step besides the model. `goals` are the bars: RMS errors
    at a number of evaluations by one rule (the default, half way to a pilot grid) and tuned, spectral errors, the best
    of a peer over the best of ours (`rough_diffusers_20`), and microseconds of a step.
    Raises ConfigError for a goal that is none of these, ConfigErrors for a sampler that cannot be built.
    """

    name: ClassVar[str] = "samplers"
    peers: ClassVar[Mapping[str, str]] = {"diffusers": "diffusers", "azula": "azula"}

    ours: dict[str, Any]
    parts: tuple[Part, ...] = ("rough", "smooth", "overhead")
    rough: PowerLaw = field(default_factory=lambda: PowerLaw(0.5, 0.3, 0.89))
    smooth: PowerLaw = field(default_factory=lambda: PowerLaw(1.5, 0.009, 0.93))
    flow: FlowRun = field(default_factory=FlowRun)
    overhead: OverheadRun = field(default_factory=OverheadRun)
    goals: dict[str, float] = field(default_factory=lambda: dict(GOALS))

    def __post_init__(self) -> None:
        for name in self.goals:
            if name not in GOALS:
                raise ConfigError(f"goals has no option {show(name)}", hint=nearest(name, GOALS))
        problems = [p for name, node in self.ours.items() for p in configs.check("sampler", node, f"ours.{name}")]
        for name in self.overhead.ours:
            if name not in self.ours:
                problems.append(
                    ConfigError(f"overhead.ours: {show(name)} is not in ours", hint=nearest(name, self.ours))
                )
        if problems:
            raise ConfigErrors(problems)

    def measure(self, measurement: Measurement) -> Iterator[Section]:
        """The parts in order."""
        for part in self.parts:
            if part == "overhead":
                ends = {"rho_max": self.flow.rho_max, "rho_min": self.flow.rho_min}
                yield overhead(self.overhead, ends, self.ours, measurement, self._goal)
            else:
                yield from accuracy(part, getattr(self, part), self.flow, self.ours, measurement, self._goal)

    def _goal(self, name: str, reached: float) -> Goal | None:
        if name not in self.goals:
            return None
        ratio = "diffusers" in name or "azula" in name
        return Goal(name, reached, self.goals[name], "at least" if ratio else "at most")
