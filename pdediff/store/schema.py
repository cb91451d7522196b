"""What a store holds: its arrays, coordinates and attributes, as plain data."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any

import numpy as np

from pdediff.errors import ConfigError
from pdediff.store.files import check_name

INTEGERS = ("bool", "int8", "int16", "int32", "int64", "uint8", "uint16", "uint32", "uint64")
FLOATS = ("float32", "float64")
OK, REJECTED, ABSENT = 0, 1, -1  # values of `status`

TOLD = {
    "cost": ("float32", "seconds", {"units": "s", "long_name": "time of the unit: that of its tile over its length"}),
    "attempts": ("int16", "attempts", {"units": "1", "long_name": "how often the unit was drawn until it was kept"}),
}
"""Columns that a store fills from its receipts: type, field of the receipt, attributes."""


@dataclass(frozen=True)
class ArraySpec:
    """One stored array; `path` is "name" or "group/name", `dims[0]` the unit dim, `shape` that of one unit.

    `kept`: a rejected unit keeps its value here, as it does in `seed` and `status`.
    """

    path: str
    dims: tuple[str, ...]
    dtype: str = "float32"
    shape: tuple[int, ...] = ()
    attrs: dict[str, object] = field(default_factory=dict)
    kept: bool = False

    def __post_init__(self) -> None:
        object.__setattr__(self, "dims", tuple(self.dims))
        object.__setattr__(self, "shape", tuple(int(n) for n in self.shape))
        for part in self.path.split("/"):
            check_name(part, "array name")
        for dim in self.dims:
            check_name(dim, f"dimension of {self.path}")
        if self.dtype not in (*INTEGERS, *FLOATS):
            raise ConfigError(f"array {self.path}: dtype {self.dtype!r} is not one of {', '.join(INTEGERS + FLOATS)}")
        if len(self.dims) != len(self.shape) + 1 or len(set(self.dims)) != len(self.dims):
            raise ConfigError(f"array {self.path}: dims {self.dims} do not fit a unit of shape {self.shape}")
        if min(self.shape, default=1) < 1:
            raise ConfigError(f"array {self.path}: shape {self.shape} has an empty axis")

    @property
    def fill(self) -> float | int | bool:
        """What an absent or rejected unit reads as: NaN, -1 for signed integers, 0 for unsigned ones."""
        kind = np.dtype(self.dtype).kind
        return {"f": float("nan"), "i": -1, "u": 0, "b": False}[kind]

    @property
    def is_float(self) -> bool:
        """Whether it holds real numbers, of which there are statistics."""
        return self.dtype in FLOATS


@dataclass(frozen=True)
class Schema:
    """The whole store: `size` units along `unit`, cut into shards of `shard` units and chunks of `chunk` units.

    `coords` maps a dimension to (values, attributes); the unit dim gets 0..size-1 when not given. The store adds
    `seed` (uint64) and `status` (int8: 0 ok, 1 rejected, -1 absent) per unit. `shard` is one unit of work. `told` names
    columns of `TOLD`: what the receipts say of the units, filled in at the end, no part of the content.
    """

    unit: str
    size: int
    arrays: tuple[ArraySpec, ...]
    coords: dict[str, tuple[Any, dict[str, object]]] = field(default_factory=dict)
    attrs: dict[str, object] = field(default_factory=dict)
    shard: int = 1
    chunk: int = 1
    told: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        object.__setattr__(self, "arrays", tuple(self.arrays))
        object.__setattr__(self, "told", tuple(self.told))
        check_name(self.unit, "unit dimension")
        if unknown := sorted(set(self.told) - set(TOLD)):
            raise ConfigError(f"column {unknown[0]!r} is not one of {', '.join(TOLD)}")
        if min(self.size, self.shard, self.chunk) < 1 or self.shard % self.chunk:
            numbers = f"size={self.size}, shard={self.shard}, chunk={self.chunk}"
            raise ConfigError(f"{numbers}: expected positive numbers and shard a multiple of chunk")
        self._check_names()
        self._check_dims()

    def _check_names(self) -> None:
        paths = [spec.path for spec in self.arrays]
        groups = {"/".join(p.split("/")[:k]) for p in paths for k in range(1, p.count("/") + 1)}
        taken = {"seed", "status", self.unit, *self.coords, *self.told}
        for path in paths:
            if paths.count(path) > 1 or path in groups or path.split("/")[-1] in self.coords or path in taken:
                raise ConfigError(f"array name {path!r} is already taken in this store")
        if both := groups & taken:
            raise ConfigError(f"group name {min(both)!r} is already taken in this store")

    def _check_dims(self) -> None:
        sizes = {self.unit: self.size} | {name: len(np.asarray(c[0])) for name, c in self.coords.items()}
        for name, (values, _) in self.coords.items():
            check_name(name, "coordinate")
            kept = np.asarray(values)
            if kept.ndim != 1 or kept.dtype.name not in (*INTEGERS, *FLOATS) or len(kept) != sizes[name]:
                raise ConfigError(f"coordinate {name}: expected a one-dimensional numeric array")
        if sizes[self.unit] != self.size:
            raise ConfigError(f"coordinate {self.unit} has {sizes[self.unit]} values for size={self.size}")
        for spec in self.arrays:
            if spec.dims[0] != self.unit:
                raise ConfigError(f"array {spec.path}: first dim is {spec.dims[0]!r}, expected {self.unit!r}")
            for dim, length in zip(spec.dims[1:], spec.shape, strict=True):
                if sizes.setdefault(dim, length) != length:
                    raise ConfigError(f"array {spec.path}: dim {dim} has {length} points, elsewhere {sizes[dim]}")

    @property
    def shards(self) -> int:
        """Number of shards; the last one may be short."""
        return -(-self.size // self.shard)

    def rows(self, shard: int) -> range:
        """Unit indices of one shard."""
        if not 0 <= shard < self.shards:
            raise ValueError(f"shard {shard} is not in 0..{self.shards - 1}")
        return range(shard * self.shard, min((shard + 1) * self.shard, self.size))

    def all_arrays(self) -> tuple[ArraySpec, ...]:
        """The arrays with the two that the store adds; `status` last, because it is written last."""
        seed = ArraySpec("seed", (self.unit,), "uint64", (), {"long_name": "seed key", "units": "1"}, kept=True)
        meaning = {"flag_values": [OK, REJECTED, ABSENT], "flag_meanings": "ok rejected absent", "units": "1"}
        status = ArraySpec("status", (self.unit,), "int8", (), {"long_name": "state of the unit", **meaning}, kept=True)
        return (*self.arrays, seed, status)

    def columns(self) -> tuple[ArraySpec, ...]:
        """The columns filled from the receipts."""
        return tuple(ArraySpec(name, (self.unit,), TOLD[name][0], (), dict(TOLD[name][2])) for name in self.told)

    def to_json(self) -> dict[str, object]:
        """Plain data from which `from_json` makes an equal schema."""
        coords = {k: [np.asarray(v).dtype.name, np.asarray(v).tolist(), dict(a)] for k, (v, a) in self.coords.items()}
        plain = {"unit": self.unit, "size": self.size, "shard": self.shard, "chunk": self.chunk}
        plain |= {"told": list(self.told)} if self.told else {}
        arrays = [{k: v for k, v in asdict(a).items() if k != "kept" or v} for a in self.arrays]
        return {**plain, "arrays": arrays, "coords": coords, "attrs": dict(self.attrs)}

    @staticmethod
    def from_json(data: Mapping[str, Any]) -> Schema:
        """The schema that `to_json` described."""
        coords = {k: (np.asarray(v, dtype=dtype), attrs) for k, (dtype, v, attrs) in data["coords"].items()}
        return Schema(
            unit=data["unit"],
            size=data["size"],
            arrays=tuple(ArraySpec(**spec) for spec in data["arrays"]),
            coords=coords,
            attrs=data["attrs"],
            shard=data["shard"],
            chunk=data["chunk"],
            told=tuple(data.get("told", ())),
        )
