"""Suite `posterior`: every method of posterior sampling against exact answers, at one cost."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any, ClassVar, Literal

from pdediff import config as configs
from pdediff.errors import ConfigError, ConfigErrors
from pdediff.stages.benchmarks.base import Goal, Measurement, Section
from pdediff.stages.benchmarks.posterior_bar import BarRun, row_nodes
from pdediff.stages.benchmarks.posterior_bar import bar as measure_bar
from pdediff.stages.benchmarks.posterior_fields import FieldRun
from pdediff.stages.benchmarks.posterior_fields import fields as measure_fields
from pdediff.stages.benchmarks.posterior_flow import FLOW_GOALS
from pdediff.stages.benchmarks.posterior_flow import flow as measure_flow
from pdediff.stages.benchmarks.posterior_learned import LEARNED_GOALS, LearnedRun
from pdediff.stages.benchmarks.posterior_learned import learned as measure_learned
from pdediff.stages.benchmarks.posterior_nonlinear import NONLINEAR_GOALS, NonlinearRun
from pdediff.stages.benchmarks.posterior_nonlinear import nonlinear as measure_nonlinear
from pdediff.stages.benchmarks.posterior_tuning import Tuned, with_option
from pdediff.wording import nearest, show

Part = Literal["mixture", "gaussian", "poisson", "helmholtz", "learned", "nonlinear", "flow"]

SOLVER: dict[str, Any] = {"kind": "DDIM", "eta": 1.0}

FIELD_GOALS = ("fields_draw", "fields_mean", "fields_spread", "fields_calls", "fields_vjps")


@dataclass(frozen=True)
class Posteriors:
    """Posteriors `methods` (name -> node), and `guidances` each under `SOLVER`, against exact answers.

    `bar`: parts `mixture`, with its law there, and `gaussian`, the same with one component; `fields`: parts `poisson`
    and `helmholtz`. Goals: `<part>_<row>` for the distance SW2, `<part>_<row>_mode_tv`, `<part>_<row>_evidence` for
    |Z ratio - 1| in its standard errors; for the default posterior on fields the ratios `fields_draw` and `fields_mean`
    of its errors to the Bayes-optimal ones, `fields_spread` for |spread ratio - 1|, `fields_calls` and `fields_vjps`;
    part `learned`: `learned_draw` and `learned_mean`, percentage points above them with a trained prior, and the cost;
    part `nonlinear`: `nonlinear_r_hat` of the reference, and of the default `nonlinear_bias`, `nonlinear_spread` and
    `nonlinear_solves` of the equation, an adjoint one as two; part `flow`: `flow_solves` and `flow_error` of the
    default over those of EnKG.
    Raises ConfigError for a goal or a tuned option of no row, ConfigErrors for a node that cannot be built.
    """

    name: ClassVar[str] = "posterior"
    peers: ClassVar[Mapping[str, str]] = {}

    methods: dict[str, Any]
    guidances: dict[str, Any] = field(default_factory=dict)
    parts: tuple[Part, ...] = ("mixture", "gaussian", "poisson", "helmholtz")
    bar: BarRun = field(default_factory=BarRun)
    fields: FieldRun = field(default_factory=FieldRun)
    learned: LearnedRun = field(default_factory=LearnedRun)
    nonlinear: NonlinearRun = field(default_factory=NonlinearRun)
    goals: dict[str, float] = field(default_factory=dict)

    def __post_init__(self) -> None:
        problems = [p for n, node in self.methods.items() for p in configs.check("posterior", node, f"methods.{n}")]
        problems += [p for n, node in self.guidances.items() for p in configs.check("guidance", node, f"guidances.{n}")]
        problems += self.nonlinear.check()
        if problems:
            raise ConfigErrors(problems)
        self._check_tuned("bar.tuning.options", self.bar.tuning.options)
        self._check_tuned("fields.tuned", self.fields.tuned)
        self._check_tuned("learned.run.tuned", self.learned.run.tuned)
        self._check_tuned("nonlinear.tuned", self.nonlinear.tuned)
        asked = {"fields": self.fields.rows, "learned.run": self.learned.run.rows, "nonlinear": self.nonlinear.rows}
        asked["nonlinear.flow"] = self.nonlinear.flow.rows
        for where, wanted in asked.items():
            for row in wanted:
                if row not in self.rows:
                    raise ConfigError(f"{where}.rows: {show(row)} is no row", hint=nearest(row, self.rows))
        rows = [f"{part}_{row}" for part in ("mixture", "gaussian") for row in self.rows]
        known = [*FIELD_GOALS, *LEARNED_GOALS, *NONLINEAR_GOALS, *FLOW_GOALS, *rows]
        known += [f"{row}{ending}" for row in rows for ending in ("_mode_tv", "_evidence")]
        for name in self.goals:
            if name not in known:
                raise ConfigError(f"goals has no option {show(name)}", hint=nearest(name, known))

    def _check_tuned(self, where: str, tuned: Mapping[str, Tuned]) -> None:
        for row, options in tuned.items():
            if row not in self.rows:
                raise ConfigError(f"{where}: {show(row)} is no row", hint=nearest(row, self.rows))
            for path, values in options.items():
                with_option(self.rows[row], path, values[0])

    @cached_property
    def rows(self) -> dict[str, dict[str, Any]]:
        """Nodes of posteriors by row."""
        return row_nodes(self.methods, self.guidances, SOLVER)

    def measure(self, measurement: Measurement) -> Iterator[Section]:
        """The parts in order."""
        with measurement.runtime.open():
            for part in self.parts:
                if part == "flow":
                    yield from measure_flow(self.rows, self.nonlinear.flow, measurement, self._goal)
                elif part == "learned":
                    yield from measure_learned(self.rows, self.learned, measurement, self._goal)
                elif part == "nonlinear":
                    yield from measure_nonlinear(self.rows, self.nonlinear, measurement, self._goal)
                elif part in ("poisson", "helmholtz"):
                    yield from measure_fields(part, self.rows, self.fields, measurement, self._goal)
                else:
                    yield from measure_bar(part, self.rows, self.bar, measurement, self._goal)

    def _goal(self, name: str, reached: float) -> Goal | None:
        return Goal(name, reached, self.goals[name], "at most") if name in self.goals else None
