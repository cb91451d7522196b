"""Measurements of a user: CSV, NetCDF or Zarr as one table of points, every wrong value refused by name."""

from __future__ import annotations

import csv
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import xarray as xr

from pdediff.errors import DataError
from pdediff.store.security import check_tree

RESERVED = ("field", "value", "std", "case")
POINTS = 10_000_000
_HEADER = re.compile(r"(?P<name>[^\[\]]+?)\s*(\[(?P<unit>[^\[\]]*)\])?")
_HINT = "columns: coordinates such as x,y[,time], then field,value,std and optionally case; units as 'x [m]'"


@dataclass(frozen=True)
class Table:
    """One row per measured number: `columns` holds the coordinates, field (names), value, std and case (0 if absent).

    `units` has what the file says of each coordinate and of each field; the caller compares them with the data set.
    `places` says for each row where the file has it, for error lines: "line 7".
    """

    columns: dict[str, np.ndarray]
    units: dict[str, str]
    coordinates: tuple[str, ...]
    places: tuple[str, ...]

    def __len__(self) -> int:
        return len(self.columns["value"])

    @property
    def fields(self) -> tuple[str, ...]:
        """Measured fields, sorted."""
        return tuple(sorted(set(self.columns["field"].tolist())))


def read_observations(path: str | Path) -> Table:
    """Table of a `.csv`, `.nc` or `.zarr`; DataError with one line for anything that cannot be used as it is.

    NetCDF and Zarr: a variable `pressure` with a companion `pressure_std` is a measured field; its coordinates are
    the one-dimensional numeric coordinates along its dims (points on one dim, or a full grid); `case` may be one.
    """
    path = Path(path)
    if not path.exists():
        raise DataError(f"{path} does not exist")
    if path.suffix == ".csv" and path.is_file():
        table = _read_csv(path)
    elif path.suffix in (".nc", ".zarr"):
        table = _read_xarray(path)
    else:
        raise DataError(f"{path} is not a .csv, .nc or .zarr file")
    if not len(table):
        raise DataError(f"{path} has no measurements")
    _check_values(path, table, table.places)
    return table


def _read_csv(path: Path) -> Table:
    try:
        text = path.read_text(encoding="utf-8-sig")
        rows = [(n, row) for n, row in enumerate(csv.reader(text.splitlines(), strict=True), 1) if any(row)]
    except (UnicodeDecodeError, csv.Error) as error:
        raise DataError(f"{path} is not a readable CSV file: {error}") from None
    if not rows:
        raise DataError(f"{path} is empty", hint=_HINT)
    header = [_HEADER.fullmatch(cell.strip()) for cell in rows[0][1]]
    names = [match["name"].strip() if match else "" for match in header]
    if "" in names or len(set(names)) != len(names):
        raise DataError(f"{path}: column names {rows[0][1]} are empty or repeated", hint=_HINT)
    coordinates = tuple(name for name in names if name not in RESERVED)
    if lacking := [name for name in RESERVED[:3] if name not in names]:
        raise DataError(f"{path} lacks the column {', '.join(lacking)}; it has {', '.join(names)}", hint=_HINT)
    if not coordinates:
        raise DataError(f"{path} has no coordinate column", hint=_HINT)
    for line, row in rows[1:]:
        if len(row) != len(names):
            raise DataError(f"{path} line {line}: {len(row)} cells, expected {len(names)}")
    cells = {name: [row[k].strip() for _, row in rows[1:]] for k, name in enumerate(names)}
    where = [f"line {line}" for line, _ in rows[1:]]
    columns = {name: _numbers(path, name, cells[name], where) for name in (*coordinates, "value", "std")}
    case = _numbers(path, "case", cells["case"], where) if "case" in cells else np.zeros(len(where))
    field = np.array(cells["field"], dtype="str")
    units = {n: m["unit"].strip() for n, m in zip(names, header, strict=True) if m and m["unit"] is not None}
    said = [units.pop(name) for name in ("value", "std") if name in units]
    if len(set(said)) > 1:
        raise DataError(f"{path} gives value in {said[0]!r} and std in {said[1]!r}; they must be the same")
    units |= dict.fromkeys(cells["field"], said[0]) if said else {}  # one column of values holds every field
    return Table({**columns, "field": field, "case": case}, units, coordinates, tuple(where))


def _numbers(path: Path, name: str, cells: list[str], where: list[str]) -> np.ndarray:
    found = np.empty(len(cells))
    for k, cell in enumerate(cells):
        try:
            if "_" in cell:  # Python would read 1_0 as ten
                raise ValueError
            found[k] = float(cell)
        except ValueError:
            shown = "is empty" if not cell else f"{cell[:20]!r} is not a number"
            raise DataError(f"{path} {where[k]}: {name} {shown}") from None
    return found


