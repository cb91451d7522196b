"""Train a forecaster on the trajectories of a data set, and bring a stored one back."""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from pdediff import checkpoint
from pdediff import config as configs
from pdediff.errors import ConfigError, IntegrityError, MatchError
from pdediff.models.forecasters import Dynamics, Forecaster, assembled, prepare
from pdediff.runtime import Runtime
from pdediff.stages.folders import output_folder, writing
from pdediff.stages.forecast_config import TrainForecasterConfig
from pdediff.stages.forecast_data import ForecastData, Scaling, load_windows
from pdediff.stages.priors import content_of
from pdediff.stages.training import _finished, _threads
from pdediff.store import SetReader, finish_folder
from pdediff.train import FitConfig, Optimiser, Supervision, fit
from pdediff.types import Purpose, derive
from pdediff.wording import one_line


@dataclass(frozen=True, eq=False)
class StoredForecaster:
    """A trained forecaster: rule, network, normalisation, and what its channels are."""

    forecaster: Forecaster
    network: nn.Module
    difference: Tensor
    strides: tuple[int, ...]
    scaling: Scaling
    meta: dict[str, Any]

    def dynamics(self, stride: int) -> Dynamics:
        """The network for one stride. Raises ConfigError for one that it was not trained for."""
        return Dynamics(self.network, self.difference[self._number(stride)])

    def conditions(self, scalars: Tensor, stride: int) -> Tensor:
        """What the network is told: the scalars of the samples and, where it knows several, the stride."""
        if len(self.strides) == 1:
            return scalars
        return torch.cat((scalars, scalars.new_full((len(scalars), 1), stride_label(stride, self.strides))), 1)

    def _number(self, stride: int) -> int:
        if stride not in self.strides:
            raise ConfigError(f"stride={stride}: this forecaster was trained for {', '.join(map(str, self.strides))}")
        return self.strides.index(stride)


def stride_label(stride: int, strides: tuple[int, ...]) -> float:
    """The logarithm of a stride over that of the geometric mean of all, in octaves."""
    return math.log2(stride) - sum(map(math.log2, strides)) / len(strides)


def train_forecaster(config: TrainForecasterConfig, data: Path, root: Path, runtime: Runtime) -> Path:
    """The run folder of the forecaster that `config` describes on `data`: trained, continued, or as it is.

    Raises MatchError for fields the set does not have, NumericalError for a training that diverged, LockedError.
    """
    reader = SetReader(data)
    identity = {
        "stage": "train_forecaster",
        "config": config.model_dump(exclude={"name"}),
        "data": {"folder": data.name, "content": content_of(data)},
    }
    path = output_folder(root, "runs", config.name or data.name.rpartition("-")[0], identity)
    if _finished(path):
        return path
    forecaster: Forecaster = configs.build("forecaster", config.forecaster)
    length, strides = forecaster.history + forecaster.horizon, tuple(config.strides)
    loaded = load_windows(reader, config.fields, length, strides)
    network = _network(config, forecaster, loaded)
    with writing(path), _threads(config.threads):
        checkpoint.damages(path, set_aside=True)
        if not _finished(path):
            _train(config, forecaster, loaded, network, identity, path, runtime)
    return path


def _sizes(forecaster: Forecaster, channels: int, conditions: int, strides: int) -> dict[str, int]:
    return {"inputs": forecaster.inputs(channels), "labels": 1 + conditions + (strides > 1)}


def _network(config: TrainForecasterConfig, forecaster: Forecaster, data: ForecastData) -> nn.Module:
    """The network before training, tried on one window: ConfigError where it does not fit, nothing written yet."""
    frames = data.windows.frames
    channels, spatial = frames.shape[2], frames.dim() - 3
    sizes = _sizes(forecaster, channels, data.windows.conditions.shape[1], len(config.strides))
    seed = derive(config.seed, Purpose.WEIGHTS, 0)
    network = assembled(forecaster, configs.build("network", config.network), channels, spatial, seed, **sizes)
    try:
        prepare(forecaster, network, frames[:, :: min(config.strides)])
        with torch.no_grad():
            network(frames.new_zeros(1, sizes["inputs"], *frames.shape[3:]), frames.new_zeros(1, sizes["labels"]))
    except ValueError as error:
        raise ConfigError(f"network: {one_line(error)}") from None
    return network


