"""Part `assimilation`: a neural observer beside 3D-Var and ensemble Kalman filters on the Kuramoto-Sivashinsky ring."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import numpy as np
import torch
from torch import Tensor

from pdediff import config as configs
from pdediff.config import to_dict
from pdediff.models.forecasters import SemilinearObserver
from pdediff.posterior import EnsembleKalmanFilter, ThreeDVar
from pdediff.runtime import Runtime
from pdediff.stages.benchmarks.base import Goal, Measurement, Row, Section, Value
from pdediff.stages.benchmarks.forecast_assimilation_setting import AssimilationRun
from pdediff.stages.benchmarks.forecast_assimilation_world import (
    Climate,
    Solver,
    World,
    ahead,
    relative,
    state_space,
    world,
)
from pdediff.stages.benchmarks.forecast_ks import KSTrial, trained
from pdediff.stages.benchmarks.forecast_ks_setting import KSRun
from pdediff.stages.configs import GenerateConfig
from pdediff.stages.forecaster_training import StoredForecaster
from pdediff.stages.generation import generate
from pdediff.stages.training import _threads
from pdediff.store import SetReader

Goals = Callable[[str, float], Goal | None]
HARD = "analysis, half the frames"
COLUMNS = ("analysis", "forecast", HARD, "spread-skill", "ms a frame", "solves", "chosen")
NOTE = (
    "ring {length:g}, {grid} points, {interval:g} between frames, a sensor at every {spacing}th point, {missing:.0%} of"
    " the readings missing, errors {noise:.0%} of the field; mean relative error of the analyses of {judged} frames of"
    " {cases} trajectories after a spin-up of {spin_up}, of forecasts {lead:g} ahead, of the analyses where"
    " {blank:.0%} of the frames are not read; spread over skill of the ensemble; processor time of a frame of one case;"
    " solves of the equation in it; what was chosen on {tune} other trajectories, once for each case."
    " The observer trained for {seconds:g} s of one thread and knows no equation; the filters' model is the solver."
)


@dataclass(frozen=True, eq=False)
class Analysed:
    """Analyses (case, frame, 1, x), their variance where there is one, and the processor time of a frame in ms."""

    mean: Tensor
    variance: Tensor | None
    cost: float


@dataclass(frozen=True, eq=False)
class Laboratory:
    """What all filters share: the run, the solver, the climate; trajectories to choose by and to judge by."""

    run: AssimilationRun
    step: Solver
    climate: Climate
    tune: tuple[World, World]
    test: tuple[World, World]

    @classmethod
    def of(cls, run: AssimilationRun, states: Tensor) -> Laboratory:
        """Worlds with all frames read, and with many not, from the states (n, x) of the training set."""
        (tune, test), blanks = run.series.cases, (0.0, run.readings.blank)
        first, second = (tuple(world(run, n, seed, b) for b in blanks) for n, seed in ((tune, 101), (test, 102)))
        return cls(run, Solver(run.series), Climate.of(states), (first[0], first[1]), (second[0], second[1]))

    def judged(self, found: Tensor, at: World) -> float:
        """Error of analyses after the spin-up."""
        return relative(found[:, self.run.series.spin_up :], at.truth[:, self.run.series.spin_up :])

    def filtered(self, kind: EnsembleKalmanFilter, at: World) -> Analysed:
        """All cases by one ensemble filter, one after the other; the smoother's means where it has a lag."""
        begun, found = time.process_time(), []
        for case in range(len(at.truth)):
            found.append(kind(state_space(at, case, self.climate, self.step), seed=case))
        cost = 1e3 * (time.process_time() - begun) / at.truth[..., 0, 0].numel()
        means = torch.stack([f.smoothed if kind.lag else f.mean for f in found])
        return Analysed(means, None if kind.lag else torch.stack([f.variance for f in found]), cost)

    def varied(self, share: float, at: World) -> Analysed:
        """All cases by 3D-Var with this share of the climate's covariance."""
        kind = ThreeDVar(self.climate.covariance.scaled(share))
        begun = time.process_time()
        found = [kind(state_space(at, case, self.climate, self.step)) for case in range(len(at.truth))]
        return Analysed(torch.stack(found), None, 1e3 * (time.process_time() - begun) / at.truth[..., 0, 0].numel())