def _read_xarray(path: Path) -> Table:
    kind: dict[str, object] = {}
    if path.suffix == ".zarr":
        check_tree(path)
        kind = {"engine": "zarr", "chunks": None, "consolidated": False}
    try:
        data = xr.open_dataset(path, decode_times=False, **kind)  # type: ignore[arg-type]
    except PermissionError:
        raise
    except (OSError, ValueError, KeyError):
        known = "Zarr version 3 store" if kind else "NetCDF file"
        raise DataError(f"{path} cannot be opened: it is not a readable {known}") from None
    with data:
        measured = [str(name) for name in data.data_vars if f"{name}_std" in data.data_vars]
        if not measured:
            found = ", ".join(str(name) for name in data.data_vars) or "no variables"
            raise DataError(f"{path}: no variable has a companion '<name>_std'; found {found}")
        if (points := sum(data[name].size for name in measured)) > POINTS:
            raise DataError(f"{path} has {points} measurements, more than {POINTS} are not read")
        parts = [_points(path, data, name) for name in measured]
        coordinates = parts[0].coordinates
        for part, name in zip(parts, measured, strict=True):
            if set(part.coordinates) != set(coordinates):
                raise DataError(f"{path}: {name} has coordinates {part.coordinates}, {measured[0]} has {coordinates}")
        columns = {key: np.concatenate([part.columns[key] for part in parts]) for key in parts[0].columns}
        units = {key: unit for part in parts for key, unit in part.units.items()}
        where = [f"{name} point {k}" for part, name in zip(parts, measured, strict=True) for k in range(len(part))]
    return Table(columns, units, coordinates, tuple(where))


def _points(path: Path, data: xr.Dataset, name: str) -> Table:
    """One variable as points: every element of the array with the coordinates of its place."""
    value, std = data[name], data[f"{name}_std"]
    if value.dims != std.dims and std.ndim:
        raise DataError(f"{path}: {name} has dims {value.dims}, {name}_std has {std.dims}")
    said = [str(array.attrs["units"]) for array in (value, std) if "units" in array.attrs]
    if len(set(said)) > 1:
        raise DataError(f"{path} gives {name} in {said[0]!r} and {name}_std in {said[1]!r}; they must be the same")
    places = {str(k): c for k, c in value.coords.items() if c.ndim == 1}
    coordinates = tuple(sorted(k for k in places if k != "case"))
    if lone := [dim for dim in value.dims if not any(c.dims == (dim,) for c in places.values())]:
        raise DataError(f"{path}: dim {lone[0]} of {name} has no coordinate")
    if not coordinates:
        raise DataError(f"{path}: {name} has no coordinates")
    columns = {}
    for key, array in {"value": value, "std": std, **places}.items():
        if array.dtype.kind not in "fiu":
            raise DataError(f"{path}: {name if key == 'value' else key} is of type {array.dtype}, not real numbers")
        full = array.broadcast_like(value).transpose(*value.dims)
        columns[key] = np.asarray(full, dtype="float64").ravel()
    columns.setdefault("case", np.zeros(value.size))
    columns["field"] = np.full(value.size, name)
    units = {k: str(c.attrs["units"]) for k, c in places.items() if "units" in c.attrs}
    units |= {name: said[0]} if said else {}
    return Table(columns, units, coordinates, ())


def _check_values(path: Path, table: Table, where: Sequence[str]) -> None:
    """Refuses NaN, infinity, a standard deviation that is not positive, a bad case and repeated points."""
    for name in (*table.coordinates, "value", "std", "case"):
        column = table.columns[name]
        for test, word in ((np.isnan(column), "NaN"), (np.isinf(column), "infinite")):
            if test.any():
                raise DataError(f"{path} {where[int(test.argmax())]}: {name} is {word}", hint="leave the point out")
    std, case = table.columns["std"], table.columns["case"]
    if (std <= 0).any():
        k = int((std <= 0).argmax())
        raise DataError(f"{path} {where[k]}: std is {std[k]:g}, expected a positive number")
    if ((case < 0) | (case != np.floor(case))).any():
        k = int(((case < 0) | (case != np.floor(case))).argmax())
        raise DataError(f"{path} {where[k]}: case is {case[k]:g}, expected 0, 1, 2, ...")
    table.columns["case"] = case.astype("int64")
    if (table.columns["field"] == "").any():
        raise DataError(f"{path} {where[int((table.columns['field'] == '').argmax())]}: field is empty")
    seen: dict[tuple[object, ...], int] = {}
    keys = zip(*(table.columns[n].tolist() for n in ("case", "field", *table.coordinates)), strict=True)
    for k, key in enumerate(keys):
        if key in seen:
            raise DataError(f"{path} {where[k]}: the same point as {where[seen[key]]} (field {key[1]})")
        seen[key] = k
