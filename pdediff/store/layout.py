"""The folder of a store, its Zarr template and its identity."""

from __future__ import annotations

import shutil
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import zarr
from zarr.codecs import BloscCodec, Crc32cCodec

from pdediff.errors import ConfigError, IntegrityError, MatchError
from pdediff.store.files import SCHEMA_VERSION, canonical, disk, plain_json, read_sealed, seal, write_durably
from pdediff.store.lock import Lock
from pdediff.store.schema import ArraySpec, Schema

if TYPE_CHECKING:
    from zarr.core.array_spec import ArrayConfigParams

DATA, CONFIG, RECEIPTS, MANIFEST = "data.zarr", "config.json", "receipts.jsonl", "manifest.json"

# An absent object must never look like data, so chunks that are all fill value are written too.
ARRAY_CONFIG: ArrayConfigParams = {"write_empty_chunks": True}


def _codecs() -> list[BloscCodec | Crc32cCodec]:
    return [BloscCodec(cname="lz4", clevel=5, shuffle="shuffle"), Crc32cCodec()]


def create(path: str | Path, schema: Schema, identity: Mapping[str, object]) -> None:
    """Makes an empty store in folder `path`; one that was made from the same identity and schema is kept as it is.

    Raises ConfigError naming the first field in which an existing store differs, LockedError, ResourceError.
    """
    path = Path(path)
    config = {"schema_version": SCHEMA_VERSION, "identity": dict(identity), "schema": schema.to_json()}
    with disk(path):
        path.mkdir(parents=True, exist_ok=True)
        known = (path / CONFIG).exists()
    if not known:
        with Lock(path, "create"):
            if not (path / CONFIG).exists():
                _create(path, schema, config)
                return
    _same(path, read_config(path), config)


def _create(path: Path, schema: Schema, config: dict[str, object]) -> None:
    if (path / RECEIPTS).exists() or (path / MANIFEST).exists():
        raise IntegrityError(f"{path} holds data but its {CONFIG} is missing", hint="pdediff repair, or another name")
    with disk(path):
        if (path / DATA).exists():  # a creation that was interrupted: nothing in it can have a receipt
            shutil.rmtree(path / DATA)
        write_template(path / DATA, schema, {})
    write_durably(path / CONFIG, seal(config))


def read_config(path: Path) -> dict[str, Any]:
    """The sealed description of a store: schema_version, identity, schema.

    Raises IntegrityError when missing or damaged, MatchError when another schema version wrote it.
    """
    config = read_sealed(path / CONFIG)
    if config is None:
        state = "is damaged" if (path / CONFIG).exists() else "is missing"
        raise IntegrityError(f"{path}/{CONFIG} {state}", hint=f"pdediff repair {path}")
    if config["schema_version"] != SCHEMA_VERSION:
        found = config["schema_version"]
        raise MatchError(f"{path} has store schema {found}, this pdediff reads {SCHEMA_VERSION}")
    return config


def read_identity(path: str | Path) -> dict[str, Any]:
    """The identity (resolved config, upstream ids) that `create` was given."""
    return read_config(Path(path))["identity"]


def read_schema(path: str | Path) -> Schema:
    """The schema that `create` was given."""
    return Schema.from_json(read_config(Path(path))["schema"])


def _flat(value: object, prefix: str = "") -> dict[str, str]:
    if isinstance(value, Mapping) and value:
        items = [_flat(v, f"{prefix}.{k}" if prefix else str(k)) for k, v in value.items()]
        return {k: v for item in items for k, v in item.items()}
    return {prefix: canonical(value)}


def _same(path: Path, old: Mapping[str, object], new: Mapping[str, object]) -> None:
    for part in ("identity", "schema"):
        prefix = "" if part == "identity" else part
        before, now = _flat(old[part], prefix), _flat(new[part], prefix)
        for name in [*now, *(k for k in before if k not in now)]:
            if before.get(name) != now.get(name):
                was, says = (values.get(name, "nothing")[:60] for values in (before, now))
                raise ConfigError(
                    f"{path} was made with {name}={was}, config says {says}",
                    hint="choose another name, or set it back",
                    context={"field": name, "stored": was, "asked": says},
                )


