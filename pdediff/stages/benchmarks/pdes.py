"""Suite `pdes`: our solvers against their peers, the making of whole data sets, and reading them."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import ClassVar, Literal

from pdediff.errors import ConfigError
from pdediff.stages.benchmarks.base import Goal, Measurement, Section
from pdediff.stages.benchmarks.darcy_contest import DarcySolves, darcy
from pdediff.stages.benchmarks.generation_contest import TrainingSet, reading, training_set, workers
from pdediff.stages.benchmarks.spectral_contest import GPURun, KolmogorovRun, KSRun, gpu, race
from pdediff.wording import nearest, show

Part = Literal["ks", "kolmogorov", "darcy", "training_set", "workers", "reading", "gpu"]

GOALS: dict[str, float] = {
    "ks_float32": 1.2,
    "ks_float64": 1.0,
    "ks_floor": 1.6,
    "kolmogorov_float32": 1.2,
    "kolmogorov_float64": 1.0,
    "kolmogorov_floor": 1.6,
    "darcy_ms": 12.0,
    "training_set_seconds": 120.0,
    "training_set_error": 5.5e-7,
    "workers": 1.8,
    "workers_contents": 1.0,
    "reading": 0.5,
}
AT_MOST = ("ks_floor", "kolmogorov_floor", "darcy_ms", "training_set_seconds", "training_set_error", "workers_contents")


@dataclass(frozen=True)
class PDEs:
    """Solvers of `parts` against exponax (JAX), SuperLU and PDEBench's explicit loop; then whole data sets.

    `goals` are the bars: against exponax, best batch against best batch (`ks_*`, `kolmogorov_*`); times the bare
    transforms (`*_floor`); ms per Darcy solve at the first tolerance on the largest grid; seconds and error of the
    training set; two workers over one, and how many different contents they made; reading over numpy. Part `gpu` is
    measured where the device is a GPU.
    Raises ConfigError for a goal that is none of these.
    """

    name: ClassVar[str] = "pdes"
    peers: ClassVar[Mapping[str, str]] = {"exponax": "exponax", "scipy": "", "pdebench": ""}

    parts: tuple[Part, ...] = ("ks", "kolmogorov", "darcy", "training_set", "workers", "reading", "gpu")
    ks: KSRun = field(default_factory=KSRun)
    kolmogorov: KolmogorovRun = field(default_factory=KolmogorovRun)
    darcy: DarcySolves = field(default_factory=DarcySolves)
    training_set: TrainingSet = field(default_factory=TrainingSet)
    gpu: GPURun = field(default_factory=GPURun)
    goals: dict[str, float] = field(default_factory=lambda: dict(GOALS))

    def __post_init__(self) -> None:
        for name in self.goals:
            if name not in GOALS:
                raise ConfigError(f"goals has no option {show(name)}", hint=nearest(name, GOALS))

    def measure(self, measurement: Measurement) -> Iterator[Section]:
        """The parts in order."""
        for part in self.parts:
            if part in ("ks", "kolmogorov"):
                yield from race(getattr(self, part), measurement, self._goal)
            elif part == "darcy":
                yield darcy(self.darcy, measurement, self._goal)
            elif part == "gpu":
                if measurement.runtime.torch_device == "cuda":
                    yield gpu((self.ks, self.kolmogorov), self.gpu, measurement)
            else:
                made = {"training_set": training_set, "workers": workers, "reading": reading}[part]
                yield made(self.training_set, measurement, self._goal)

    def _goal(self, name: str, reached: float) -> Goal | None:
        if name not in self.goals:
            return None
        return Goal(name, reached, self.goals[name], "at most" if name in AT_MOST else "at least")
