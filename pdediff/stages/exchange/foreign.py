"""What a file of another suite holds, in our words: variables with named dims, coordinates, rows on demand."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from typing import Any, TypeAlias

import h5py
import numpy as np

from pdediff.errors import DataError
from pdediff.pdes import Variable

Node: TypeAlias = Any
"""An HDF5 object: h5py types every access as a union of all kinds."""

SPACE = ("z", "y", "x")
"""Our array order of the spatial dims."""

ORIGIN = "pdediff"
"""Attribute of an exported file: what its fields were called, as JSON."""


@dataclass(frozen=True)
class Source:
    """One variable of a foreign file: how its rows `(rows, *dims)` are read."""

    variable: Variable
    shape: tuple[int, ...]
    read: Callable[[range], np.ndarray]


@dataclass(frozen=True)
class Foreign:
    """The content of a foreign file: `size` samples; coordinates by dim; attributes for the record."""

    size: int
    sources: tuple[Source, ...]
    coordinates: dict[str, np.ndarray]
    attrs: dict[str, Any] = field(default_factory=dict)


def reordered(values: np.ndarray, dims: Iterable[str], lead: int) -> np.ndarray:
    """Spatial axes after the `lead` first ones, named `dims`, brought to our order."""
    found = list(dims)
    order = [lead + found.index(name) for name in SPACE if name in found]
    return np.transpose(values, (*range(lead), *order, *range(lead + len(found), values.ndim)))


def ordered(dims: Iterable[str]) -> tuple[str, ...]:
    """Spatial dims in our order. Raises DataError for names that are not x, y or z."""
    found = tuple(dims)
    if unknown := [name for name in found if name not in SPACE]:
        raise DataError(f"spatial dimension {unknown[0]!r} is not one of x, y, z: only Cartesian grids can be imported")
    return tuple(name for name in SPACE if name in found)


def names(value: Any) -> list[str]:
    """A list of names as HDF5 attributes hold it: text or bytes, one or many."""
    return [item.decode() if isinstance(item, bytes) else str(item) for item in np.atleast_1d(np.asarray(value))]


def plain(value: Any) -> Any:
    """An HDF5 attribute as JSON data."""
    if isinstance(value, bytes):
        return value.decode(errors="replace")
    if isinstance(value, np.ndarray):
        return [plain(item) for item in value.tolist()]
    return value.item() if isinstance(value, np.generic) else value


def origin(file: Node) -> dict[str, Any]:
    """What an exported file says of its variables; empty for files of other makers."""
    try:
        return dict(json.loads(plain(file.attrs.get(ORIGIN, "{}"))))
    except (ValueError, TypeError):
        return {}


def open_file(path: Any) -> Node:
    """The HDF5 file, for reading. Raises DataError where it is none."""
    try:
        return h5py.File(path, "r")
    except OSError:
        raise DataError(f"{path} is not an HDF5 file that can be read") from None
