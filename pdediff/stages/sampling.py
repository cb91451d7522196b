"""Draw fields from a prior, without observations, into a store."""

from __future__ import annotations

import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from pdediff import config as configs
from pdediff.errors import ConfigError, NumericalError
from pdediff.runtime import Device, Runtime, resolve_device
from pdediff.samplers import gaussian_start, run
from pdediff.stages.configs import SampleConfig
from pdediff.stages.folders import VERSION, output_folder
from pdediff.stages.priors import Prior, content_of, load_prior
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


def sample(config: SampleConfig, prior: Path, root: Path, runtime: Runtime) -> Path:
    """The folder of the samples: made, completed, or returned as it is.

    Raises ConfigError for a grid other than the prior's own, NumericalError when the sampler diverges.
    """
    loaded = load_prior(prior)
    own = loaded.denoiser.shape[-1]
    if config.grid is not None and config.grid != own:
        raise ConfigError(
            f"grid={config.grid}: this prior has a mean and a calibration on its own grid, {own} points a side",
            hint=f"leave grid out, or train on data of grid={config.grid}",
        )
    sampler = configs.build("sampler", config.sampler)
    # refuses now what it would in a worker
    sampler.plan(sampler.grid(config.steps, config.sigma_max, config.sigma_min))
    identity = {
        "stage": "sample",
        "config": config.model_dump(exclude={"name"}),
        "prior": {"folder": prior.name, "content": content_of(prior)},
    }
    path = output_folder(root, "samples", config.name or prior.name.rpartition("-")[0], identity)
    if not is_complete(path):
        create(path, schema_of(config, loaded), identity)
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


def task_of(path: Path, shard: int, identity: dict[str, Any], schema: Schema, prior: Path, device: Device) -> TileTask:
    """The work order of one tile."""
    rows = schema.rows(shard)
    return TileTask(path, shard, (rows.start, rows.stop), identity["config"], prior, device)


def schema_of(config: SampleConfig, prior: Prior) -> Schema:
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
    attrs = {"sampler": config.sampler, "pde": prior.meta["pde"], "pdediff_version": VERSION}
    return Schema("sample", config.n, tuple(arrays), coords, attrs, shard=config.tile, chunk=1)


def compute_tile(task: TileTask) -> list[Receipt]:
    """Draw and write one tile; runs in a worker."""
    begun = time.perf_counter()
    config = SampleConfig.model_validate(task.config)
    prior = load_prior(task.prior, resolve_device(task.device))
    sampler = configs.build("sampler", config.sampler)
    plan = sampler.plan(sampler.grid(config.steps, config.sigma_max, config.sigma_min))
    first, stop = task.rows
    # A full tile always, so that a sample does not depend on how many are asked for.
    rows = range(first, first + config.tile)
    with torch.no_grad():
        x = gaussian_start(prior.denoiser, plan.levels[0], derive_many(config.seed, Purpose.START, rows))
        x = run(plan, prior.denoiser, x, derive_many(config.seed, Purpose.STEP, rows), denoise_last=True)
    fields = prior.physical(x)[: stop - first].cpu().numpy()
    data = {name: fields[:, i] for i, name in enumerate(prior.fields)}
    keys = derive_many(config.seed, Purpose.START, range(first, stop))
    return write_shard(task.path, task.shard, data, keys, {}, VERSION, time.perf_counter() - begun)
