"""What a report is made from: plain arrays, rows and provenance, put together by the evaluation stage."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np

from pdediff.metrics.arrays import Draws, Grid, PerDraw, Vector
from pdediff.metrics.score import Geometry, Profile
from pdediff.metrics.spectra import Boundary
from pdediff.metrics.summary import Row


@dataclass(frozen=True)
class Phases:
    """Two-phase field: `threshold` separates the phases, values are compared for ranks in steps of `resolution`."""

    threshold: float
    resolution: float = 0.0


@dataclass(frozen=True)
class FieldInfo:
    """One field: dims in array order, a subset of (time, y, x); coordinates in `coordinate_units`; values in `units`.

    `phases` is for a two-phase field; `boundary` chooses the transform of the spectra.
    """

    name: str
    dims: tuple[str, ...]
    coordinates: Mapping[str, Vector]
    units: str = "1"
    long_name: str = ""
    boundary: Boundary = "bounded"
    phases: Phases | None = None
    coordinate_units: Mapping[str, str] = field(default_factory=dict)

    def __post_init__(self) -> None:
        missing = [d for d in self.dims if d not in self.coordinates]
        if missing or not self.dims:
            raise ValueError(f"field '{self.name}': no coordinate for dims {missing} of {self.dims}")
        if len(self.space) not in (1, 2):
            raise ValueError(f"field '{self.name}': 1 or 2 space dims expected besides time; got {self.dims}")

    @property
    def label(self) -> str:
        """Long name with units, for axes and colour bars."""
        return f"{self.long_name or self.name} [{self.units}]"

    @property
    def resolution(self) -> float:
        """Difference of values that ranks do not see; 0 for a field without phases."""
        return 0.0 if self.phases is None else self.phases.resolution

    @property
    def space(self) -> tuple[str, ...]:
        """Dims that are not time; of a series, which has no other, time."""
        return tuple(d for d in self.dims if d != "time") or self.dims

    @property
    def geometry(self) -> Geometry:
        """Domain sides as number of cells times spacing: right for cell centres and for periodic nodes."""
        return Geometry(tuple(_side(self.coordinates[d]) for d in self.space), self.boundary, self.resolution)


def _side(coordinate: np.ndarray) -> float:
    values = np.asarray(coordinate, dtype=np.float64)
    return float(abs(values[-1] - values[0]) * len(values) / (len(values) - 1)) if len(values) > 1 else 1.0


@dataclass(frozen=True)
class Sensors:
    """Observations of one field in one case: coordinate by dim, `(obs,)` each, values and std in the field's units."""

    field: str
    coordinates: Mapping[str, Vector]
    values: Vector
    std: Vector | None = None


@dataclass(frozen=True)
class Posterior:
    """Draws of one method in one case, `{field: (draw, *space)}`; for SMC the effective sample size at each level."""

    draws: Mapping[str, Draws]
    log_weights: PerDraw | None = None
    ess: Vector | None = None
    levels: Vector | None = None


@dataclass(frozen=True)
class Case:
    """A case to be drawn: its number, observations, posteriors by method, and the truth where it is known."""

    index: int
    sensors: Sequence[Sensors]
    posteriors: Mapping[str, Posterior]
    truth: Mapping[str, Grid] | None = None


@dataclass(frozen=True)
class Method:
    """A method of the table: `biased` says that it does not converge to the posterior, `note` why or with what."""

    name: str
    label: str = ""
    biased: bool = False
    baseline: bool = False
    note: str = ""

    @property
    def shown(self) -> str:
        """Label, or the name where there is none."""
        return self.label or self.name


@dataclass(frozen=True)
class ProfileRow:
    """Curves of one method on one field of one case."""

    method: str
    case: int
    field: str
    profile: Profile


@dataclass(frozen=True)
class Training:
    """Loss of the prior's training, and validation loss (per noise level, last entry) of the stored network."""

    steps: Vector
    loss: Vector
    valid_steps: Vector = field(default_factory=lambda: np.zeros(0))
    valid_loss: Vector = field(default_factory=lambda: np.zeros(0))
    levels: Vector = field(default_factory=lambda: np.zeros(0))
    level_loss: Vector = field(default_factory=lambda: np.zeros(0))


@dataclass(frozen=True)
class Provenance:
    """Where the numbers come from; `command` re-runs them, `hashes` name the inputs, `seconds` is the wall time.

    `counts` holds denoiser_calls, rejected and whatever else was counted.
    """

    id: str
    command: str
    config: Mapping[str, object] = field(default_factory=dict)
    versions: Mapping[str, str] = field(default_factory=dict)
    seeds: Mapping[str, int] = field(default_factory=dict)
    hashes: Mapping[str, str] = field(default_factory=dict)
    seconds: float = 0.0
    counts: Mapping[str, int] = field(default_factory=dict)


@dataclass(frozen=True)
class ReportData:
    """Everything in a report. `rows` and `profiles` cover all cases; `cases` only those to be drawn."""

    title: str
    provenance: Provenance
    fields: Sequence[FieldInfo]
    methods: Sequence[Method]
    rows: Sequence[Row]
    profiles: Sequence[ProfileRow] = ()
    cases: Sequence[Case] = ()
    training: Training | None = None

    def __post_init__(self) -> None:
        names = {m.name for m in self.methods}
        for kind, used in (
            ("rows", {r.method for r in self.rows}),
            ("profiles", {p.method for p in self.profiles}),
            ("cases", {name for c in self.cases for name in c.posteriors}),
        ):
            if used - names:
                raise ValueError(f"{kind} name methods {sorted(used - names)} that are not in methods {sorted(names)}")

    def field(self, name: str) -> FieldInfo:
        """The field of that name; KeyError if there is none."""
        return {f.name: f for f in self.fields}[name]

    def method(self, name: str) -> Method:
        """The method of that name; KeyError if there is none."""
        return {m.name: m for m in self.methods}[name]
