"""The store of a reconstruction: its groups, arrays and attributes."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np

from pdediff.posterior import Posterior
from pdediff.stages.configs import ReconstructConfig
from pdediff.stages.folders import VERSION
from pdediff.stages.priors import Prior
from pdediff.stages.readings import Readings
from pdediff.store import ArraySpec, Schema

STATISTICS = (
    "denoiser_calls",
    "network_vjps",
    "forward_solves",
    "tangent_solves",
    "adjoint_solves",
    "log_evidence",
    "log_evidence_spread",
    "log_evidence_error",
    "ess_min",
    "distinct_roots",
    "island_ess",
    "mean_spread",
)
"""Numbers kept for every case; NaN where a method has no such thing."""


SHARDS = 256
"""Units of work that a reconstruction is cut into at most: each has a file for every array."""

SHARD_BYTES = 2**27
"""The most that the cases of one unit may hold."""


def schema_of(config: ReconstructConfig, prior: Prior, readings: Sequence[Readings], posterior: Posterior) -> Schema:
    """Groups by their ArviZ names; dims case, draw, sensor and those of the field."""
    space, dims = prior.space, prior.dims
    sensors = len(readings[0].value) if config.problem else max(len(r.value) for r in readings)
    units, names = prior.meta["units"], prior.meta["long_names"]
    label = {f: {"units": units[f], "long_name": names[f]} for f in prior.fields}
    arrays = [
        ArraySpec(f"posterior/{f}", ("case", "draw", *dims), "float32", (config.draws, *space), label[f])
        for f in prior.fields
    ]
    arrays.append(ArraySpec("sample_stats/log_weight", ("case", "draw"), "float64", (config.draws,), {"units": "1"}))
    told = {"flag_values": [0, 1], "flag_meanings": "kept diverged", "units": "1"}
    arrays.append(ArraySpec("sample_stats/diverging", ("case", "draw"), "int8", (config.draws,), told))
    arrays += [ArraySpec(f"sample_stats/{name}", ("case",), "float64", (), {"units": "1"}) for name in STATISTICS]
    if posterior.trace:
        arrays.append(ArraySpec("sample_stats/ess", ("case", "level"), "float64", (posterior.trace,), {"units": "1"}))
    arrays += [
        ArraySpec(f"observed_data/{name}", ("case", "sensor"), "float64", (sensors,), {"long_name": name})
        for name in ("value", "std")
    ]
    arrays.append(
        ArraySpec("observed_data/field", ("case", "sensor"), "int16", (sensors,), {"fields": list(seen_of(prior))})
    )
    arrays.append(_positions(prior, readings, sensors))
    predicted = (config.draws, sensors)
    arrays += [
        ArraySpec(f"posterior_predictive/{name}", ("case", "draw", "sensor"), "float64", predicted, {"long_name": text})
        for name, text in (("value", "readings with noise"), ("noise_free", "readings without noise"))
    ]
    arrays.append(ArraySpec("constant_data/sample", ("case",), "int64", (), {"long_name": "index in the data set"}))
    if config.problem or all(r.sample >= 0 for r in readings):  # a user's own case has no known truth
        groups = ("constant_data", *prior.meta.get("exact", ()))
        arrays += [ArraySpec(f"{g}/{f}", ("case", *dims), "float32", space, label[f]) for g in groups for f in label]
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
    } | ({} if config.problem is None else {"problem": config.problem, "periodic": list(prior.periodic)})
    if prior.meta.get("exact"):
        attrs |= {"exact_law": prior.meta["exact_law"]}
    size = sum(math.prod(a.shape) * np.dtype(a.dtype).itemsize for a in arrays)
    shard = cases_together(len(readings), size)
    return Schema("case", len(readings), tuple(arrays), coords, attrs, shard=shard, chunk=shard, told=("cost",))


def cases_together(cases: int, bytes_each: int) -> int:
    """How many cases are one unit of work: thousands in at most `SHARDS`, unless that is too much for the memory."""
    return max(1, min(-(-cases // SHARDS), SHARD_BYTES // bytes_each))


def seen_of(prior: Prior) -> tuple[str, ...]:
    """Names of what sensors read, in the order in which readings count them; a problem's need not be stored fields."""
    return tuple(prior.meta.get("seen", prior.fields))


def _positions(prior: Prior, readings: Sequence[Readings], sensors: int) -> ArraySpec:
    axes = prior.meta.get("axes")  # of a problem, whose sensors may have a time
    shape = (sensors, readings[0].points.shape[1])
    attrs = {} if axes is None else {"axes": axes}
    return ArraySpec("observed_data/position", ("case", "sensor", "axis"), "float64", shape, attrs)
