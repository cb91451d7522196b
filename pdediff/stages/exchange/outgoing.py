"""The accepted samples of a stored set on their way into a file of another suite, block by block."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import xarray as xr

from pdediff.errors import ConfigError
from pdediff.stages.exchange.foreign import SPACE, Node
from pdediff.store import open_store, read_identity

SPLITS = ("train", "valid", "test")
BESIDE = ("split", "seed", "status", "difficulty", "cost", "attempts")
"""Arrays of a set that are about its samples, not of them."""


@dataclass(frozen=True)
class Outgoing:
    """What of a set is exported: accepted samples of one split, or of all."""

    data: xr.Dataset
    rows: np.ndarray
    variables: dict[str, tuple[str, ...]]
    """Dims of each variable without the sample's."""
    coordinates: dict[str, np.ndarray]
    attrs: dict[str, Any]
    parameters: dict[str, float]
    """Numbers of the equation, for the attributes of the file."""
    block: int

    @staticmethod
    def of(path: Path, split: str | None) -> Outgoing:
        """The samples of a finished set. Raises ConfigError where none are left."""
        data = open_store(path)
        if not isinstance(data, xr.Dataset) or "split" not in data:
            raise ConfigError(f"{path.name} is not a data set of fields", hint="`pdediff ls` shows the sets")
        chosen = data["status"].values == 0
        if split is not None:
            if split not in SPLITS:
                raise ConfigError(f"split={split!r} is not one of {', '.join(SPLITS)}")
            chosen &= data["split"].values == SPLITS.index(split)
        rows = np.flatnonzero(chosen)
        if not len(rows):
            raise ConfigError(f"{path.name} has no accepted sample" + (f" in split {split}" if split else ""))
        names = [str(name) for name in data.data_vars if name not in BESIDE]
        variables = {name: tuple(str(d) for d in data[name].dims[1:]) for name in names}
        used = {dim for dims in variables.values() for dim in dims}
        if strange := sorted(used - {"time", *SPACE}):
            raise ConfigError(f"{path.name} has a dim {strange[0]!r}: these layouts know time, x, y and z")
        coordinates = {dim: np.asarray(data[dim].values) for dim in used if dim in data.coords}
        node = read_identity(path).get("config", {}).get("pde") or {}
        numbers = {k: float(v) for k, v in node.items() if isinstance(v, int | float) and not isinstance(v, bool)}
        sizes = [int(np.prod(data[name].shape[1:], dtype=np.int64)) for name in names]
        block = max(1, 4_000_000 // max(1, sum(sizes)))
        return Outgoing(data, rows, variables, coordinates, dict(data.attrs), numbers, block)

    @property
    def size(self) -> int:
        """Number of samples."""
        return len(self.rows)

    @property
    def space(self) -> tuple[str, ...]:
        """Spatial dims of the set, in our order."""
        used = {dim for dims in self.variables.values() for dim in dims}
        return tuple(dim for dim in SPACE if dim in used)

    def described(self) -> dict[str, dict[str, str]]:
        """Role, units and long name of every variable, which other layouts have no place for."""
        keys = ("role", "units", "long_name")
        return {n: {k: str(self.data[n].attrs.get(k, "")) for k in keys} for n in self.variables}

    def blocks(self, name: str, order: tuple[str, ...]) -> Iterator[tuple[int, np.ndarray]]:
        """First row and values of each block of samples, spatial axes in the given order."""
        dims = self.variables[name]
        axes = ["time"] if "time" in dims else []
        axes += [d for d in order if d in dims] + [d for d in dims if d not in order and d != "time"]
        for start in range(0, self.size, self.block):
            part = self.data[name].isel(sample=self.rows[start : start + self.block])
            yield start, part.transpose("sample", *axes).values

    def fill(self, group: Node, name: str, parts: tuple[str, ...], order: tuple[str, ...]) -> None:
        """Dataset `name` of one variable, or of several as components on a last axis."""
        tail = () if len(parts) == 1 else (len(parts),)
        for number, part in enumerate(parts):
            for start, values in self.blocks(part, order):
                if name not in group:
                    group.create_dataset(name, (self.size, *values.shape[1:], *tail), dtype=values.dtype)
                where = slice(start, start + len(values))
                group[name][(where, ..., number) if tail else where] = values
