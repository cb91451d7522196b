"""Parts `training_set`, `workers` and `reading`: whole data sets, made by the stage as a user runs it, and read."""

from __future__ import annotations

import shutil
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np
import psutil

from pdediff import config as configs
from pdediff.runtime import Runtime
from pdediff.stages.benchmarks.base import Measurement, Row, Section, Value
from pdediff.stages.benchmarks.contest import Entry, contest
from pdediff.stages.benchmarks.spectral_contest import ERROR_ROWS, Goals
from pdediff.stages.configs import GenerateConfig
from pdediff.types import Fraction, Positive, PositiveInt

COMPARISONS = 3
"""Most turns of one worker and of two; a turn takes half a minute."""


@dataclass(frozen=True)
class TrainingSet:
    """The KS training set of PDE-Refiner: `samples` trajectories of 140 frames 0.2 apart after 360, on `workers`.

    The share `measured` of the samples is made and the time scaled, unless the run is full. One worker and two make
    `compared` samples.
    """

    samples: PositiveInt = 2048
    measured: Fraction = 0.25
    grid: PositiveInt = 256
    step: Positive = 0.05
    precision: Literal["float64", "float32"] = "float64"
    tile: PositiveInt = 128
    workers: PositiveInt = 2
    compared: PositiveInt = 2048

    def config(self, samples: int) -> GenerateConfig:
        """The config of `pdediff generate` for so many of the samples."""
        from pdediff.pdes import Clock, KuramotoSivashinsky

        clock = Clock(frames=140, interval=0.2, step=self.step, warm_up=360, precision=self.precision)
        node = configs.to_dict(KuramotoSivashinsky(clock=clock))
        return GenerateConfig(pde=node, samples=samples, grid=self.grid, tile=self.tile, shard=self.tile)


def training_set(wanted: TrainingSet, measurement: Measurement, goals: Goals) -> Section:
    """Seconds of the whole set, and the error of one of its frames."""
    unit = wanted.tile * wanted.workers  # whole shards for every worker, else one of them idles
    part = wanted.samples if measurement.full else round(wanted.measured * wanted.samples / unit) * unit
    made = min(wanted.samples, max(unit, part))
    with _workers(wanted, measurement, wanted.workers) as runtime:
        _, told = _generated(wanted.config(made), measurement.scratch / "training", runtime)
    wall = float(told["wall s"] or 0.0)
    seconds = wall * wanted.samples / made
    values: dict[str, Value] = {"seconds": seconds, "1/s": made / wall, **told}
    error = _frame_error(wanted)
    note = f"wall seconds of {wanted.samples} trajectories on {wanted.workers} processes"
    note += "" if made == wanted.samples else f", {made} made and scaled"
    rows = (
        Row("generate", values, goals("training_set_seconds", seconds)),
        Row("error of one frame", {"error": error}, goals("training_set_error", error)),
    )
    return Section("PDE-Refiner's KS training set", note, rows)


def workers(wanted: TrainingSet, measurement: Measurement, goals: Goals) -> Section:
    """The same set by one worker and by two, in turns: least wall time, and whether every byte is the same."""
    from pdediff.store import content_hash

    config = wanted.config(wanted.compared)
    best: dict[int, dict[str, Value]] = {}
    hashes: set[str] = set()
    with _workers(wanted, measurement, 1) as one, _workers(wanted, measurement, 2) as two:
        for _ in range(min(measurement.repeats, COMPARISONS)):
            for count, runtime in ((1, one), (2, two)):
                path, told = _generated(config, measurement.scratch / f"workers-{count}", runtime)
                hashes.add(content_hash(path))
                best[count] = min(best.get(count, told), told, key=lambda found: float(found["wall s"] or 0.0))
    speedup = float(best[1]["wall s"] or 0.0) / float(best[2]["wall s"] or 1.0)
    # Amdahl's law, as if nothing that the driver computes ran beside the workers; a busy machine hardly changes it.
    serial, shared = (float(best[1][part] or 0.0) for part in ("driver s", "workers s"))
    rows = (
        Row("1 worker", best[1]),
        Row("2 workers", best[2]),
        Row("speed-up", {"ratio": speedup}, goals("workers", speedup)),
        Row("by processor time", {"ratio": (serial + shared) / (serial + shared / 2) if shared else None}),
        Row("different contents", {"ratio": len(hashes)}, goals("workers_contents", len(hashes))),
    )
    note = f"{config.samples} KS trajectories, workers started and warm; s: the whole stage"
    return Section("Two workers against one", note, rows)


