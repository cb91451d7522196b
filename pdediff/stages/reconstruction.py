"""Reconstruct fields from observations: posterior draws of every case, in one labelled store."""

from __future__ import annotations

import shutil
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from pdediff import config as configs
from pdediff.errors import DataError, NumericalError, RejectedError
from pdediff.posterior import Draws, GuidedSampling, Kriging, Posterior, merge
from pdediff.runtime import Device, Runtime, resolve_device
from pdediff.stages.configs import ReconstructConfig, Sensors
from pdediff.stages.folders import VERSION, output_folder, rejected_of
from pdediff.stages.priors import Prior, content_of, gaussian_fit, load_prior, require_same_fields
from pdediff.stages.readings import Readings, describe, from_recipe, from_table
from pdediff.store import (
    ArraySpec,
    Receipt,
    Schema,
    SetReader,
    Writer,
    create,
    is_complete,
    read_observations,
    read_schema,
    write_shard,
)
from pdediff.types import Purpose, derive, normal

STATISTICS = ("denoiser_calls", "network_vjps", "log_evidence", "ess_min", "distinct_roots")
"""Numbers kept for every case; NaN where a method has no such thing."""


@dataclass(frozen=True)
class CaseTask:
    """One case for a worker; plain data."""

    path: Path
    case: int
    identity: dict[str, Any]
    readings: Readings
    prior: Path
    data: Path | None
    device: Device


def reconstruct(config: ReconstructConfig, prior: Path, data: Path | None, root: Path, runtime: Runtime) -> Path:
    """The folder of the reconstruction: made, completed, or returned as it is.

    Raises DataError for observations that do not fit the prior, MatchError for a prior that does not fit the data,
    NumericalError when every case diverged, RejectedError when some did (the others are stored).
    """
    loaded = load_prior(prior)
    posterior: Posterior = configs.build("posterior", config.posterior)
    if isinstance(posterior, GuidedSampling):  # refuses now what it would in a worker
        posterior.sampler.plan(posterior.sampler.grid(posterior.steps, posterior.sigma_max, posterior.sigma_min))
    identity = {
        "stage": "reconstruct",
        "config": config.model_dump(exclude={"name", "observations"}),
        "observations": describe(config.observations),
        "prior": {"folder": prior.name, "content": content_of(prior)},
        "data": None if data is None else {"folder": data.name, "content": content_of(data)},
    }
    readings = read_cases(config, loaded, data)
    path = output_folder(root, "recon", config.name or config.posterior["kind"].lower(), identity)
    if not is_complete(path):
        create(path, schema_of(config, loaded, readings, posterior), identity)
        keep_observations(config, path)
        with Writer(path) as writer:
            tasks = [
                CaseTask(path, case, identity, readings[case], prior, data, runtime.device) for case in writer.missing()
            ]
            failures = runtime.map(
                compute_case,
                tasks,
                label=f"reconstruct {path.name.rpartition('-')[0]}",
                on_result=lambda _, receipts: writer.accept(receipts),
                rejected=lambda receipts: sum(r.status != "ok" for r in receipts),
            )
            for failure in failures:
                writer.accept(_refuse(failure.item, failure.reason))
            writer.finish({"seconds": {str(i): r.seconds for i, r in sorted(writer.receipts.items())}})
    _judge(path, rejected_of(path), len(readings))
    return path


def read_cases(config: ReconstructConfig, prior: Prior, data: Path | None) -> list[Readings]:
    """Readings of every case: from the recipe on held-out samples, or from the user's file."""
    if isinstance(config.observations, str):
        return from_table(read_observations(config.observations), prior, config.observations)
    if data is None:
        raise DataError("observations by recipe need a data set with the truth", hint="data=NAME, or observations=FILE")
    reader = SetReader(data, memory=0)  # a few samples: not worth keeping the whole set in memory
    require_same_fields(prior, reader)
    rows = reader.split(config.split)[: config.cases]
    if len(rows) < config.cases:
        raise DataError(f"cases={config.cases}, but split {config.split!r} of {data.name} has {len(rows)} samples")
    truths = reader.fields(prior.fields, rows).numpy()
    recipe: Sensors = config.observations
    return [from_recipe(recipe, prior, t, int(i), config.seed) for t, i in zip(truths, rows, strict=True)]


