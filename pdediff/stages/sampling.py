"""Draw fields from a prior, without observations, into a store."""

from __future__ import annotations

import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from pdediff import config as configs
from pdediff.errors import ConfigError, MatchError, NumericalError
from pdediff.runtime import Device, Runtime, resolve_device
from pdediff.samplers import Plan, Sampler, gaussian_start, run
from pdediff.stages.configs import SampleConfig
from pdediff.stages.folders import VERSION, output_folder
from pdediff.stages.priors import Prior, content_of, load_prior
from pdediff.stages.tuning import plan_of
from pdediff.store import ArraySpec, Receipt, Schema, Writer, create, is_complete, write_shard
from pdediff.types import Purpose, derive_many


@dataclass(frozen=True)
class TileTask:
    """One tile of samples; plain data."""

    path: Path
    shard: int
    rows: tuple[int, int]
    config: dict[str, Any]
    prior: Path
    device: Device
    plan: str


def sample(config: SampleConfig, prior: Path, root: Path, runtime: Runtime, plan: Path | None = None) -> Path:
    """The folder of the samples: made, completed, or returned as it is.

    `plan` is the result of `tune` for this prior; its levels and coefficients replace sampler, steps, sigma_max and
    sigma_min. The plan that was run is kept in the attributes of the samples.

    Raises ConfigError for a grid other than the prior's own, MatchError for a plan tuned for another prior,
    NumericalError when the sampler diverges.
    """
    loaded = load_prior(prior)
    own = loaded.denoiser.shape[-1]
    if config.grid is not None and config.grid != own:
        raise ConfigError(
            f"grid={config.grid}: this prior has a mean and a calibration on its own grid, {own} points a side",
            hint=f"leave grid out, or train on data of grid={config.grid}",
        )
    compiled = _compiled(config, prior, plan)  # refuses now what it would in a worker
    replaced = {"sampler", "steps", "sigma_max", "sigma_min"} if plan else set()
    identity: dict[str, Any] = {
        "stage": "sample",
        "config": config.model_dump(exclude={"name", *replaced}),
        "prior": {"folder": prior.name, "content": content_of(prior)},
    }
    if plan:
        identity["plan"] = {"folder": plan.name, "content": content_of(plan)}
    path = output_folder(root, "samples", config.name or prior.name.rpartition("-")[0], identity)
    if not is_complete(path):
        made_by = {"tuned": plan.name} if plan else config.sampler
        create(path, schema_of(config, loaded, compiled, made_by), identity)
        with Writer(path) as writer:
            tasks = [task_of(path, shard, identity, writer.schema, prior, runtime.device) for shard in writer.missing()]
            failures = runtime.map(
                compute_tile,
                tasks,
                label="sample",
                on_result=lambda _, receipts: writer.accept(receipts),
                size=lambda task: task.rows[1] - task.rows[0],
            )
            if failures:
                raise NumericalError(f"samples {failures[0].item.rows} could not be drawn: {failures[0].reason}")
            writer.finish({})
    return path


def _compiled(config: SampleConfig, prior: Path, plan: Path | None) -> Plan:
    if plan is None:
        sampler: Sampler = configs.build("sampler", config.sampler)
        return sampler.plan(sampler.grid(config.steps, config.sigma_max, config.sigma_min))
    found, tuned_for = plan_of(plan)
    if tuned_for != content_of(prior):
        raise MatchError(
            f"plan {plan.name} was tuned for another prior than {prior.name}", hint="tune one for this one"
        )
    return found


def task_of(path: Path, shard: int, identity: dict[str, Any], schema: Schema, prior: Path, device: Device) -> TileTask:
    """The work order of one tile. Raises MatchError for samples of a version that kept no plan."""
    rows = schema.rows(shard)
    span = (rows.start, rows.stop)
    if "plan" not in schema.attrs:
        raise MatchError(
            f"{path.name} was drawn by another version of pdediff", hint=f"remove {path} and draw it again"
        )
    return TileTask(path, shard, span, identity["config"], prior, device, str(schema.attrs["plan"]))


def schema_of(config: SampleConfig, prior: Prior, plan: Plan, made_by: dict[str, Any]) -> Schema:
    """One array for each field, a tile of samples a shard."""
    arrays = [
        ArraySpec(
            name,
            ("sample", *prior.dims),
            "float32",
            prior.denoiser.shape[1:],
            {"units": prior.meta["units"][name], "long_name": prior.meta["long_names"][name]},
        )
        for name in prior.fields
    ]
    coords: dict[str, tuple[Any, dict[str, object]]] = {
        d: (v, {"units": "1", "long_name": d}) for d, v in prior.coordinates.items()
    }
    attrs = {
        "sampler": made_by,
        "plan": plan.to_json(),
        "plan_digest": plan.digest(),
        "pde": prior.meta["pde"],
        "pdediff_version": VERSION,
    }
    return Schema("sample", config.n, tuple(arrays), coords, attrs, shard=config.tile, chunk=1)


def compute_tile(task: TileTask) -> list[Receipt]:
    """Draw and write one tile; runs in a worker."""
    begun = time.perf_counter()
    seed, tile = task.config["seed"], task.config["tile"]
    prior = load_prior(task.prior, resolve_device(task.device))
    plan = Plan.from_json(task.plan)
    first, stop = task.rows
    # A full tile always, so that a sample does not depend on how many are asked for.
    rows = range(first, first + tile)
    with torch.no_grad():
        x = gaussian_start(prior.denoiser, plan.levels[0], derive_many(seed, Purpose.START, rows))
        seeds = derive_many(seed, Purpose.STEP, rows)
        x = run(plan, prior.denoiser, x, seeds, path=task.config["path"], denoise_last=True)
    fields = prior.physical(x)[: stop - first].cpu().numpy()
    data = {name: fields[:, i] for i, name in enumerate(prior.fields)}
    keys = derive_many(seed, Purpose.START, range(first, stop))
    return write_shard(task.path, task.shard, data, keys, {}, VERSION, time.perf_counter() - begun)