def assimilation(
    forecasters: Mapping[str, Any],
    networks: Mapping[str, Any],
    run: AssimilationRun,
    measurement: Measurement,
    goals: Goals,
) -> Iterator[Section]:
    """One table: the climate, 3D-Var, ensemble filters, the observer."""
    with _threads(1):
        model, states = learned(forecasters[run.observer], networks[run.network], run, measurement)
        lab = Laboratory.of(run, states)
        rows = list(_rows(lab, model))
    found = {row.what: row.values for row in rows}
    series = run.series
    said = vars(series) | vars(run.readings) | {"tune": series.cases[0], "cases": series.cases[1]}
    said |= {"spin_up": series.spin_up, "judged": series.times[1], "lead": series.lead * series.interval}
    yield Section("Assimilation", NOTE.format(**said, seconds=run.fit.seconds), tuple(rows))
    reached = _number(found["3D-Var"], "analysis") / _number(found["observer"], "analysis")
    goal = goals("assimilation_gain", reached)
    if goal is not None:
        bar = Row("3D-Var's error over the observer's", {"reached": reached}, goal)
        yield Section("Assimilation, bars", "", (bar,))


def _number(values: Mapping[str, Value], column: str) -> float:
    value = values[column]
    return float(value) if isinstance(value, float | int) else float("nan")


def learned(
    forecaster: dict[str, Any], network: dict[str, Any], run: AssimilationRun, measurement: Measurement
) -> tuple[StoredForecaster, Tensor]:
    """The trained observer, and all states (n, x) of its training set."""
    series, whole = run.series, run.series.train + 2
    node = {
        "name": "assimilation",
        "pde": to_dict(series.pde(series.frames)),
        "samples": whole,
        "grid": series.grid,
        "split": {"train": series.train / whole, "valid": 1 / whole, "test": 1 / whole},
    }
    data = generate(configs.validate(GenerateConfig, node), measurement.scratch, Runtime("inline"))
    ks = KSRun(fit=run.fit)
    trial = KSTrial("observer", forecaster, network, run.fit.seeds[0], ks, data, data, measurement.scratch)
    reader = SetReader(data)
    states = torch.from_numpy(reader.array("u", reader.split("train")).astype("float64")).flatten(0, 1)
    return trained(trial)[0], states


def _rows(lab: Laboratory, model: StoredForecaster) -> Iterator[Row]:
    filters, shape = lab.run.filters, lab.test[0].truth.shape
    mean = lab.climate.mean.expand(shape)
    yield Row("climatology", {"analysis": lab.judged(mean, lab.test[0]), HARD: lab.judged(mean, lab.test[1])})
    best = [_best(filters.backgrounds, at, lab, lab.varied) for at in lab.tune]
    yield _row(lab, "3D-Var", [partial(lab.varied, share) for share in best], "background {:g}, {:g}", best, 1)
    observed = [observe(lab, model, at) for at in lab.test]
    affordable = _affordable(lab, observed[0].cost)
    most = filters.members[-1]
    for name, kind in (
        (f"EnKF, {filters.few} members", EnsembleKalmanFilter(filters.few)),
        (f"EnKF, {affordable} members: the observer's cost", EnsembleKalmanFilter(affordable)),
        (f"EnKF, {most} members", EnsembleKalmanFilter(most)),
    ):
        best = _inflations(lab, kind)
        yield _ensemble(lab, name, kind, best)
    yield _ensemble(lab, f"EnKS, lag {filters.lag}", EnsembleKalmanFilter(most, lag=filters.lag), best)
    for radius in filters.radii:
        kind = EnsembleKalmanFilter(filters.few, "stochastic", radius=radius)
        yield _ensemble(lab, f"EnKF, {filters.few} members, radius {radius:g}", kind, _inflations(lab, kind))
    advance = partial(_advance, model)
    values = _values(lab, observed, advance)
    yield Row("observer", values | {"chosen": f"{sum(p.numel() for p in model.network.parameters())} weights"})