def keep_observations(config: ReconstructConfig, path: Path) -> None:
    """A copy of the user's file beside the results: what was observed is part of them, and repair reads it again."""
    if not isinstance(config.observations, str):
        return
    source = Path(config.observations)
    target = path / f"observations{source.suffix}"
    if target.exists():
        return
    partial = target.with_name(f"{target.name}.partial")
    if source.is_dir():
        shutil.copytree(source, partial, dirs_exist_ok=True)
    else:
        shutil.copyfile(source, partial)
    partial.rename(target)


def stored_cases(path: Path, identity: dict[str, Any], prior: Path, data: Path | None) -> list[Readings]:
    """The readings that a stored reconstruction was made from."""
    files = sorted(path.glob("observations.*"))
    observations = str(files[0]) if files else identity["observations"]
    config = ReconstructConfig.model_validate(identity["config"] | {"observations": observations})
    return read_cases(config, load_prior(prior), data)


def schema_of(config: ReconstructConfig, prior: Prior, readings: list[Readings], posterior: Posterior) -> Schema:
    """Groups by their ArviZ names; dims case, draw, sensor and those of the field."""
    space, dims = prior.denoiser.shape[1:], prior.dims
    sensors = max(len(r.value) for r in readings)
    units, names = prior.meta["units"], prior.meta["long_names"]
    label = {f: {"units": units[f], "long_name": names[f]} for f in prior.fields}
    arrays = [
        ArraySpec(f"posterior/{f}", ("case", "draw", *dims), "float32", (config.draws, *space), label[f])
        for f in prior.fields
    ]
    arrays.append(ArraySpec("sample_stats/log_weight", ("case", "draw"), "float64", (config.draws,), {"units": "1"}))
    arrays += [ArraySpec(f"sample_stats/{name}", ("case",), "float64", (), {"units": "1"}) for name in STATISTICS]
    if posterior.trace:
        arrays.append(ArraySpec("sample_stats/ess", ("case", "level"), "float64", (posterior.trace,), {"units": "1"}))
    arrays += [
        ArraySpec(f"observed_data/{name}", ("case", "sensor"), "float64", (sensors,), {"long_name": name})
        for name in ("value", "std")
    ]
    arrays.append(
        ArraySpec("observed_data/field", ("case", "sensor"), "int16", (sensors,), {"fields": list(prior.fields)})
    )
    arrays.append(ArraySpec("observed_data/position", ("case", "sensor", "axis"), "float64", (sensors, len(dims))))
    predicted = (config.draws, sensors)
    arrays += [
        ArraySpec(f"posterior_predictive/{name}", ("case", "draw", "sensor"), "float64", predicted, {"long_name": text})
        for name, text in (("value", "readings with noise"), ("noise_free", "readings without noise"))
    ]
    arrays.append(ArraySpec("constant_data/sample", ("case",), "int64", (), {"long_name": "index in the data set"}))
    if all(r.sample >= 0 for r in readings):  # a user's own case has no known truth
        arrays += [ArraySpec(f"constant_data/{f}", ("case", *dims), "float32", space, label[f]) for f in prior.fields]
    coords: dict[str, tuple[Any, dict[str, object]]] = {
        d: (v, {"units": "1", "long_name": d}) for d, v in prior.coordinates.items()
    }
    attrs = {
        "posterior": config.posterior,
        "fields": list(prior.fields),
        "pde": prior.meta["pde"],
        "levels": prior.meta.get("levels", []),
        "exact": posterior.exact,
        "pdediff_version": VERSION,
    }
    return Schema("case", len(readings), tuple(arrays), coords, attrs, shard=1, chunk=1)


