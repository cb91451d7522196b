"""The Well's HDF5 layout (Ohana et al. 2024): scalar, vector and tensor fields in groups.

Fields are `(sample, time, *space, *components)`; flags say which of these axes a field has.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from typing import Any

import h5py
import numpy as np

from pdediff.errors import DataError
from pdediff.pdes import Variable
from pdediff.stages.exchange.foreign import ORIGIN, Foreign, Node, Source, names, ordered, origin, plain, reordered
from pdediff.stages.exchange.outgoing import Outgoing

GROUPS = ("t0_fields", "t1_fields", "t2_fields")


def is_well(file: Node) -> bool:
    """Whether the file has The Well's groups."""
    return "dimensions" in file and any(group in file for group in GROUPS)


def read(file: Node) -> Foreign:
    """The content of a file of The Well; components become variables such as `velocity_x`.

    Raises DataError where the layout is broken or the grid is not Cartesian and fixed.
    """
    try:
        return _read(file)
    except KeyError as error:
        raise DataError(f"{file.filename} lacks a part of The Well's layout: {' '.join(str(error).split())}") from None


def _read(file: Node) -> Foreign:
    if (kind := plain(file.attrs.get("grid_type", "cartesian"))) != "cartesian":
        raise DataError(f"grid_type is {kind!r}: only Cartesian grids can be imported")
    size = int(file.attrs["n_trajectories"])
    dims = names(file["dimensions"].attrs["spatial_dims"])
    space = {name: np.asarray(file["dimensions"][name], dtype=np.float64) for name in ordered(dims)}
    if moving := [name for name in space if space[name].ndim != 1]:
        raise DataError(f"the grid {moving[0]} changes with the sample or with time: it cannot be imported")
    time = np.asarray(file["dimensions"]["time"], dtype=np.float64)
    sources = [s for group in GROUPS if group in file for s in _group(file[group], dims, GROUPS.index(group))]
    sources += list(_scalars(file["scalars"])) if "scalars" in file else []
    coordinates = {"time": time if time.ndim == 1 else np.arange(time.shape[-1], dtype=np.float64), **space}
    if time.ndim == 2:  # each sample has times of its own
        units = Variable("time_value", ("time",), "1", "time of each frame", "input")
        sources.append(Source(units, time.shape[1:], lambda rows, t=time: t[rows.start : rows.stop]))
    used = {dim for source in sources for dim in source.variable.dims}
    attrs = {name: plain(file.attrs[name]) for name in file.attrs if name != ORIGIN}
    attrs["boundary"] = _boundary(file)
    told = origin(file)
    renamed = tuple(_told(source, told) for source in sources)
    return Foreign(size, renamed, {name: coordinates[name] for name in coordinates if name in used}, attrs)


def _told(source: Source, told: Mapping[str, Any]) -> Source:
    """Role, units and long name as an exported file remembers them."""
    kept = told.get(source.variable.name)
    if not isinstance(kept, dict):
        return source
    v = source.variable
    role = "input" if kept.get("role") == "input" else "output"
    units, long_name = str(kept.get("units", v.units)), str(kept.get("long_name", v.long_name))
    return Source(Variable(v.name, v.dims, units, long_name, role), source.shape, source.read)


def _group(group: Node, dims: list[str], rank: int) -> Iterator[Source]:
    """The fields of one tensor rank, one source for each component."""
    for name in names(group.attrs["field_names"]):
        data = group[name]
        has_sample, has_time = bool(data.attrs["sample_varying"]), bool(data.attrs["time_varying"])
        kept = [dim for dim, varies in zip(dims, np.atleast_1d(data.attrs["dim_varying"]), strict=True) if varies]
        components = [""] if rank == 0 else [f"_{''.join(index)}" for index in _indices(dims, rank)]
        if data.shape[has_sample + has_time + len(kept) :] not in ((), (len(components),), (len(dims),) * rank):
            raise DataError(f"field {name} has shape {data.shape}, which does not fit its flags")
        for number, component in enumerate(components):
            variable = Variable(
                f"{name}{component}",
                (*(["time"] if has_time else []), *ordered(kept)),
                "1",
                f"{name}{component}",
                "output" if has_time else "input",
            )
            reader = _Reader(data, has_sample, has_time, tuple(kept), number if rank else None)
            yield Source(variable, reader.shape, reader)


def _indices(dims: list[str], rank: int) -> list[tuple[str, ...]]:
    return [(a,) for a in dims] if rank == 1 else [(a, b) for a in dims for b in dims]


class _Reader:
    """Rows of one component of a field, in our axis order."""

    def __init__(self, data: Node, has_sample: bool, has_time: bool, dims: tuple[str, ...], number: int | None) -> None:
        self._data, self._has_sample, self._has_time = data, has_sample, has_time
        self._dims, self._number = dims, number
        lead = has_sample + has_time
        sizes = dict(zip(dims, data.shape[lead : lead + len(dims)], strict=True))
        time = (data.shape[has_sample],) if has_time else ()
        self.shape = (*time, *(sizes[dim] for dim in ordered(dims)))

    def __call__(self, rows: range) -> np.ndarray:
        values = np.asarray(self._data[rows.start : rows.stop] if self._has_sample else self._data[()])
        if not self._has_sample:  # one field for all samples
            values = np.broadcast_to(values, (len(rows), *values.shape))
        lead = 1 + self._has_time
        if self._number is not None:
            flat = values.reshape(*values.shape[: lead + len(self._dims)], -1)
            values = flat[..., self._number]
        return reordered(values, self._dims, lead)


