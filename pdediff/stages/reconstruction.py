"""Reconstruct fields from observations: posterior draws of every case, in one labelled store."""

from __future__ import annotations

import shutil
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from pdediff import config as configs
from pdediff.errors import ConfigError, DataError, NumericalError, RejectedError
from pdediff.posterior import Draws, GuidedSampling, Kriging, Posterior
from pdediff.runtime import Device, Runtime, resolve_device
from pdediff.stages.configs import ReconstructConfig, Sensors
from pdediff.stages.folders import VERSION, output_folder, rejected_of
from pdediff.stages.priors import Prior, content_of, gaussian_fit, load_prior, require_same_fields
from pdediff.stages.problem_cases import ProblemPrior, problem_cases, problem_prior, require_fit
from pdediff.stages.problem_learned import learned_prior
from pdediff.stages.readings import Readings, describe, from_recipe, from_table
from pdediff.stages.reconstruction_schema import STATISTICS, schema_of
from pdediff.stages.tiles import diverged, draw, reweighted, without
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


@dataclass(frozen=True)
class CasesTask:
    """The cases of one shard for a worker; plain data."""

    path: Path
    shard: int
    cases: range
    identity: dict[str, Any]
    readings: Sequence[Readings]
    prior: Path | None
    data: Path | None
    device: Device


def reconstruct(config: ReconstructConfig, prior: Path | None, data: Path | None, root: Path, runtime: Runtime) -> Path:
    """The folder of the reconstruction: made, completed, or returned as it is.

    Without `data` for the cases of `config.problem`, which has a prior of its own, for which `prior` may stand in.

    Raises DataError for observations that do not fit the prior, MatchError for a prior that does not fit the data,
    ConfigError for a posterior that does not fit the problem, NumericalError when every case diverged, RejectedError
    when some did (the others are stored).
    """
    require_sources(config, prior, data)
    posterior: Posterior = configs.build("posterior", config.posterior)
    if isinstance(posterior, GuidedSampling):  # refuses now what it would in a worker
        posterior.sampler.plan(posterior.sampler.grid(posterior.steps, posterior.sigma_max, posterior.sigma_min))
    loaded = prior_of(config, prior)
    if isinstance(loaded, ProblemPrior):
        require_fit(posterior, loaded)
    identity = identity_of(config, prior, data)
    readings = read_cases(config, loaded, data)
    path = output_folder(root, "recon", config.name or config.posterior["kind"].lower(), identity)
    sources = (identity, prior, data)
    if not is_complete(path):
        create(path, schema_of(config, loaded, readings, posterior), identity)
        keep_observations(config, path)
        with Writer(path) as writer:
            schema, device = writer.schema, runtime.device
            tasks = [task_of(path, shard, schema, readings, sources, device) for shard in writer.missing()]
            failures = runtime.map(
                compute_cases,
                tasks,
                label=f"reconstruct {path.name.rpartition('-')[0]}",
                on_result=lambda _, receipts: writer.accept(receipts),
                size=lambda task: len(task.cases),
                rejected=lambda receipts: sum(r.status != "ok" for r in receipts),
            )
            for failure in failures:
                writer.accept(_refuse(failure.item, failure.reason))
            writer.finish({"seconds": {str(i): r.seconds for i, r in sorted(writer.receipts.items())}})
    _judge(path, rejected_of(path), len(readings))
    return path


def require_sources(config: ReconstructConfig, prior: Path | None, data: Path | None) -> None:
    """ConfigError unless the cases come from one place, a problem or a data set, and there is a prior for them."""
    if config.problem is None and prior is None:
        raise ConfigError("prior is missing", hint="write prior=NAME, or problem=NAME, which has a prior of its own")
    if config.problem is not None and data is not None:
        raise ConfigError("data= beside problem=: a problem has its own cases", hint="leave one out")


def prior_of(config: ReconstructConfig, prior: Path | None, device: str = "cpu") -> Prior:
    """The stored prior, for the cases of a problem where there is one, or the problem's own, float64 on the CPU."""
    if prior is None:
        return problem_prior(config.problem or {})
    trained = load_prior(prior, device)
    return trained if config.problem is None else learned_prior(config.problem, prior.name, trained)


def identity_of(config: ReconstructConfig, prior: Path | None, data: Path | None) -> dict[str, Any]:
    """What the result is made from."""
    kept = config.model_dump(exclude={"name", "observations"} | ({"problem"} if config.problem is None else set()))
    return {
        "stage": "reconstruct",
        "config": kept,
        "observations": None if config.observations is None else describe(config.observations),
        "prior": None if prior is None else {"folder": prior.name, "content": content_of(prior)},
        "data": None if data is None else {"folder": data.name, "content": content_of(data)},
    }


def read_cases(config: ReconstructConfig, prior: Prior, data: Path | None) -> Sequence[Readings]:
    """Readings of every case: of the problem, from the recipe on held-out samples, or from the user's file."""
    if config.problem is not None:
        return problem_cases(config.problem, config.cases, config.seed)
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
    recipe = config.observations
    assert isinstance(recipe, Sensors)  # the config is one of the three
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


def stored_cases(path: Path, identity: dict[str, Any], prior: Path | None, data: Path | None) -> Sequence[Readings]:
    """The readings that a stored reconstruction was made from."""
    files = sorted(path.glob("observations.*"))
    observations = str(files[0]) if files else identity["observations"]
    config = ReconstructConfig.model_validate(identity["config"] | {"observations": observations})
    return read_cases(config, prior_of(config, prior), data)


