"""What the part `ks` of the suite `forecast` trains, on which data, and for how long."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np

from pdediff.pdes import Clock, KuramotoSivashinsky
from pdediff.types import Positive, PositiveInt, Seed


@dataclass(frozen=True)
class KSSetting:
    """Ring and data: `train` trajectories of `frames` frames, `test` trajectories of `rollout` frames to forecast."""

    length: Positive = 32.0
    grid: PositiveInt = 64
    interval: Positive = 0.8
    step: Positive = 0.05
    train: PositiveInt = 512
    frames: PositiveInt = 35
    test: PositiveInt = 64
    rollout: PositiveInt = 160

    def pde(self, frames: int, step: float | None = None) -> KuramotoSivashinsky:
        """The equation on a ring of one length, with frames at one interval."""
        clock = Clock(frames, self.interval, self.step if step is None else step, warm_up=round(100 / self.interval))
        return KuramotoSivashinsky(self.length, 0.0, 0.0, clock=clock)

    @property
    def times(self) -> np.ndarray:
        """Times of the frames of a rollout."""
        return self.interval * np.arange(1, self.rollout + 1)


@dataclass(frozen=True)
class KSFit:
    """Every row trains for `seconds` of one thread with each of `seeds`."""

    seconds: Positive = 240.0
    seeds: tuple[Seed, ...] = (0, 1, 2)
    batch: PositiveInt = 64
    learning_rate: Positive = 2e-3


@dataclass(frozen=True)
class KSEnsemble:
    """`members` forecast the first `cases` of the test set to frame `lead`."""

    cases: PositiveInt = 16
    members: PositiveInt = 8
    lead: PositiveInt = 25


@dataclass(frozen=True)
class KSRun:
    """`rows` (name -> {forecaster, network}) on one set of data; the solver with inner `steps` makes rows too.

    The error of the row `baseline` in the top band is what the others are compared with.
    Good values: the defaults.
    """

    rows: dict[str, dict[str, str]] = field(default_factory=dict)
    baseline: str = "mse"
    setting: KSSetting = field(default_factory=KSSetting)
    fit: KSFit = field(default_factory=KSFit)
    ensemble: KSEnsemble = field(default_factory=KSEnsemble)
    steps: tuple[Positive, ...] = (0.4, 0.2, 0.1)
