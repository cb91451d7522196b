"""Train the operator of a steady equation on a data set, and bring a stored one back."""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from pdediff import checkpoint
from pdediff import config as configs
from pdediff.errors import ConfigError, IntegrityError, MatchError
from pdediff.models.forecasters import Response, Steady
from pdediff.runtime import Runtime
from pdediff.stages.folders import output_folder, writing
from pdediff.stages.forecast_config import TrainForecasterConfig
from pdediff.stages.forecast_data import Scaling
from pdediff.stages.forecaster_training import _plan
from pdediff.stages.priors import content_of
from pdediff.stages.steady_data import Pairs, load_pairs
from pdediff.stages.symmetry import augment
from pdediff.stages.training import _finished, _threads
from pdediff.store import SetReader, finish_folder
from pdediff.train import fit
from pdediff.types import Purpose, derive
from pdediff.wording import one_line


@dataclass(frozen=True, eq=False)
class StoredMap:
    """A trained map: rule, network, scalings, and what its channels are."""

    forecaster: Steady
    response: Response
    inputs: Scaling
    outputs: Scaling
    meta: dict[str, Any]

    def __call__(self, given: Tensor, conditions: Tensor) -> Tensor:
        """Output fields (batch, channel, *space) from input fields, both in physical units."""
        with torch.no_grad():
            return self.outputs.physical(self.response(self.inputs.state(given), conditions))


def train_steady(config: TrainForecasterConfig, data: Path, root: Path, runtime: Runtime) -> Path:
    """The run folder of the map that `config` describes on `data`: trained, continued, or as it is.

    Raises ConfigError for strides, MatchError for fields the set does not have, NumericalError for a training that
    diverged, LockedError.
    """
    if list(config.strides) != [1]:
        raise ConfigError(f"strides={config.strides}: a steady map has no time step")
    reader = SetReader(data)
    identity = {
        "stage": "train_forecaster",
        "config": config.model_dump(exclude={"name"}),
        "data": {"folder": data.name, "content": content_of(data)},
    }
    path = output_folder(root, "runs", config.name or data.name.rpartition("-")[0], identity)
    if _finished(path):
        return path
    forecaster: Steady = configs.build("forecaster", config.forecaster)
    pairs = load_pairs(reader, config.fields, forecaster, config.seed)
    network = _network(config, forecaster, pairs)
    with writing(path), _threads(config.threads):
        checkpoint.damages(path, set_aside=True)
        if not _finished(path):
            _train(config, forecaster, pairs, network, identity, path, runtime)
    return path


def _built(node: dict[str, Any], forecaster: Steady, meta: dict[str, Any], conditions: int, seed: int) -> nn.Module:
    inputs = forecaster.inputs(len(meta["inputs"]))
    recipe = configs.build("network", node)
    return recipe.build(len(meta["fields"]), len(meta["dims"]), seed, inputs=inputs, labels=1 + conditions)


def _network(config: TrainForecasterConfig, forecaster: Steady, pairs: Pairs) -> nn.Module:
    """The network before training, tried on one sample: ConfigError where it does not fit, nothing written yet."""
    conditions = pairs.conditions.shape[1]
    network = _built(config.network, forecaster, pairs.meta, conditions, derive(config.seed, Purpose.WEIGHTS, 0))
    try:
        with torch.no_grad():
            network(torch.zeros_like(pairs.given[:1]), torch.zeros(1, 1 + conditions))
    except ValueError as error:
        raise ConfigError(f"network: {one_line(error)}") from None
    return network


def _train(
    config: TrainForecasterConfig,
    forecaster: Steady,
    pairs: Pairs,
    network: nn.Module,
    identity: dict[str, Any],
    path: Path,
    runtime: Runtime,
) -> None:
    device, channels = runtime.torch_device, pairs.given.shape[1]
    network.to(device)
    both, conditions = torch.cat((pairs.given, pairs.known), 1).to(device), pairs.conditions.to(device)
    origin = (pairs.outputs.offset / pairs.outputs.scale).to(device)
    symmetries = pairs.meta["symmetries"] if forecaster.augment else "none"

    def batch_loss(model: nn.Module, indices: Tensor, step: int) -> Tensor:
        given, known = augment(both[indices], symmetries, config.seed, step).tensor_split([channels], 1)
        seed = derive(config.seed, Purpose.STEP, step)
        return forecaster.loss(Response(model, origin), given, known, conditions[indices], seed)

    meta = pairs.meta | {
        "steady": config.forecaster,
        "network": config.network,
        "conditions": {name: list(pair) for name, pair in pairs.inputs.conditions.items()},
    }
    result = fit(network, batch_loss, len(both), _plan(config), path, meta=meta, progress=runtime.progress)
    final = {f"network.{k}": v for k, v in network.state_dict().items() if k != "_metadata"}
    for name, scaling in (("inputs", pairs.inputs), ("outputs", pairs.outputs)):
        final |= {f"{name}.offset": scaling.offset, f"{name}.scale": scaling.scale}
    contract = checkpoint.Contract(
        pde=meta["pde"]["kind"],
        channels=tuple(meta["fields"]),
        grid=tuple(both.shape[2:]),
        dims=tuple(meta["dims"]),
        units=tuple(meta["units"].values()),
    )
    told = {"loss": result.loss, "skipped_steps": result.skipped}
    saved = checkpoint.save(path, config.fit.steps, final, checkpoint.with_contract(meta | told, contract), final=True)
    finish_folder(
        path, {"content": checkpoint.digest(saved), "identity": identity, "seconds": round(result.seconds, 1)}
    )


def load_map(run: Path, device: str = "cpu") -> StoredMap:
    """The finished map of a run folder; cached per checkpoint content.

    Raises IntegrityError where no whole checkpoint is left, MatchError for a run that holds no steady map.
    """
    return _load(run, content_of(run), device)


@lru_cache(maxsize=4)
def _load(run: Path, sha256: str, device: str) -> StoredMap:
    for damage in checkpoint.damages(run):
        if damage.startswith("checkpoint final-"):
            raise IntegrityError(damage, hint="run its training again: it continues")
    tensors, meta = checkpoint.load(run)
    if "steady" not in meta:
        raise MatchError(f"{run.name} holds no map of a steady equation", hint="train with forecaster=steady_map")
    try:
        forecaster: Steady = configs.build("forecaster", meta["steady"])
        network = _built(meta["network"], forecaster, meta, len(meta["conditions"]), 0)
        network.load_state_dict({k.removeprefix("network."): v for k, v in tensors.items() if k.startswith("network.")})
    except (KeyError, RuntimeError, ConfigError) as error:
        raise MatchError(
            f"map {run.name} was made by another version of pdediff ({one_line(error)[:60]})",
            hint=f"remove {run} and train it again",
        ) from error
    network.eval().requires_grad_(False).to(device)
    conditions = {name: (pair[0], pair[1]) for name, pair in meta["conditions"].items()}
    at = {name: tensor.to(device) for name, tensor in tensors.items() if not name.startswith("network.")}
    inputs = Scaling(at["inputs.offset"], at["inputs.scale"], conditions)
    outputs = Scaling(at["outputs.offset"], at["outputs.scale"], {})
    return StoredMap(forecaster, Response(network, outputs.offset / outputs.scale), inputs, outputs, meta)