def task_of(
    path: Path,
    shard: int,
    schema: Schema,
    readings: Sequence[Readings],
    sources: tuple[dict[str, Any], Path | None, Path | None],
    device: Device,
) -> CasesTask:
    """The work order of one shard; `sources` are the identity, prior and data of the reconstruction."""
    rows = schema.rows(shard)
    identity, prior, data = sources
    return CasesTask(path, shard, rows, identity, readings[rows.start : rows.stop], prior, data, device)


def compute_cases(task: CasesTask) -> list[Receipt]:
    """Draw from the posterior of each case of a shard and write them; runs in a worker."""
    config = ReconstructConfig.model_validate(task.identity["config"] | {"observations": {"sensors": {"none": 1}}})
    prior = prior_of(config, task.prior, resolve_device(task.device))
    posterior: Posterior = configs.build("posterior", config.posterior)
    source = prior.denoiser
    if isinstance(posterior, Kriging) and task.data is not None:
        source = gaussian_fit(prior_of(config, task.prior), task.data)
    arrays, stored = _schema_arrays(task.path), prior_of(config, task.prior)
    rows: list[dict[str, np.ndarray]] = []
    rejected, seconds = {}, []
    for case, readings in zip(task.cases, task.readings, strict=True):
        begun = time.perf_counter()
        try:
            draws = draw(posterior, source, readings.observation(prior), config, case)
        except NumericalError as error:
            rejected[case] = error.message
            draws = Draws.equal(torch.full((config.draws, *prior.denoiser.shape), torch.nan))
        found = arrays_of(config, arrays, stored, draws, readings, case)
        if case not in rejected and bool(found["sample_stats/diverging"].all()):
            rejected[case] = f"all {config.draws} draws diverged"
        known = {"constant_data": readings.truth(stored, task.data), **readings.exact()}
        found |= {f"{g}/{f}": v[i] for g, v in known.items() if v is not None for i, f in enumerate(prior.fields)}
        rows.append({name: np.asarray(value, dtype=arrays[name].dtype) for name, value in found.items()})
        seconds.append(time.perf_counter() - begun)
    whole = {name: np.stack([row[name] for row in rows]) for name in arrays}
    keys = [derive(config.seed, Purpose.START, case) for case in task.cases]
    return write_shard(task.path, task.shard, whole, keys, rejected, VERSION, seconds)


def arrays_of(
    config: ReconstructConfig,
    arrays: Mapping[str, ArraySpec],
    prior: Prior,
    draws: Draws,
    readings: Readings,
    case: int,
) -> dict[str, np.ndarray]:
    """What one case says of its draws and readings, by the path of the array; `prior` lies on the processor."""
    z = draws.x.to(prior.offset)
    x = prior.physical(z)
    bad = diverged(z, x, prior.denoiser)
    z, x = without(z, bad), without(x, bad).float()
    sensors = arrays["observed_data/value"].shape[0]
    eps = normal((derive(config.seed, Purpose.MEASUREMENT, case, 1),), (len(x), len(readings.value)))[0]
    clean = readings.predict_draws(prior, z, x).numpy()
    rows: dict[str, np.ndarray] = {f"posterior/{f}": x[:, i].numpy() for i, f in enumerate(prior.fields)}
    rows["sample_stats/log_weight"] = reweighted(draws.log_weights.cpu(), bad).numpy()
    rows["sample_stats/diverging"] = bad.numpy()
    for name in STATISTICS:
        rows[f"sample_stats/{name}"] = np.asarray(draws.diagnostics.get(name, np.nan), dtype=np.float64)
    if "sample_stats/ess" in arrays:
        missing = np.full(arrays["sample_stats/ess"].shape, np.nan)
        rows["sample_stats/ess"] = np.asarray(draws.diagnostics.get("ess", missing))
    rows["observed_data/value"] = _padded(readings.value, sensors)
    rows["observed_data/std"] = _padded(readings.std, sensors)
    rows["observed_data/field"] = _padded(readings.field, sensors, -1).astype("int16")
    rows["observed_data/position"] = _padded(readings.points, sensors)
    rows["posterior_predictive/noise_free"] = _padded(clean.T, sensors).T
    rows["posterior_predictive/value"] = _padded((clean + readings.std * eps.numpy()).T, sensors).T
    rows["constant_data/sample"] = np.asarray(readings.sample, dtype=np.int64)
    return rows


def _schema_arrays(path: Path) -> dict[str, ArraySpec]:
    return {spec.path: spec for spec in read_schema(path).arrays}


def _padded(values: np.ndarray, length: int, fill: float = np.nan) -> np.ndarray:
    out = np.full((length, *values.shape[1:]), fill)
    out[: len(values)] = values
    return out


def _refuse(task: CasesTask, reason: str) -> list[Receipt]:
    size = len(task.cases)
    rows = {p: np.zeros((size, *s.shape), dtype=s.dtype) for p, s in _schema_arrays(task.path).items()}
    return write_shard(task.path, task.shard, rows, [0] * size, dict.fromkeys(task.cases, reason), VERSION, 0.0)


def _judge(path: Path, rejected: dict[int, str], cases: int) -> None:
    if not rejected:
        return
    case, reason = next(iter(rejected.items()))
    if len(rejected) == cases:
        raise NumericalError(f"all {cases} cases failed; case {case}: {reason}", hint=f"they are marked in {path}")
    raise RejectedError(f"{len(rejected)} of {cases} cases failed; case {case}: {reason}", hint=f"the others: {path}")
