"""The store of a reconstruction: its groups, arrays and attributes."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from pdediff.posterior import Posterior
from pdediff.stages.configs import ReconstructConfig
from pdediff.stages.folders import VERSION
from pdediff.stages.priors import Prior
from pdediff.stages.readings import Readings
from pdediff.store import ArraySpec, Schema

STATISTICS = (
    "denoiser_calls",
    "network_vjps",
    "log_evidence",
    "log_evidence_spread",
    "log_evidence_error",
    "ess_min",
    "distinct_roots",
    "island_ess",
    "mean_spread",
)
"""Numbers kept for every case; NaN where a method has no such thing."""


def schema_of(config: ReconstructConfig, prior: Prior, readings: Sequence[Readings], posterior: Posterior) -> Schema:
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
        ArraySpec("observed_data/field", ("case", "sensor"), "int16", (sensors,), {"fields": list(seen_of(prior))})
    )
    arrays.append(_positions(prior, readings, sensors))
    predicted = (config.draws, sensors)
    arrays += [
        ArraySpec(f"posterior_predictive/{name}", ("case", "draw", "sensor"), "float64", predicted, {"long_name": text})
        for name, text in (("value", "readings with noise"), ("noise_free", "readings without noise"))
    ]
    arrays.append(ArraySpec("constant_data/sample", ("case",), "int64", (), {"long_name": "index in the data set"}))
    if all(r.sample >= 0 for r in readings):  # a user's own case has no known truth
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
    return Schema("case", len(readings), tuple(arrays), coords, attrs, shard=1, chunk=1)


def seen_of(prior: Prior) -> tuple[str, ...]:
    """Names of what sensors read, in the order in which readings count them; a problem's need not be stored fields."""
    return tuple(prior.meta.get("seen", prior.fields))


def _positions(prior: Prior, readings: Sequence[Readings], sensors: int) -> ArraySpec:
    axes = prior.meta.get("axes")  # of a problem, whose sensors may have a time
    shape = (sensors, readings[0].points.shape[1])
    attrs = {} if axes is None else {"axes": axes}
    return ArraySpec("observed_data/position", ("case", "sensor", "axis"), "float64", shape, attrs)
