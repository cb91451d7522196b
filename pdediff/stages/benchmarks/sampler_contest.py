"""Parts `rough` and `smooth`: how far every sampler ends from the exact probability flow, by number of evaluations."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

from pdediff.stages.benchmarks.base import Goal, Measurement, Row, Section, Value
from pdediff.stages.benchmarks.peer_settings import Settings, azula_settings, diffusers_settings
from pdediff.stages.benchmarks.sampler_priors import Mixture, PowerLaw, mixture
from pdediff.types import Positive, PositiveInt, Seed

Goals = Callable[[str, float], Goal | None]

NOTE = (
    "NFE n: RMS distance to the exact flow after n evaluations, {rows} samples, data of RMS {rms:g}; spec n: largest"
    " relative error of a mode's standard deviation; end: the level that is claimed; slope: of the last three errors"
    " above 4 times the floor, {floor:.1e} for end 0; used: evaluations, where fewer"
)
BAR = "the best setting of each; ratio: its error over ours"


@dataclass(frozen=True)
class FlowRun:
    """`samples` rows from level `rho_max` to `rho_min` with each number of `evaluations`.

    Grids are made and plans picked on `pilots` other rows. The reference takes `reference_steps` Runge-Kutta steps.
    `only` keeps the settings of peers whose name holds one of its words.
    """

    samples: PositiveInt = 512
    pilots: PositiveInt = 64
    evaluations: tuple[PositiveInt, ...] = (5, 10, 20, 40, 80)
    rho_max: Positive = 157.4073
    rho_min: Positive = 0.0100005
    reference_steps: PositiveInt = 1500
    seed: Seed = 1
    only: tuple[str, ...] = ()


@dataclass(frozen=True)
class Result:
    """One setting: by number of evaluations those used, the error, and the largest relative error of a mode."""

    end: str
    used: tuple[int, ...]
    errors: tuple[float, ...]
    spectral: tuple[float, ...]


class Truth:
    """Start and exact ends of the measured rows."""

    def __init__(self, law: PowerLaw, flow: FlowRun, file: Path) -> None:
        self.law, self.flow = law, flow
        self.prior: Mixture = mixture(law)
        start = self.prior.draw(flow.samples, flow.seed, flow.rho_max)
        np.save(file, start.numpy())
        self.lowest = self.prior.flow(start, flow.rho_max, flow.rho_min, flow.reference_steps)

    @cached_property
    def zero(self) -> np.ndarray:
        """The flow at level 0: what is left below 1e-4 of the smallest level moves nothing."""
        last = 1e-4 * self.flow.rho_min
        y = self.prior.flow(self.lowest, self.flow.rho_min, last, self.flow.reference_steps // 2)
        return self.prior.denoise(y, last).numpy()

    @property
    def floor(self) -> float:
        """Error of a last jump from the smallest level to 0."""
        return _rms(self.prior.denoise(self.lowest, self.flow.rho_min).numpy() - self.zero)

    def at(self, level: float) -> np.ndarray:
        """The flow at level 0 or about the smallest level: tables in float32 are off by 1e-4 of it."""
        if level == 0.0:
            return self.zero
        return self.prior.flow(self.lowest, self.flow.rho_min, level, 8).numpy()

    def result(self, found: np.ndarray) -> Result:
        """Errors of what a workload returned."""
        ends = {float(row["end"]) for row in found if row["nfe"]}
        errors, spectral = [], []
        for row in found:
            truth = self.at(float(row["end"]))
            errors.append(_rms(row["state"] - truth))
            spectral.append(float(np.abs(row["state"].std(0) / truth.std(0) - 1.0).max()))
        end = "0" if ends == {0.0} else "min"
        return Result(end, tuple(int(n) for n in found["nfe"]), tuple(errors), tuple(spectral))


def accuracy(
    part: str, law: PowerLaw, flow: FlowRun, ours: Mapping[str, Any], measurement: Measurement, goals: Goals
) -> Iterator[Section]:
    """Ours, then each peer, then the bar that the best settings set."""
    file = measurement.scratch / f"{part}.npy"
    truth = Truth(law, flow, file)
    common = {"law": asdict(law), "start": str(file), **asdict(flow)}
    note = NOTE.format(rows=flow.samples, rms=law.rms, floor=truth.floor)
    found: dict[str, dict[str, Result]] = {}
    for who, module, settings in _contestants(ours, measurement, flow):
        runner = measurement.contestant(who, module)
        found[who] = {}
        for name, of in settings.items():
            saved = measurement.scratch / "end.npy"
            runner.prepare(name, {"what": "flow", **common, **of}, saved)
            runner.clear()
            found[who][name] = truth.result(np.load(saved))
        yield Section(f"{part}, {who}", note, tuple(_row(n, r, flow, truth.floor) for n, r in found[who].items()))
    yield Section(f"{part}, ours against the best of the peers", BAR, tuple(_bar(part, found, flow, goals)))


def _contestants(
    ours: Mapping[str, Any], measurement: Measurement, flow: FlowRun
) -> Iterator[tuple[str, str, Settings]]:
    from pdediff.stages.benchmarks.sampler_plans import ROWS

    names = (*ours, *ROWS)
    yield "pdediff", "sampler_plans", {name: {"row": name, "ours": dict(ours)} for name in names}
    for peer, settings in (("diffusers", diffusers_settings()), ("azula", azula_settings())):
        if peer in measurement.peers:
            words = flow.only or ("",)
            kept = {name: of for name, of in settings.items() if any(word in name for word in words)}
            if kept:
                yield peer, f"peer_{peer}", kept


def _row(name: str, result: Result, flow: FlowRun, floor: float) -> Row:
    values: dict[str, Value] = {"end": result.end}
    possible = [n > 0 for n in result.used]
    for n, error, there in zip(flow.evaluations, result.errors, possible, strict=True):
        values[f"NFE {n}"] = told(error) if there else None
    values["slope"] = slope(result, 4.0 * floor if result.end == "0" else 0.0)
    for n, error, there in zip(flow.evaluations, result.spectral, possible, strict=True):
        values[f"spec {n}"] = told(error) if there else None
    exact = all(used in (0, n) for used, n in zip(result.used, flow.evaluations, strict=True))
    values["used"] = None if exact else "/".join(map(str, result.used))
    return Row(name, values)


def _bar(part: str, found: Mapping[str, Mapping[str, Result]], flow: FlowRun, goals: Goals) -> Iterator[Row]:
    """For each number of evaluations: ours by one rule, ours tuned, and both against the best setting of each peer."""
    from pdediff.stages.benchmarks.sampler_plans import DEFAULT, TUNED

    for i, n in enumerate(flow.evaluations):
        ours = {kind: found["pdediff"][name] for kind, name in (("rule", DEFAULT), ("tuned", TUNED))}
        for kind, result in ours.items():
            values: dict[str, Value] = {"error": told(result.errors[i])}
            yield Row(f"NFE {n} {kind}", values, goals(f"{part}_{kind}_{n}", result.errors[i]))
            values = {"spec": told(result.spectral[i])}
            goal = goals(f"{part}_{kind}_spectral_{n}", result.spectral[i])
            if goal is not None:
                yield Row(f"NFE {n} {kind}, spectrum", values, goal)
        for peer in (who for who in found if who != "pdediff"):
            name, error = _best(found[peer], i)
            ratios = {kind: error / result.errors[i] for kind, result in ours.items()}
            values = {
                "error": told(error),
                "ratio rule": told(ratios["rule"]),
                "ratio tuned": told(ratios["tuned"]),
                "setting": name,
            }
            yield Row(f"NFE {n} best of {peer}", values, goals(f"{part}_{peer}_{n}", max(ratios.values())))


def _best(results: Mapping[str, Result], i: int) -> tuple[str, float]:
    """The setting of least error with the i-th number of evaluations; what is NaN or impossible is none."""
    finite = {name: r.errors[i] for name, r in results.items() if r.used[i] and math.isfinite(r.errors[i])}
    name = min(finite, key=finite.__getitem__, default="none")
    return name, finite.get(name, math.inf)


def slope(result: Result, least: float) -> float | None:
    """Exponent over the last three numbers of evaluations whose error is above `least`; None where there are fewer."""
    kept = [(n, e) for n, e in zip(result.used, result.errors, strict=True) if n and math.isfinite(e) and e > least]
    if len(kept) < 3:
        return None
    used, errors = zip(*kept[-3:], strict=True)
    return float(np.polyfit(np.log(used), np.log(errors), 1)[0])


def told(error: float) -> Value:
    """A number; what is not finite, in words, which JSON has no number for."""
    return float(error) if math.isfinite(error) else "NaN" if math.isnan(error) else "inf"


def _rms(x: Sequence[float] | np.ndarray) -> float:
    return float(np.sqrt(np.mean(np.square(x))))