def write_template(data: Path, schema: Schema, attrs: Mapping[str, object]) -> None:
    """Groups, empty arrays, coordinates and attributes; no unit is written."""
    root = zarr.open_group(data, mode="w", zarr_format=3)
    root.attrs.update({**plain_json(schema.attrs), **plain_json(attrs)})
    index = (np.arange(schema.size, dtype="int64"), {"long_name": f"{schema.unit} number", "units": "1"})
    for name, (values, meta) in ({schema.unit: index} | schema.coords).items():
        kept = np.asarray(values)
        node = root.create_array(
            name,
            shape=kept.shape,
            dtype=kept.dtype.newbyteorder("="),
            chunks=kept.shape,
            compressors=_codecs(),
            fill_value=0,
            attributes=plain_json(meta),
            dimension_names=(name,),
            config=ARRAY_CONFIG,
        )
        node[...] = kept
    for spec in schema.all_arrays():
        _template_array(root, schema, spec)


def _template_array(root: zarr.Group, schema: Schema, spec: ArraySpec) -> None:
    parent = root.require_group(spec.path.rpartition("/")[0]) if "/" in spec.path else root
    parent.create_array(
        spec.path.rpartition("/")[2],
        shape=(schema.size, *spec.shape),
        dtype=spec.dtype,
        chunks=(schema.chunk, *spec.shape),
        shards=(schema.shard, *spec.shape),
        compressors=_codecs(),
        fill_value=spec.fill,
        attributes=plain_json(spec.attrs),
        dimension_names=spec.dims,
        config=ARRAY_CONFIG,
    )


def open_data(path: Path, mode: str = "r") -> zarr.Group:
    """The Zarr group of a store folder; IntegrityError when it cannot be opened."""
    try:
        return zarr.open_group(path / DATA, mode="r" if mode == "r" else "r+", zarr_format=3)
    except (FileNotFoundError, ValueError, KeyError, TypeError) as error:
        raise IntegrityError(f"{path / DATA} cannot be opened: its metadata are damaged or missing") from error


def get_array(root: zarr.Group, name: str) -> zarr.Array:
    """One array of the store, set to write empty chunks; IntegrityError when its metadata are damaged."""
    try:
        node = root[name]
        if isinstance(node, zarr.Array):
            return node.with_config(ARRAY_CONFIG)
    except (KeyError, ValueError, TypeError) as error:
        raise IntegrityError(f"metadata of array {name} are damaged or missing") from error
    raise IntegrityError(f"{name} is not an array of the store")


def object_file(path: Path, array: zarr.Array, row: int) -> Path:
    """File that holds row `row` of an array."""
    length = (array.shards or array.chunks)[0]
    key = array.metadata.encode_chunk_key((row // length,) + (0,) * (array.ndim - 1))
    return path / DATA / array.path / key


def is_present(file: Path) -> bool:
    """Whether an object is there; Zarr reads an empty file, which a power cut can leave, as no object at all."""
    try:
        return file.stat().st_size > 0
    except FileNotFoundError:
        return False


def metadata_files(path: Path) -> Iterator[Path]:
    """Every `zarr.json` and every coordinate object of a store: all files that no receipt covers."""
    data = path / DATA
    schema = read_schema(path)
    for spec in schema.all_arrays():
        yield data / spec.path / "zarr.json"
    groups = {"/".join(s.path.split("/")[:k]) for s in schema.arrays for k in range(s.path.count("/") + 1)}
    yield from sorted(data / group / "zarr.json" for group in groups | {""})
    for name in sorted({schema.unit, *schema.coords}):
        yield data / name / "zarr.json"
        yield data / name / "c" / "0"
