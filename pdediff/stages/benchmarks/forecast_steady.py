"""Parts `darcy` and `wos`: operators of steady equations, from solved samples and without any."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from pdediff import config as configs
from pdediff.errors import ConfigError
from pdediff.metrics import rollout as scores
from pdediff.runtime import Runtime
from pdediff.stages.benchmarks.base import Goal, Measurement, Row, Section, Value
from pdediff.stages.configs import GenerateConfig, TrainForecasterConfig
from pdediff.stages.generation import generate
from pdediff.stages.steady_forecasting import mapped
from pdediff.stages.steady_training import load_map, train_steady
from pdediff.store import SetReader
from pdediff.types import Positive, PositiveInt, Seed
from pdediff.wording import nearest, show

Goals = Callable[[str, float], Goal | None]
Nodes = Mapping[str, Any]
INLINE = Runtime("inline")
PILOT = 20  # updates whose time tells how many a budget allows
DARCY_NOTE = (
    "{grid} x {grid} cells, {train} training samples and their images under the symmetries of the square,"
    " {seconds:g} s of processor time, threads: {threads}; relative L2 error over {test} held-out samples"
)
WOS_NOTE = (
    "{grid} x {grid} nodes, {train} training sources, {updates} updates of {batch}, the same network; relative L2 error"
    " over {test} held-out samples of the solver, which the second row never saw another of"
)


@dataclass(frozen=True)
class SteadySet:
    """Samples of an equation on one grid, for training and for testing."""

    grid: PositiveInt
    train: PositiveInt = 1000
    test: PositiveInt = 200

    def made(self, pde: Mapping[str, Any], name: str, root: Path) -> Path:
        """The data set, solved where it is not there yet."""
        whole = self.train + self.test + 2
        split = {"train": self.train / whole, "valid": 2 / whole, "test": self.test / whole}
        node = {"name": name, "pde": dict(pde), "samples": whole, "grid": self.grid, "split": split}
        return generate(configs.validate(GenerateConfig, node), root, INLINE)


@dataclass(frozen=True)
class SteadyFit:
    """How the maps are trained, each with `seed`."""

    batch: PositiveInt = 8
    learning_rate: Positive = 2e-3
    ema_half_life: Positive = 1000.0
    seed: Seed = 0
    threads: PositiveInt = 1


@dataclass(frozen=True)
class DarcyRun:
    """A map `forecaster` with `network` of Darcy flow, after `seconds` of processor time, all threads together."""

    forecaster: str = "steady_map"
    network: str = "fno_darcy"
    setting: SteadySet = SteadySet(64)
    fit: SteadyFit = SteadyFit(learning_rate=4e-3)
    seconds: Positive = 300.0


@dataclass(frozen=True)
class WosRun:
    """The Poisson equation by a map that is `supervised` and one that is `free` of a solver, equal `updates`."""

    supervised: str = "steady_map"
    free: str = "walk_on_spheres"
    network: str = "fno_poisson"
    setting: SteadySet = SteadySet(32)
    fit: SteadyFit = SteadyFit(16, 4e-3, 2000.0)
    updates: PositiveInt = 500


@dataclass(frozen=True)
class SteadyRuns:
    """Settings of the parts `darcy` and `wos`."""

    darcy: DarcyRun = field(default_factory=DarcyRun)
    wos: WosRun = field(default_factory=WosRun)

    def require(self, forecasters: Nodes, networks: Nodes) -> None:
        """ConfigError for a name that is not among them."""
        one, two = self.darcy, self.wos
        for where, name, known in (
            ("darcy.forecaster", one.forecaster, forecasters),
            ("darcy.network", one.network, networks),
            ("wos.supervised", two.supervised, forecasters),
            ("wos.free", two.free, forecasters),
            ("wos.network", two.network, networks),
        ):
            if name not in known:
                raise ConfigError(f"steady.{where} {show(name)} is not there", hint=nearest(name, known))


def darcy(
    forecasters: Nodes, networks: Nodes, run: DarcyRun, measurement: Measurement, goals: Goals
) -> Iterator[Section]:
    """One row: the error of the map."""
    data = run.setting.made({"kind": "Darcy"}, "darcy", measurement.scratch)
    node = {"forecaster": forecasters[run.forecaster], "network": networks[run.network]}
    begun, updates = time.perf_counter(), _updates(run, node, data, measurement.scratch)
    values = _judged(node, run.fit, updates, data, measurement.scratch)
    note = DARCY_NOTE.format(**vars(run.setting), seconds=run.seconds, threads=run.fit.threads)
    values["wall s, pilot included"] = time.perf_counter() - begun
    goal = goals("darcy_error", _number(values["relative L2"]))
    yield Section("Darcy flow, operator", note, (Row(run.network, values, goal),))


def wos(forecasters: Nodes, networks: Nodes, run: WosRun, measurement: Measurement, goals: Goals) -> Iterator[Section]:
    """Two rows: the map trained on solutions, and the one trained on walks."""
    data = run.setting.made({"kind": "Poisson"}, "poisson", measurement.scratch)
    rows, found = [], []
    for name in (run.supervised, run.free):
        node = {"forecaster": forecasters[name], "network": networks[run.network]}
        values = _judged(node, run.fit, run.updates, data, measurement.scratch)
        found.append(_number(values["relative L2"]))
        goal = goals("wos_ratio", found[-1] / found[0]) if name == run.free else None
        rows.append(Row(name, values | {"over supervised": found[-1] / found[0]}, goal))
    note = WOS_NOTE.format(**vars(run.setting), updates=run.updates, batch=run.fit.batch)
    yield Section("Poisson equation, without a solver", note, tuple(rows))


def _number(value: Value) -> float:
    assert isinstance(value, float)
    return value


def _updates(run: DarcyRun, node: Nodes, data: Path, root: Path) -> int:
    """Updates that `seconds` of processor time allow, by a short run beforehand."""
    train_steady(_config(node, run.fit, 2, "start"), data, root, INLINE)
    begun = time.process_time()
    train_steady(_config(node, run.fit, 2 + PILOT, "pilot"), data, root, INLINE)
    each = (time.process_time() - begun) / (2 + PILOT)
    return max(2, int(run.seconds / each))


def _config(node: Nodes, fit: SteadyFit, updates: int, name: str) -> TrainForecasterConfig:
    settings = {"steps": updates, "checkpoint_every": updates, "warm_up": updates // 20}
    settings |= {name: getattr(fit, name) for name in ("batch", "learning_rate", "ema_half_life")}
    whole = {"name": name, "seed": fit.seed, "threads": fit.threads, "fit": settings, **node}
    return configs.validate(TrainForecasterConfig, whole)


def _judged(node: Nodes, fit: SteadyFit, updates: int, data: Path, root: Path) -> dict[str, Value]:
    """Train a map, and its errors on the test split."""
    name, cpu, wall = node["forecaster"]["kind"].lower(), time.process_time(), time.perf_counter()
    model = load_map(train_steady(_config(node, fit, updates, name), data, root, INLINE))
    cpu, wall = time.process_time() - cpu, time.perf_counter() - wall
    reader = SetReader(data)
    samples = reader.split("test")
    truth = reader.fields(model.meta["fields"], samples).numpy()
    errors = scores.nrmse(mapped(model, reader, samples, 20), truth, 2)
    return {
        "relative L2": float(errors.mean()),
        "worst": float(np.max(errors)),
        "updates": float(updates),
        "parameters": float(sum(p.numel() for p in model.response.network.parameters())),
        "processor s": cpu,
        "wall s": wall,
    }
