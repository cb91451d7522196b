"""PDEBench's HDF5 layouts (Takamoto et al. 2022): one array for all samples, or one group for each; axes (x, y, z).

Three forms: `tensor` `(sample, time, x)` with `t-coordinate` and `x-coordinate`; named fields of compressible flow
`(sample, time, x, y)`; steady Darcy flow `tensor` `(sample, 1, x, y)` from `nu` `(sample, x, y)`. The second layout
keeps each sample in a group `0000` with `data` `(time, x, y, field)` and `grid/x`, `grid/y`, `grid/t`.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterator
from typing import Any

import h5py
import numpy as np

from pdediff.errors import DataError
from pdediff.pdes import Variable
from pdediff.stages.exchange.foreign import ORIGIN, Foreign, Node, Source, ordered, origin, plain, reordered
from pdediff.stages.exchange.outgoing import Outgoing

AXES = ("x", "y", "z")
FLOW = {"density": "density", "pressure": "pressure", "Vx": "velocity_x", "Vy": "velocity_y", "Vz": "velocity_z"}
"""Names of compressible flow there, and here."""

_SAMPLE = re.compile(r"\d+")


def is_pdebench(file: Node) -> bool:
    """Whether the file has one of PDEBench's layouts."""
    return "x-coordinate" in file or any(_SAMPLE.fullmatch(name) and "data" in file[name] for name in file)


def read(file: Node) -> Foreign:
    """The content of a file of PDEBench. Raises DataError where the layout is broken."""
    if "x-coordinate" in file:
        return _read_arrays(file)
    return _read_groups(file)


def _read_arrays(file: Node) -> Foreign:
    dims = tuple(axis for axis in AXES if f"{axis}-coordinate" in file)
    space = {axis: np.asarray(file[f"{axis}-coordinate"], dtype=np.float64) for axis in ordered(dims)}
    fields = [n for n in file if isinstance(file[n], h5py.Dataset) and not n.endswith("-coordinate")]
    if not fields:
        raise DataError(f"{file.filename} holds no field beside its coordinates")
    size = {len(file[name]) if file[name].ndim else 0 for name in fields}
    if len(size) > 1 or 0 in size:
        raise DataError(f"the fields of {file.filename} differ in their number of samples: {sorted(size)}")
    sizes = tuple(len(space[axis]) for axis in dims)
    sources = [_array_source(file, name, dims, sizes) for name in sorted(fields)]
    frames = {s.shape[0] for s in sources if s.variable.dims[:1] == ("time",)}
    if len(frames) > 1:
        raise DataError(f"the fields of {file.filename} differ in their number of frames: {sorted(frames)}")
    coordinates = dict(space)
    if frames:
        coordinates = {"time": _times(file, frames.pop()), **space}
    attrs = {"boundary": "unknown"} | {name: plain(file.attrs[name]) for name in file.attrs if name != ORIGIN}
    return Foreign(size.pop(), tuple(sources), coordinates, attrs)


def _times(file: Node, frames: int) -> np.ndarray:
    """Times of the frames; some of the published files hold one time more than frames, the last cell's edge."""
    if "t-coordinate" not in file:
        return np.arange(frames, dtype=np.float64)
    times = np.asarray(file["t-coordinate"], dtype=np.float64)
    if times.ndim != 1 or len(times) not in (frames, frames + 1):
        raise DataError(f"t-coordinate has shape {times.shape} for {frames} frames")
    return times[:frames]


def _array_source(file: Node, name: str, dims: tuple[str, ...], sizes: tuple[int, ...]) -> Source:
    data = file[name]
    shape = data.shape[1:]
    steady = "t-coordinate" not in file
    if shape == sizes:
        own: tuple[str, ...] = dims
    elif shape == () or (shape == (1,) and sizes != (1,)):
        own = ()
    elif shape[1:] == sizes:
        own = dims if steady and shape[0] == 1 else ("time", *dims)
    else:
        raise DataError(f"field {name} has shape {data.shape}: it does not fit a grid of {sizes} points")
    told = origin(file).get(name, {})
    moving = own[:1] == ("time",)
    role = told.get("role") or ("output" if moving or (steady and name == "tensor") else "input")
    kept = tuple(dim for dim in own if dim != "time")
    mine = (*(("time",) if moving else ()), *ordered(kept))
    variable = Variable(
        str(told.get("name", FLOW.get(name, name))),
        mine,
        str(told.get("units", "1")),
        str(told.get("long_name", name)),
        "input" if role == "input" else "output",
    )
    full = tuple(dict(zip(dims, sizes, strict=True))[d] for d in ordered(kept))

    def rows_of(rows: range) -> np.ndarray:
        values = np.asarray(data[rows.start : rows.stop])
        values = values.reshape(len(rows), *(shape[:1] if moving else ()), *(sizes if kept else ()))
        return reordered(values, kept, 1 + moving)

    return Source(variable, ((shape[0],) if moving else ()) + full, rows_of)


