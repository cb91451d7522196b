"""Parts `ks` and `kolmogorov`: our integrator against exponax, and against its own transforms; and part `gpu`."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import asdict, dataclass
from itertools import product
from pathlib import Path
from typing import Any, ClassVar, Literal

import numpy as np

from pdediff.stages.benchmarks.base import Goal, Measurement, Row, Section, Value
from pdediff.stages.benchmarks.contest import Contestant, Entry, contest
from pdediff.types import NonNegative, NonNegativeInt, Positive, PositiveInt

Precision = Literal["float64", "float32"]
Goals = Callable[[str, float], Goal | None]

ERROR_ROWS = 8
"""Trajectories over which the error of one frame is averaged."""

NOTE = (
    "us: processor time per step and trajectory, best run; floor: the transforms of the scheme alone; 1/s: trajectories"
    " of {steps} steps per second; error: relative L2 after one frame, against DOP853 at 1e-13"
)


@dataclass(frozen=True)
class KSRun:
    """Kuramoto-Sivashinsky on a ring of `length`: `warm_up` intervals, then `frames`; ETDRK4 of step `step`."""

    equation: ClassVar[str] = "ks"

    batches: tuple[PositiveInt, ...] = (16, 64, 256)
    precisions: tuple[Precision, ...] = ("float32", "float64")
    grid: PositiveInt = 256
    length: Positive = 64.0
    frames: PositiveInt = 141
    interval: Positive = 0.2
    step: Positive = 0.2
    warm_up: NonNegativeInt = 360

    def problem(self) -> dict[str, Any]:
        """Settings of the workloads, without batch and precision."""
        return _settings(self, (self.grid,))


@dataclass(frozen=True)
class KolmogorovRun:
    """Kolmogorov flow, force sin(4 y), on (0, 2 pi)^2: `frames`, ETDRK4 of step `step`."""

    equation: ClassVar[str] = "kolmogorov"

    batches: tuple[PositiveInt, ...] = (4, 16)
    precisions: tuple[Precision, ...] = ("float32", "float64")
    grid: PositiveInt = 64
    viscosity: Positive = 1e-3
    drag: NonNegative = 0.1
    frames: PositiveInt = 101
    interval: Positive = 0.1
    step: Positive = 0.01

    def problem(self) -> dict[str, Any]:
        """Settings of the workloads, without batch and precision."""
        return _settings(self, (self.grid, self.grid)) | {"forcing": 4, "warm_up": 0}


@dataclass(frozen=True)
class GPURun:
    """The same problems on a GPU, in large batches; measured where the device is one."""

    ks: tuple[PositiveInt, ...] = (1024, 16384)
    kolmogorov: tuple[PositiveInt, ...] = (64, 512)
    copied: PositiveInt = 2**30


def race(run: KSRun | KolmogorovRun, measurement: Measurement, goals: Goals) -> Iterator[Section]:
    """Every batch and precision of one equation, then for each precision the best batch of each contestant."""
    problem = run.problem() | {"initial": str(_start(run, measurement))}
    errors = _errors(problem, run.precisions, measurement)
    rows: list[Row] = []
    best: list[Row] = []
    for precision in run.precisions:
        found = [
            _timed({**problem, "batch": batch, "precision": precision}, errors[precision], measurement)
            for batch in run.batches
        ]
        rows += [Row(f"{precision} B={batch}", values) for batch, values in zip(run.batches, found, strict=True)]
        best += _best(run.equation, precision, found, goals)
    title = {"ks": "Kuramoto-Sivashinsky", "kolmogorov": "Kolmogorov flow"}[run.equation]
    shape = "x".join(map(str, problem["shape"]))
    note = NOTE.format(steps=steps_of(problem))
    yield Section(f"{title} {shape}, ETDRK4, step {run.step:g}", note, tuple(rows))
    yield Section(
        f"{title}, best batches", "ratio: ours over theirs, of 1/s; us/floor: over the transforms", tuple(best)
    )


def gpu(runs: tuple[KSRun, KolmogorovRun], batches: GPURun, measurement: Measurement, device: str = "cuda") -> Section:
    """Trajectories per second on the GPU, and the share of the bandwidth of a plain copy that the steps reach."""
    from pdediff.stages.benchmarks.integrators import bytes_of_a_step

    bandwidth = 2 * batches.copied / _wall({"what": "copy", "bytes": batches.copied, "device": device}, measurement)
    rows = [Row("copy", {"GB/s": 1e-9 * bandwidth})]
    for run, sizes in zip(runs, (batches.ks, batches.kolmogorov), strict=True):
        problem = run.problem() | {"initial": str(_start(run, measurement)), "device": device, "what": "evolve"}
        for precision, batch in product(run.precisions, sizes):
            settings = problem | {"batch": batch, "precision": precision}
            rate = batch / _wall(settings, measurement)
            moved = rate * steps_of(problem) * bytes_of_a_step(settings)
            values: dict[str, Value] = {"1/s": rate, "us": 1e6 / rate / steps_of(problem), "GB/s": 1e-9 * moved}
            rows.append(Row(f"{run.equation} {precision} B={batch}", values | {"share": moved / bandwidth}))
    note = "wall time; GB/s: arrays that a step reads and writes, each counted once; share: of the copy"
    return Section("GPU", note, tuple(rows))


def _wall(settings: Mapping[str, Any], measurement: Measurement) -> float:
    """Best wall seconds of one of our workloads."""
    entry = Entry(_ours(measurement), "run", settings)
    return contest([entry], measurement.repeats, measurement.seconds)[0].wall


def _settings(run: Any, shape: tuple[int, ...]) -> dict[str, Any]:
    kept = {key: value for key, value in asdict(run).items() if key not in ("batches", "precisions")}
    floor_steps = max(1, 65536 // int(np.prod(shape)) // 8)
    return kept | {"equation": run.equation, "shape": shape, "floor_steps": floor_steps}


def steps_of(problem: Mapping[str, Any]) -> int:
    """Steps of one trajectory."""
    return (problem["warm_up"] + problem["frames"] - 1) * round(problem["interval"] / problem["step"])


def _start(run: KSRun | KolmogorovRun, measurement: Measurement) -> Path:
    """States of developed flow, so that all contestants start from the same numbers."""
    from pdediff.stages.benchmarks.integrators import clock_of, equation_of

    path = measurement.scratch / f"{run.equation}.npy"
    if not path.exists():
        spin_up = {"frames": 1, "precision": "float64", "warm_up": {"ks": 360, "kolmogorov": 80}[run.equation]}
        problem = run.problem() | spin_up
        equation, _ = equation_of(problem, clock_of(problem | {"step": problem["step"] / 2}))
        np.save(path, equation.draw(range(max(16, ERROR_ROWS)), run.grid).fields["initial"].numpy())
    return path


def _ours(measurement: Measurement) -> Contestant:
    return measurement.contestant("pdediff", "integrators")


def _runners(measurement: Measurement) -> dict[str, Contestant]:
    """Ours first, then exponax where it takes part."""
    found = {"": _ours(measurement)}
    if "exponax" in measurement.peers:
        found["exponax "] = measurement.contestant("exponax", "peer_exponax")
    return found


def _errors(
    problem: Mapping[str, Any], precisions: tuple[str, ...], measurement: Measurement
) -> dict[str, dict[str, Value]]:
    """Mean relative error of one frame, by precision and contestant."""
    from pdediff.stages.benchmarks.references import reference, relative_l2

    start = np.load(problem["initial"])[:ERROR_ROWS]
    truth = reference(problem, start, problem.get("length", 2.0 * np.pi), problem["interval"])
    one = {"what": "evolve", "frames": 2, "warm_up": 0, "batch": ERROR_ROWS, "as_ours": True, "fetch": True}
    found: dict[str, dict[str, Value]] = {}
    for precision in precisions:
        found[precision] = {}
        for name, contestant in _runners(measurement).items():
            file = measurement.scratch / "frame.npy"
            contestant.prepare("frame", {**problem, **one, "precision": precision}, file)
            contestant.clear()
            found[precision][f"{name}error"] = float(relative_l2(np.load(file)[:, 1].astype("float64"), truth).mean())
    return found


def _timed(settings: Mapping[str, Any], errors: Mapping[str, Value], measurement: Measurement) -> dict[str, Value]:
    """Columns of one batch: ours, the floor, then exponax."""
    runners = _runners(measurement)
    entries = [Entry(runner, "run", {**settings, "what": "evolve"}) for runner in runners.values()]
    entries.append(Entry(runners[""], "floor", {**settings, "what": "transforms"}))
    *runs, floor = contest(entries, measurement.repeats, measurement.seconds)
    values: dict[str, Value] = {}
    per_floor = 1e6 * floor.cpu / settings["floor_steps"] / settings["batch"]
    for name, timing in zip(runners, runs, strict=True):
        scale = 1e6 / steps_of(settings) / settings["batch"]
        values[f"{name}us"] = scale * timing.cpu
        values[f"{name}wall us"] = scale * timing.wall
        if not name:
            values |= {"floor us": per_floor, "us/floor": scale * timing.cpu / per_floor}
        values[f"{name}1/s"] = settings["batch"] / timing.cpu
        values[f"{name}error"] = errors[f"{name}error"]
        if name:
            values[f"{name}compile s"] = max(0.0, timing.first - timing.cpu)
    return values


def _best(equation: str, precision: str, found: list[dict[str, Value]], goals: Goals) -> list[Row]:
    """The best batch of each contestant: their ratio, and how far ours is above its transforms."""

    def best(column: str) -> dict[str, Value]:
        return max(found, key=lambda values: float(values[column] or 0.0))

    ours = best("1/s")
    above = float(ours["us/floor"] or 0.0)
    values: dict[str, Value] = {"1/s": ours["1/s"], "us/floor": above}
    rows = [Row(f"{precision} above the transforms", values, goals(f"{equation}_floor", above))]
    if "exponax 1/s" in ours:
        theirs = best("exponax 1/s")["exponax 1/s"]
        ratio = float(ours["1/s"] or 0.0) / float(theirs or np.inf)
        values = {"1/s": ours["1/s"], "exponax 1/s": theirs, "ratio": ratio}
        rows.insert(0, Row(f"{precision} against exponax", values, goals(f"{equation}_{precision}", ratio)))
    return rows