def compute_case(task: CaseTask) -> list[Receipt]:
    """Draw from the posterior of one case and write it; runs in a worker."""
    begun = time.perf_counter()
    config = ReconstructConfig.model_validate(task.identity["config"] | {"observations": {"sensors": {"none": 1}}})
    prior = load_prior(task.prior, resolve_device(task.device))
    posterior: Posterior = configs.build("posterior", config.posterior)
    source = prior.denoiser
    if isinstance(posterior, Kriging) and task.data is not None:
        source = gaussian_fit(load_prior(task.prior), task.data)
    reason = ""
    try:
        draws = draw(posterior, source, task.readings.observation(prior), config, task.case)
    except NumericalError as error:
        reason = error.message
        draws = Draws.equal(torch.full((config.draws, *prior.denoiser.shape), torch.nan))
    rows = arrays_of(task, config, prior, draws, posterior.trace)
    rejected = {task.case: reason} if reason else {}
    key = derive(config.seed, Purpose.START, task.case)
    return write_shard(task.path, task.case, rows, [key], rejected, VERSION, time.perf_counter() - begun)


def draw(posterior: Posterior, source: Any, observation: Any, config: ReconstructConfig, case: int) -> Draws:
    """The draws of one case, a tile at a time: a tile has its own seed and, for particles, is an island."""
    parts = []
    for tile, first in enumerate(range(0, config.draws, config.tile)):
        n = min(config.tile, config.draws - first)
        # Always a full tile, so that a draw does not depend on how many are asked for.
        parts.append((posterior(source, observation, config.tile, derive(config.seed, Purpose.START, case, tile)), n))
    return merge(parts)


def arrays_of(
    task: CaseTask, config: ReconstructConfig, prior: Prior, draws: Draws, trace: int
) -> dict[str, np.ndarray]:
    """One row of every array of the store."""
    readings = task.readings
    x = prior.physical(draws.x.to(prior.offset)).cpu()
    store = _schema_arrays(task.path)
    sensors = store["observed_data/value"].shape[0]
    eps = normal((derive(config.seed, Purpose.MEASUREMENT, task.case, 1),), (len(x), len(readings.value)))[0]
    clean = readings.predict(load_prior(task.prior), x.double()).numpy()
    rows: dict[str, np.ndarray] = {f"posterior/{f}": x[:, i].numpy() for i, f in enumerate(prior.fields)}
    rows["sample_stats/log_weight"] = draws.log_weights.cpu().numpy()
    for name in STATISTICS:
        rows[f"sample_stats/{name}"] = np.asarray(draws.diagnostics.get(name, np.nan), dtype=np.float64)
    if trace:
        rows["sample_stats/ess"] = np.asarray(draws.diagnostics.get("ess", np.full(trace, np.nan)))
    rows["observed_data/value"] = _padded(readings.value, sensors)
    rows["observed_data/std"] = _padded(readings.std, sensors)
    rows["observed_data/field"] = _padded(readings.field, sensors, -1).astype("int16")
    rows["observed_data/position"] = _padded(readings.points, sensors)
    rows["posterior_predictive/noise_free"] = _padded(clean.T, sensors).T
    rows["posterior_predictive/value"] = _padded((clean + readings.std * eps.numpy()).T, sensors).T
    rows["constant_data/sample"] = np.asarray(readings.sample, dtype=np.int64)
    if task.data is not None and readings.sample >= 0:
        truth = SetReader(task.data, memory=0).fields(prior.fields, [readings.sample])[0].numpy()
        rows |= {f"constant_data/{f}": truth[i] for i, f in enumerate(prior.fields)}
    return {name: np.asarray(value)[None] for name, value in rows.items()}


def _schema_arrays(path: Path) -> dict[str, ArraySpec]:
    return {spec.path: spec for spec in read_schema(path).arrays}


def _padded(values: np.ndarray, length: int, fill: float = np.nan) -> np.ndarray:
    out = np.full((length, *values.shape[1:]), fill)
    out[: len(values)] = values
    return out


def _refuse(task: CaseTask, reason: str) -> list[Receipt]:
    rows = {p: np.zeros((1, *s.shape), dtype=s.dtype) for p, s in _schema_arrays(task.path).items()}
    return write_shard(task.path, task.case, rows, [0], {task.case: reason}, VERSION, 0.0)


def _judge(path: Path, rejected: dict[int, str], cases: int) -> None:
    if not rejected:
        return
    case, reason = next(iter(rejected.items()))
    if len(rejected) == cases:
        raise NumericalError(f"all {cases} cases failed; case {case}: {reason}", hint=f"they are marked in {path}")
    raise RejectedError(f"{len(rejected)} of {cases} cases failed; case {case}: {reason}", hint=f"the others: {path}")
