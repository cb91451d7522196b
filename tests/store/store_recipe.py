"""A small data set whose every value is known; as a script, the process that the kill tests kill.

`python store_recipe.py PATH` fills a store as a stage would: lock, missing shards, receipts, finish.
"""

from __future__ import annotations

import sys
from collections.abc import Iterable
from pathlib import Path

import numpy as np

from pdediff.store import ArraySpec, Receipt, Schema, Writer, create, write_shard

SIZE, SHARD, CHUNK = 22, 4, 2  # the last shard is short
REJECTED = {5: "not finite at step 3", 20: "out of bounds"}
IDENTITY = {"pde": {"kind": "Darcy", "alpha": 2.0}, "seed": 3}
SCHEMA = Schema(
    unit="sample",
    size=SIZE,
    arrays=(
        ArraySpec("permeability", ("sample", "y", "x"), "float32", (3, 5), {"units": "1", "long_name": "permeability"}),
        ArraySpec("pressure", ("sample", "y", "x"), "float32", (3, 5), {"units": "1"}),
        ArraySpec("viscosity", ("sample",), "float32", (), {"units": "1"}),
        ArraySpec("posterior/pressure", ("sample", "draw", "x"), "float32", (2, 5)),
        ArraySpec("split", ("sample",), "int8"),
    ),
    coords={"y": (np.array([0.1, 0.5, 0.9]), {"units": "m"}), "x": (np.linspace(0, 1, 5), {"units": "m"})},
    attrs={"pde": "darcy"},
    shard=SHARD,
    chunk=CHUNK,
)


def key(index: int) -> int:
    """Seed key; above 2**63, which a signed or float64 column would spoil."""
    return 2**63 + 1001 * index


def reference(name: str, index: int) -> np.ndarray:
    """What unit `index` of an array must read as when it is done."""
    spec = next(spec for spec in SCHEMA.all_arrays() if spec.path == name)
    if name == "seed":
        return np.array(key(index), "uint64")
    if name == "status":
        return np.array(int(index in REJECTED), "int8")
    if index in REJECTED:
        return np.full(spec.shape, spec.fill, spec.dtype)
    if name == "split":
        return np.array(index % 3, "int8")
    return np.random.default_rng([index, *name.encode()]).normal(size=spec.shape).astype(spec.dtype)


def rows(shard: int) -> dict[str, np.ndarray]:
    """All arrays of one shard in float64, rejected units as rubbish that must not be stored."""
    made = {s.path: [reference(s.path, i) for i in SCHEMA.rows(shard)] for s in SCHEMA.arrays}
    stacked = {n: np.stack(v).astype("float64" if v[0].dtype.kind == "f" else v[0].dtype) for n, v in made.items()}
    for k, index in enumerate(SCHEMA.rows(shard)):
        if index in REJECTED:
            stacked["pressure"][k] = 1e300  # beyond float32
    return stacked


def write(path: Path, shard: int) -> list[Receipt]:
    """One unit of work."""
    indices = SCHEMA.rows(shard)
    rejected = {i: why for i, why in REJECTED.items() if i in indices}
    return write_shard(path, shard, rows(shard), [key(i) for i in indices], rejected, "v1", 0.5)


def make(path: Path) -> None:
    """The empty store."""
    create(path, SCHEMA, IDENTITY)


def fill(path: Path, order: Iterable[int] | None = None) -> str:
    """Writes what is missing and finishes; returns the content hash."""
    with Writer(path, run="test-run") as writer:
        missing = writer.missing()
        for shard in missing if order is None else order:
            writer.accept(write(path, shard))
        return writer.finish({"title": "test"})


def objects(path: Path, name: str) -> list[Path]:
    """Shard files of one array, in order."""
    depth = 1 + len(next(spec.shape for spec in SCHEMA.all_arrays() if spec.path == name))
    files = [file for file in (path / "data.zarr" / name / "c").rglob("*") if file.is_file()]
    assert all(len(file.relative_to(path / "data.zarr" / name / "c").parts) == depth for file in files)
    return sorted(files, key=lambda file: int(file.relative_to(path / "data.zarr" / name / "c").parts[0]))


def flip(file: Path, place: int, bit: int = 0) -> None:
    """One wrong bit."""
    data = bytearray(file.read_bytes())
    data[place % len(data)] ^= 1 << bit
    file.write_bytes(data)


if __name__ == "__main__":
    make(Path(sys.argv[1]))
    print(fill(Path(sys.argv[1])))