def _scalars(group: Node) -> Iterator[Source]:
    for name in names(group.attrs["field_names"]):
        data = group[name]
        has_sample, has_time = bool(data.attrs["sample_varying"]), bool(data.attrs["time_varying"])
        variable = Variable(name, ("time",) if has_time else (), "1", name, "input")
        shape = (data.shape[-1],) if has_time else ()

        def reader(rows: range, data: Node = data, own: bool = has_sample, shape: tuple = shape) -> np.ndarray:
            values = np.asarray(data[rows.start : rows.stop] if own else data[()])
            return np.broadcast_to(values.reshape(len(rows) if own else 1, *shape), (len(rows), *shape))

        yield Source(variable, shape, reader)


def _boundary(file: Node) -> str:
    found = {}
    for name, group in file.get("boundary_conditions", {}).items():
        for dim in names(group.attrs.get("associated_dims", [name])):
            found[dim] = plain(group.attrs.get("bc_type", "unknown")).lower()
    if found and set(found.values()) == {"periodic"}:
        return "periodic"
    return ", ".join(f"{dim}: {kind}" for dim, kind in sorted(found.items())) or "unknown"


def write(file: Node, out: Outgoing) -> None:
    """The rows of a set in The Well's layout; variables `v_x, v_y` of all dims become the vector field `v`."""
    dims: tuple[str, ...] = tuple(sorted(out.space))  # x before y before z
    vectors = _vectors(out, dims)
    for name, value in {
        "dataset_name": out.attrs["pde"],
        "grid_type": "cartesian",
        "n_spatial_dims": len(dims),
        "n_trajectories": out.size,
        "simulation_parameters": sorted(out.parameters),
        ORIGIN: json.dumps(out.described()),
    }.items():
        file.attrs[name] = value
    for name, number in out.parameters.items():
        file.attrs[name] = number
    _write_dimensions(file.create_group("dimensions"), out, dims)
    _write_boundaries(file.create_group("boundary_conditions"), out, dims)
    single = [n for n in out.variables if not any(n in parts for parts in vectors.values())]
    scalars = [n for n in single if set(out.variables[n]) <= {"time"}]
    fields = [n for n in single if n not in scalars]
    for group, found in (("t0_fields", fields), ("t1_fields", list(vectors)), ("t2_fields", []), ("scalars", scalars)):
        file.create_group(group).attrs.create("field_names", found, dtype=h5py.string_dtype())
    for name in scalars:
        out.fill(file["scalars"], name, (name,), ())
        _flags(file["scalars"][name], out, name, None)
    for name in fields:
        out.fill(file["t0_fields"], name, (name,), dims)
        _flags(file["t0_fields"][name], out, name, dims)
    for name, parts in vectors.items():
        out.fill(file["t1_fields"], name, parts, dims)
        _flags(file["t1_fields"][name], out, parts[0], dims)


def _vectors(out: Outgoing, dims: tuple[str, ...]) -> dict[str, tuple[str, ...]]:
    found: dict[str, tuple[str, ...]] = {}
    if len(dims) < 2:
        return found
    for name in out.variables:
        base, _, component = name.rpartition("_")
        parts = tuple(f"{base}_{dim}" for dim in dims)
        same = len({out.variables.get(part) for part in parts}) == 1
        if base and component == dims[0] and same and set(out.variables[name]) >= set(dims):
            found[base] = parts
    return found


def _flags(data: Node, out: Outgoing, name: str, dims: tuple[str, ...] | None) -> None:
    own = out.variables[name]
    data.attrs["sample_varying"] = True
    data.attrs["time_varying"] = "time" in own
    if dims is not None:
        data.attrs["dim_varying"] = np.array([dim in own for dim in dims])


def _write_dimensions(group: Node, out: Outgoing, dims: tuple[str, ...]) -> None:
    group.attrs.create("spatial_dims", list(dims), dtype=h5py.string_dtype())
    time = out.coordinates.get("time", np.zeros(1))
    for name, values in {"time": time, **{dim: out.coordinates[dim] for dim in dims}}.items():
        data = group.create_dataset(name, data=np.asarray(values, dtype=np.float32))
        data.attrs["sample_varying"] = False
        if name != "time":
            data.attrs["time_varying"] = False


def _write_boundaries(group: Node, out: Outgoing, dims: tuple[str, ...]) -> None:
    kind = "periodic" if str(out.attrs["boundary"]).startswith("periodic") else "wall"
    for dim in dims:
        one = group.create_group(f"{dim}_boundary")
        one.attrs.create("associated_dims", [dim], dtype=h5py.string_dtype())
        one.attrs.create("associated_fields", [], shape=(0,), dtype=h5py.string_dtype())
        one.attrs["bc_type"] = kind
        one.attrs["sample_varying"] = one.attrs["time_varying"] = False
        mask = np.zeros(len(out.coordinates[dim]), dtype=bool)
        mask[[0, -1]] = True
        one.create_dataset("mask", data=mask)
        one.create_dataset("values", data=np.zeros(2, dtype=np.float32))
