"""What the part `assimilation` of the suite `forecast` reads, with which filters, and how its observer is trained."""

from __future__ import annotations

from dataclasses import dataclass, field

from pdediff.pdes import Clock, KuramotoSivashinsky
from pdediff.stages.benchmarks.forecast_ks_setting import KSFit
from pdediff.types import Fraction, Positive, PositiveInt


@dataclass(frozen=True)
class Readings:
    """A sensor at every `spacing`-th point of a ring, read at every frame; each reading is `missing` with that chance.

    Errors are `noise` times the root mean square of the field. In the harder case the share `blank` of the frames is
    not read at all.
    """

    spacing: PositiveInt = 4
    noise: Positive = 0.05
    missing: Fraction = 0.25
    blank: Fraction = 0.5


@dataclass(frozen=True)
class Series:
    """Trajectories: `train` of `frames` frames to learn from, some to choose by, some to be judged by.

    `cases` are the numbers of those to choose by and to be judged by; `times` the frames of the spin-up, those judged
    after it, and those of a forecast.
    """

    length: Positive = 22.0
    grid: PositiveInt = 64
    interval: Positive = 0.5
    step: Positive = 0.1
    train: PositiveInt = 512
    frames: PositiveInt = 40
    cases: tuple[PositiveInt, PositiveInt] = (3, 10)
    times: tuple[PositiveInt, PositiveInt, PositiveInt] = (40, 100, 10)

    @property
    def spin_up(self) -> int:
        """Frames that are not judged."""
        return self.times[0]

    @property
    def lead(self) -> int:
        """Frames of a forecast."""
        return self.times[2]

    @property
    def total(self) -> int:
        """Frames that are read."""
        return self.times[0] + self.times[1]

    def pde(self, frames: int) -> KuramotoSivashinsky:
        """The equation on a ring of one length, with frames at one interval."""
        clock = Clock(frames, self.interval, self.step, warm_up=round(100 / self.interval))
        return KuramotoSivashinsky(self.length, 0.0, 0.0, clock=clock)


@dataclass(frozen=True)
class Filters:
    """What is tried: shares of the climate's covariance as 3D-Var's background, inflations, ensemble sizes, radii.

    The ensemble at the observer's cost has the largest of `members` that does not take longer; the last is the
    reference, also as a smoother with `lag`. `few` members are run with each of `radii` and without; a radius beyond a
    quarter of the ring's cells tapers by what is no correlation, and the filter diverges.
    """

    backgrounds: tuple[Positive, ...] = (3e-4, 5e-4, 1e-3, 2e-3, 3e-3, 1e-2)
    inflations: tuple[Positive, ...] = (1.0, 1.01, 1.02, 1.05, 1.1)
    members: tuple[PositiveInt, ...] = (4, 6, 8, 12, 16, 24, 32, 48, 64, 96, 128)
    lag: PositiveInt = 8
    few: PositiveInt = 10
    radii: tuple[Positive, ...] = (8.0, 16.0)


@dataclass(frozen=True)
class AssimilationRun:
    """The filters of the package, with the solver as their model, beside an `observer` that knows only its data.

    Good values: the defaults.
    """

    observer: str = "semilinear_observer"
    network: str = "dilated_small"
    series: Series = field(default_factory=Series)
    readings: Readings = field(default_factory=Readings)
    filters: Filters = field(default_factory=Filters)
    fit: KSFit = field(default_factory=lambda: KSFit(180.0, (0,), 16, 3e-3))