def _read_groups(file: Node) -> Foreign:
    samples = sorted(name for name in file if _SAMPLE.fullmatch(name))
    first = file[samples[0]]
    if "grid" not in first:
        raise DataError(f"sample {samples[0]} of {file.filename} has no grid")
    dims = tuple(axis for axis in AXES if axis in first["grid"])
    shape = first["data"].shape
    if len(shape) not in (1 + len(dims), 2 + len(dims)):
        raise DataError(f"sample {samples[0]} has data of shape {shape} on a grid of {', '.join(dims)}")
    space = {axis: np.asarray(first["grid"][axis], dtype=np.float64) for axis in ordered(dims)}
    time = np.asarray(first["grid"]["t"], dtype=np.float64) if "t" in first["grid"] else np.arange(float(shape[0]))
    told = origin(file)
    channels = list(told) or [
        f"data_{i}" if len(shape) > 1 + len(dims) else "data" for i in range(_channels(shape, dims))
    ]
    own = tuple(len(space[axis]) for axis in ordered(dims))

    def reader(number: int) -> Callable[[range], np.ndarray]:
        def rows_of(rows: range) -> np.ndarray:
            parts = [np.asarray(file[samples[i]]["data"]) for i in rows]
            if wrong := [samples[i] for i, part in zip(rows, parts, strict=True) if part.shape != shape]:
                raise DataError(f"sample {wrong[0]} differs in shape from sample {samples[0]}")
            values = np.stack(parts)
            return reordered(values[..., number] if len(shape) > 1 + len(dims) else values, dims, 2)

        return rows_of

    sources = tuple(
        Source(_told(name, ("time", *ordered(dims)), told), (shape[0], *own), reader(number))
        for number, name in enumerate(channels)
    )
    attrs = {"boundary": "unknown"} | {name: plain(file.attrs[name]) for name in file.attrs if name != ORIGIN}
    return Foreign(len(samples), sources, {"time": time[: shape[0]], **space}, attrs)


def _channels(shape: tuple[int, ...], dims: tuple[str, ...]) -> int:
    return shape[-1] if len(shape) > 1 + len(dims) else 1


def _told(name: str, dims: tuple[str, ...], told: dict[str, Any]) -> Variable:
    kept = told.get(name, {})
    return Variable(name, dims, str(kept.get("units", "1")), str(kept.get("long_name", name)), "output")


def write(file: Node, out: Outgoing) -> None:
    """The rows of a set in the layout that its variables suit; an initial state that is the first frame is left out.

    Raises DataError for several moving fields beside static ones: that layout has no place for both.
    """
    moving = [n for n, dims in out.variables.items() if "time" in dims and len(dims) > 1]
    static = [n for n, dims in out.variables.items() if n not in moving and not _is_start(out, n, moving)]
    dims = tuple(sorted(out.space))
    file.attrs["boundary"] = str(out.attrs["boundary"])
    for name, number in out.parameters.items():
        file.attrs[name] = number
    if len(moving) > 1 and not set(moving) <= set(FLOW.values()):
        if fields := [n for n in static if out.variables[n]]:
            raise DataError(
                f"PDEBench's layouts have no place for the static field {fields[0]} beside {len(moving)} moving ones",
                hint="--format well keeps all",
            )
        _write_groups(file, out, moving, dims)
        return
    backward = {here: there for there, here in FLOW.items()}
    targets = {n: backward.get(n, n) if len(moving) > 1 else "tensor" for n in moving}
    steady = [n for n in static if out.data[n].attrs.get("role") == "output"] if not moving else []
    inputs = [n for n in static if n not in steady and out.variables[n]]
    targets |= {n: "tensor" if len(steady) == 1 else n for n in steady}
    targets |= {n: "nu" if len(inputs) == 1 and not moving else n for n in inputs}
    targets |= {n: n for n in static if n not in targets}
    for name, target in targets.items():
        out.fill(file, target, (name,), dims)
    if not moving and "tensor" in file:  # (sample, 1, x, y)
        values = np.asarray(file["tensor"])
        del file["tensor"]
        file.create_dataset("tensor", data=values[:, None])
    for name in ("time", *dims) if moving else dims:
        file.create_dataset(f"{'t' if name == 'time' else name}-coordinate", data=out.coordinates[name])
    described = out.described()
    file.attrs[ORIGIN] = json.dumps({target: described[name] | {"name": name} for name, target in targets.items()})


def _is_start(out: Outgoing, name: str, moving: list[str]) -> bool:
    return bool(moving) and name.startswith("initial") and out.data[name].attrs.get("role") == "input"


def _write_groups(file: Node, out: Outgoing, moving: list[str], dims: tuple[str, ...]) -> None:
    blocks: list[Iterator[tuple[int, np.ndarray]]] = [out.blocks(name, dims) for name in moving]
    for parts in zip(*blocks, strict=True):
        start = parts[0][0]
        stacked = np.stack([values for _, values in parts], -1)
        for i, one in enumerate(stacked):
            group = file.create_group(f"{start + i:04d}")
            group.create_dataset("data", data=one)
            for name in ("time", *dims):
                group.create_dataset(f"grid/{'t' if name == 'time' else name}", data=out.coordinates[name])
    described = out.described()
    file.attrs[ORIGIN] = json.dumps({name: described[name] for name in moving})
