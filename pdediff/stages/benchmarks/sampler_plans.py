"""Our side of suite `samplers`: plans of configured samplers, on their own and on pilot grids, and tuned plans."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
import torch
from torch import Tensor

from pdediff import config as configs
from pdediff.diffusion import Denoiser, DiagonalCovariance, ShapedByMean, WhiteNoise
from pdediff.samplers import PC, Default, Plan, Sampler, pilot_grid, run, tuning
from pdediff.stages.benchmarks.sampler_priors import Mixture, outcome, problem
from pdediff.types import Field, Levels, Purpose, derive_many

Planner = Callable[[int], Plan | None]
"""The plan with at most so many evaluations; None where there is none."""

DEFAULT, TUNED = "default, pilot and own grid", "tuned"


class MixturePrior(ShapedByMean):
    """A mixture as a prior with fields (1, dimension), under white noise."""

    noise = WhiteNoise()

    def __init__(self, of: Mixture) -> None:
        self._of = of
        self.mean = (of.weights @ of.means)[None]
        self._variance = of.variance + of.weights @ (of.means - self.mean) ** 2

    @property
    def s(self) -> float:
        """Standard deviation of the data."""
        return math.sqrt(float(self._variance.mean()))

    def __call__(self, x: Field, sigma: Levels) -> Field:
        """E[x0 | x]; all rows of a batch are at one level here."""
        return self._of.denoise(x.flatten(1), float(sigma[0])).reshape(x.shape)

    def error_scale(self, denoised: Field, sigma: float) -> None:
        """None: the error of the level is used."""
        return

    def error(self, sigma: float) -> DiagonalCovariance:
        """Variance of the prior, and of what its Gaussian fit leaves below infinity."""
        left = self._variance if math.isinf(sigma) else self._variance * sigma**2 / (self._variance + sigma**2)
        return DiagonalCovariance(left.reshape(self.shape))


@dataclass(frozen=True)
class Pilots:
    """Levels between which plans run, and the noises of pilot grids; `tune` has its own."""

    rho_max: float
    rho_min: float
    rows: int

    @property
    def seeds(self) -> tuple[int, ...]:
        """Others than those of the measured noises, which come from another generator."""
        return derive_many(0, Purpose.PILOT, range(self.rows))


def planner(settings: Mapping[str, Any], prior: MixturePrior) -> Planner:
    """The planner of row `row`: one of `ROWS`, else that configured sampler on its own grid."""
    pilots = Pilots(settings["rho_max"], settings["rho_min"], settings["pilots"])
    if settings["row"] in ROWS:
        return partial(ROWS[settings["row"]], prior, pilots, prior.s)
    return partial(_own, configs.build("sampler", settings["ours"][settings["row"]]), pilots)


def _own(sampler: Sampler, pilots: Pilots, evaluations: int) -> Plan | None:
    """As many steps on the sampler's own grid as the evaluations allow."""
    for steps in range(evaluations, sampler.order - 1, -1):
        plan = sampler.plan(sampler.grid(steps, pilots.rho_max, pilots.rho_min))
        if plan.nfe <= evaluations:
            return plan
    return None


def _between(prior: Denoiser, pilots: Pilots, s: float, evaluations: int) -> Plan:
    """`Default` on levels half way, in log rho, between the pilot grid and its own, which never goes astray."""
    sampler = Default(s)
    fitted = _pilot_levels(prior, sampler, pilots, evaluations)
    own = sampler.grid(evaluations, pilots.rho_max, pilots.rho_min)
    middle = [math.sqrt(a * b) for a, b in zip(fitted[1:-1], own[1:-1], strict=True)]
    return sampler.plan([pilots.rho_max, *middle, pilots.rho_min])


def _piloted(kind: Callable[[float], Sampler], prior: Denoiser, pilots: Pilots, s: float, evaluations: int) -> Plan:
    return kind(s).plan(_pilot_levels(prior, kind(s), pilots, evaluations))


def _pilot_levels(prior: Denoiser, sampler: Sampler, pilots: Pilots, evaluations: int) -> list[float]:
    ends = (pilots.rho_max, pilots.rho_min)
    return pilot_grid(prior, sampler, evaluations, *ends, seeds=pilots.seeds, basis="point")


def _picked(prior: Denoiser, pilots: Pilots, _: float, evaluations: int) -> Plan:
    noises = tuning.Pilots(prior, pilots.rho_max, pilots.rho_min, rows=pilots.rows, basis="point")
    return tuning.pick(noises, evaluations).plan


def _tuned(prior: Denoiser, pilots: Pilots, _: float, evaluations: int) -> Plan:
    return tuning.tune(prior, evaluations, pilots.rho_max, pilots.rho_min, basis="point").plan


ROWS: Mapping[str, Callable[[Denoiser, Pilots, float, int], Plan]] = {
    DEFAULT: _between,
    "default, pilot grid": partial(_piloted, Default),
    "PC3 F, pilot grid": partial(_piloted, partial(PC, "F", 3)),
    "PC3 x0, pilot grid": partial(_piloted, partial(PC, "x0", 3)),
    "picked of 90": _picked,
    TUNED: _tuned,
}
"""Our rows besides the configured samplers: plans for a prior of standard deviation s."""


def prepare(settings: Mapping[str, Any]) -> Callable[[], np.ndarray]:
    """The workload of row `row`: the states at the end of each number of evaluations."""
    torch.set_num_threads(1)
    of, start = problem(settings)
    prior = MixturePrior(of)
    plan_for = planner(settings, prior)

    def work() -> np.ndarray:
        out = outcome(settings, start)
        for i, evaluations in enumerate(settings["evaluations"]):
            plan = plan_for(evaluations)
            if plan is not None:
                out[i] = plan.nfe, plan.levels[-1], _run(plan, prior, start).numpy()
        return out

    return work


def _run(plan: Plan, prior: Denoiser, start: Tensor) -> Tensor:
    return run(plan, prior, start[:, None], range(len(start)))[:, 0]


def _rms(x: Tensor) -> float:
    return float((x**2).mean().sqrt())