READS = {
    "numpy": None,
    "decode": "decode",
    "xarray": "decode",
    "decode batches": "decode batches",
    "batches": "decode batches",
    "first batches": "decode batches",
}
"""Ways to read a store, and the bare decoding each is held against."""


def reading(wanted: TrainingSet, measurement: Measurement, goals: Goals) -> Section:
    """Reading a stored array, whole and in random batches, against the bare decoding of its chunks and `np.load`."""
    from pdediff.store import open_store

    path, _ = _generated(wanted.config(2 * wanted.tile), measurement.scratch / "reading", Runtime(cluster="inline"))
    values = np.asarray(open_store(path)["u"].values)
    file = measurement.scratch / "u.npy"
    np.save(file, values)
    common = {"store": str(path), "array": "u", "file": str(file), "batch": 64}
    runner = measurement.contestant("reading", "store_reading")
    entries = [Entry(runner, what, {**common, "what": what}) for what in (*READS, "open")]
    timings = contest(entries, measurement.repeats, measurement.seconds)
    rates = {what: 1e-6 * values.nbytes / timing.cpu for what, timing in zip(READS, timings, strict=False)}
    rows = []
    for what, floor in READS.items():
        ratio = rates[what] / rates[floor] if floor else None
        told: dict[str, Value] = {"MB/s": rates[what], "of decoding": ratio, "of np.load": rates[what] / rates["numpy"]}
        rows.append(Row(what, told, goals("reading", ratio or 0.0) if what == "batches" else None))
    rows.append(Row("open", {"ms": 1e3 * timings[-1].cpu}))
    size = open_store(path)["u"].encoding["chunks"][0]
    note = f"{1e-6 * values.nbytes:.0f} MB of float32, chunks of {size} samples; batches of 64 random ones"
    return Section("Reading a store", note, tuple(rows))


@contextmanager
def _workers(wanted: TrainingSet, measurement: Measurement, count: int) -> Iterator[Runtime]:
    """A runtime with so many worker processes (none for one in this process), started and with everything loaded."""
    inline = measurement.runtime.cluster == "inline"
    with Runtime(cluster="inline" if inline else "local", workers=count, device="cpu").open() as runtime:
        small = TrainingSet(grid=128, step=wanted.step, tile=1).config(4 * count)
        _generated(small, measurement.scratch / "warm", runtime)
        yield runtime


def _generated(config: GenerateConfig, root: Path, runtime: Runtime) -> tuple[Path, dict[str, Value]]:
    """A data set made from nothing: wall seconds, processor seconds of the stage's own thread and of the workers."""
    from pdediff import stages

    shutil.rmtree(root, ignore_errors=True)
    here = psutil.Process()
    own, others, wall = time.thread_time(), _seconds(here.children(recursive=True)), time.perf_counter()
    path = stages.generate(config, root, runtime)
    told: dict[str, Value] = {"wall s": time.perf_counter() - wall, "driver s": time.thread_time() - own}
    return path, told | {"workers s": _seconds(here.children(recursive=True)) - others}


def _seconds(processes: list[psutil.Process]) -> float:
    """Processor seconds of these processes together."""
    return sum(sum(process.cpu_times()[:2]) for process in processes)


def _frame_error(wanted: TrainingSet) -> float:
    """Mean relative L2 error of the first frame, at the step and precision of the set."""
    from pdediff.pdes import PDE
    from pdediff.stages.benchmarks.references import reference, relative_l2

    pde: PDE = configs.build("pde", wanted.config(wanted.tile).pde)
    problem = pde.draw(range(ERROR_ROWS), wanted.grid)
    frames = pde.solve(problem)["u"][:, :2].double().numpy()
    lengths, spans = (problem.scalars[name].numpy() for name in ("domain_length", "frame_interval"))
    truth = reference({"equation": "ks"}, frames[:, 0], lengths, spans)
    return float(relative_l2(frames[:, 1], truth).mean())
