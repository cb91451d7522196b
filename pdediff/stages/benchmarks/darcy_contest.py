"""Part `darcy`: our solver against sparse direct solution and the explicit loop to the steady state."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from pdediff.stages.benchmarks.base import Measurement, Row, Section, Value
from pdediff.stages.benchmarks.contest import Contestant, Entry, contest
from pdediff.stages.benchmarks.spectral_contest import Goals
from pdediff.types import Positive, PositiveInt

ORDERINGS = ("COLAMD", "MMD_AT_PLUS_A")
NOTE = (
    "ms: processor time per solve, best run; error: largest relative L2 distance to the direct solution, of the"
    " explicit loop the transient left; its time is that of {steps} of its 16 n^2 steps, scaled"
)


@dataclass(frozen=True)
class DarcySolves:
    """Two-phase fields on `grids` points a side, `samples` of them, by our solver to relative residual `tolerances`.

    `explicit_steps` of the explicit loop are timed (all of them in a full run, which takes hours).
    """

    grids: tuple[PositiveInt, ...] = (64, 128)
    samples: PositiveInt = 16
    tolerances: tuple[Positive, ...] = (1e-6, 1e-10)
    explicit_steps: PositiveInt = 64


def darcy(solves: DarcySolves, measurement: Measurement, goals: Goals) -> Section:
    """Milliseconds per solve of every solver on every grid."""
    rows = [row for grid in solves.grids for row in _grid(grid, solves, measurement, goals)]
    return Section("Darcy flow, permeability 3 and 12", NOTE.format(steps=solves.explicit_steps), tuple(rows))


def _grid(grid: int, solves: DarcySolves, measurement: Measurement, goals: Goals) -> list[Row]:
    from pdediff.pdes import Darcy
    from pdediff.stages.benchmarks.darcy_solvers import STEPS_OF_A_CELL, transient

    a = Darcy().draw(range(solves.samples), grid).fields["permeability"].numpy()
    file = measurement.scratch / f"permeability-{grid}.npy"
    np.save(file, a)
    steps = STEPS_OF_A_CELL * grid**2 if measurement.full else solves.explicit_steps
    solvers = {f"ours {t:g}": {"what": "iterative", "tolerance": t} for t in solves.tolerances}
    if "scipy" in measurement.peers:
        solvers |= {f"SuperLU {o}": {"what": "direct", "ordering": o} for o in ORDERINGS}
    if "pdebench" in measurement.peers:
        solvers["explicit (PDEBench)"] = {"what": "explicit", "steps": steps}
    entries = [
        Entry(_runner(measurement, settings), name, {"permeability": str(file), **settings})
        for name, settings in solvers.items()
    ]
    timings = dict(zip(solvers, contest(entries, measurement.repeats, measurement.seconds), strict=True))
    truth = _solution(measurement, {"permeability": str(file), "what": "direct", "ordering": ORDERINGS[1]})
    first = f"ours {solves.tolerances[0]:g}"
    rows = []
    for name, settings in solvers.items():
        scale = 1e3 / solves.samples
        if settings["what"] == "explicit":
            scale *= STEPS_OF_A_CELL * grid**2 / steps
            error = max(transient(field) for field in a[:4])
        else:
            solved = _solution(measurement, {"permeability": str(file), **settings})
            error = float((np.linalg.norm(solved - truth, axis=(1, 2)) / np.linalg.norm(truth, axis=(1, 2))).max())
        ms = scale * timings[name].cpu
        values: dict[str, Value] = {"ms": ms, "wall ms": scale * timings[name].wall, "1/s": 1e3 / ms, "error": error}
        values["times ours"] = ms / (1e3 / solves.samples * timings[first].cpu)
        goal = goals("darcy_ms", ms) if name == first and grid == max(solves.grids) else None
        rows.append(Row(f"{grid}x{grid} {name}", values, goal))
    return rows


def _runner(measurement: Measurement, settings: Mapping[str, object]) -> Contestant:
    names = {"iterative": "pdediff", "direct": "scipy", "explicit": "pdebench"}
    return measurement.contestant(names[str(settings["what"])], "darcy_solvers")


def _solution(measurement: Measurement, settings: Mapping[str, object]) -> np.ndarray:
    runner = _runner(measurement, settings)
    file = measurement.scratch / "solution.npy"
    runner.prepare("once", settings, file)
    runner.clear()
    return np.load(file)