def _inflations(lab: Laboratory, kind: EnsembleKalmanFilter) -> list[float]:
    """The best inflation with all frames, and with many missing."""
    options = lab.run.filters.inflations
    return [_best(options, at, lab, lambda i, at: lab.filtered(replace(kind, inflation=i), at)) for at in lab.tune]


def _ensemble(lab: Laboratory, name: str, kind: EnsembleKalmanFilter, best: Sequence[float]) -> Row:
    made = [partial(lab.filtered, replace(kind, inflation=inflation)) for inflation in best]
    return _row(lab, name, made, "inflation {:g}, {:g}", best, kind.members)


def _row(
    lab: Laboratory,
    name: str,
    made: Sequence[Callable[[World], Analysed]],
    words: str,
    best: Sequence[float],
    solves: int,
) -> Row:
    found = [run(at) for run, at in zip(made, lab.test, strict=True)]
    return Row(name, _values(lab, found, lab.step) | {"solves": float(solves), "chosen": words.format(*best)})


def _values(lab: Laboratory, found: Sequence[Analysed], advance: Callable[[Tensor], Tensor]) -> dict[str, Value]:
    easy, hard = found
    out: dict[str, Value] = {"analysis": lab.judged(easy.mean, lab.test[0])}
    out["forecast"] = ahead(lab.run, easy.mean, lab.test[0].truth, advance)
    out[HARD] = lab.judged(hard.mean, lab.test[1])
    if easy.variance is not None:
        late = slice(lab.run.series.spin_up, None)
        error = (easy.mean - lab.test[0].truth)[:, late].square().mean()
        out["spread-skill"] = float((easy.variance[:, late].mean() / error).sqrt())
    out["ms a frame"] = easy.cost
    return {column: out.get(column) for column in COLUMNS}


def _best(options: Sequence[float], at: World, lab: Laboratory, run: Callable[[float, World], Analysed]) -> float:
    """The option with the least error on these trajectories."""
    errors = [lab.judged(run(option, at).mean, at) for option in options]
    return options[int(np.argmin(errors))]


def _affordable(lab: Laboratory, cost: float) -> int:
    """The largest ensemble whose frame takes no longer than `cost` ms, or else the smallest."""
    at = lab.tune[0]
    one = World(at.truth[:1], at.readings[:1], at.mask[:1], at.std)
    found = lab.run.filters.members[0]
    for members in lab.run.filters.members:
        if min(lab.filtered(EnsembleKalmanFilter(members), one).cost for _ in range(2)) <= cost:
            found = members
    return found


@torch.no_grad()
def observe(lab: Laboratory, model: StoredForecaster, at: World) -> Analysed:
    """All cases by the observer, one after the other as the filters do, from the climate's mean."""
    kind = model.forecaster
    assert isinstance(kind, SemilinearObserver)
    readings, dynamics = model.scaling.state(at.readings.float()), model.dynamics(model.strides[0])
    begun, found = time.process_time(), []
    for case in range(len(readings)):
        row = slice(case, case + 1)
        first, none = model.scaling.state(lab.climate.mean.float())[None], readings.new_zeros(1, 0)
        found.append(kind.assimilate(dynamics, first, readings[row], at.mask[row], none).corrected)
    cost = 1e3 * (time.process_time() - begun) / at.truth[..., 0, 0].numel()
    return Analysed(model.scaling.physical(torch.cat(found)).double(), None, cost)


@torch.no_grad()
def _advance(model: StoredForecaster, x: Tensor) -> Tensor:
    z = model.scaling.state(x.float())[:, None]
    new = model.forecaster.step(model.dynamics(model.strides[0]), z, z.new_zeros(len(z), 0), (0,) * len(z))
    return model.scaling.physical(new).double()