def _train(
    config: TrainForecasterConfig,
    forecaster: Forecaster,
    data: ForecastData,
    network: nn.Module,
    identity: dict[str, Any],
    path: Path,
    runtime: Runtime,
) -> None:
    device, windows = runtime.torch_device, data.windows
    network.to(device)
    difference = data.difference.to(device)
    steps = torch.tensor([stride_label(s, windows.strides) for s in windows.strides])

    def batch_loss(model: nn.Module, indices: Tensor, step: int) -> Tensor:
        window, conditions, which = windows.take(indices)
        if len(windows.strides) > 1:
            conditions = torch.cat((conditions, steps[which][:, None]), 1)
        dynamics = Dynamics(model, difference[which.to(device)])
        seed = derive(config.seed, Purpose.STEP, step)
        return forecaster.loss(dynamics, window.to(device), conditions.to(device), seed)

    meta = data.meta | {
        "forecaster": config.forecaster,
        "network": config.network,
        "strides": list(windows.strides),
        "conditions": {name: list(pair) for name, pair in data.scaling.conditions.items()},
    }
    result = fit(network, batch_loss, len(windows), _plan(config), path, meta=meta, progress=runtime.progress)
    final = {f"network.{k}": v for k, v in network.state_dict().items() if k != "_metadata"}
    final |= {"offset": data.scaling.offset, "scale": data.scaling.scale, "difference": data.difference}
    contract = checkpoint.Contract(
        pde=data.meta["pde"]["kind"],
        channels=tuple(data.meta["fields"]),
        grid=tuple(windows.frames.shape[3:]),
        dims=tuple(data.meta["dims"]),
        units=tuple(data.meta["units"].values()),
        time_step=data.meta["interval"],
    )
    told = {"loss": result.loss, "skipped_steps": result.skipped}
    saved = checkpoint.save(path, config.fit.steps, final, checkpoint.with_contract(meta | told, contract), final=True)
    finish_folder(
        path, {"content": checkpoint.digest(saved), "identity": identity, "seconds": round(result.seconds, 1)}
    )


def _plan(config: TrainForecasterConfig) -> FitConfig:
    settings = config.fit
    return FitConfig(
        steps=settings.steps,
        batch=settings.batch,
        optimiser=Optimiser(settings.learning_rate, settings.warm_up, settings.weight_decay, settings.clip),
        ema_half_life=settings.ema_half_life,
        precision=settings.precision,
        seed=config.seed,
        supervision=Supervision(settings.checkpoint_every),
    )


def load_forecaster(run: Path, device: str = "cpu") -> StoredForecaster:
    """The finished forecaster of a run folder; cached per checkpoint content.

    Raises IntegrityError where no whole checkpoint is left, MatchError for a run that holds no forecaster.
    """
    return _load(run, content_of(run), device)


@lru_cache(maxsize=4)
def _load(run: Path, sha256: str, device: str) -> StoredForecaster:
    for damage in checkpoint.damages(run):
        if damage.startswith("checkpoint final-"):
            raise IntegrityError(damage, hint="run its training again: it continues")
    tensors, meta = checkpoint.load(run)
    if "forecaster" not in meta:
        raise MatchError(f"{run.name} is a prior, not a forecaster", hint="pdediff train data=NAME forecaster=KIND")
    try:
        forecaster: Forecaster = configs.build("forecaster", meta["forecaster"])
        sizes = _sizes(forecaster, len(meta["fields"]), len(meta["conditions"]), len(meta["strides"]))
        made = configs.build("network", meta["network"])
        network = assembled(forecaster, made, len(meta["fields"]), len(meta["dims"]), 0, **sizes)
        network.load_state_dict({k.removeprefix("network."): v for k, v in tensors.items() if k.startswith("network.")})
    except (KeyError, RuntimeError, ConfigError) as error:
        raise MatchError(
            f"forecaster {run.name} was made by another version of pdediff ({one_line(error)[:60]})",
            hint=f"remove {run} and train it again",
        ) from error
    network.eval().requires_grad_(False).to(device)
    conditions = {name: (pair[0], pair[1]) for name, pair in meta["conditions"].items()}
    scaling = Scaling(tensors["offset"].to(device), tensors["scale"].to(device), conditions)
    strides = tuple(meta["strides"])
    return StoredForecaster(forecaster, network, tensors["difference"].to(device), strides, scaling, meta)
