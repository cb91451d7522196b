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
    if not create_first(path, schema, identity):
        _same(Path(path), read_config(Path(path)), _config_of(schema, identity))


def create_first(path: str | Path, schema: Schema, identity: Mapping[str, object]) -> bool:
    """Makes an empty store where there is none; whether it did. What is there stays, whatever it was made from.

    Raises LockedError, ResourceError.
    """
    path = Path(path)
    with disk(path):
        path.mkdir(parents=True, exist_ok=True)
        known = (path / CONFIG).exists()
    if not known:
        with Lock(path, "create"):
            if not (path / CONFIG).exists():
                _create(path, schema, _config_of(schema, identity))
                return True
    return False


def is_described(path: str | Path) -> bool:
    """Whether a store was made in the folder, finished or not."""
    return (Path(path) / CONFIG).exists()


def _config_of(schema: Schema, identity: Mapping[str, object]) -> dict[str, object]:
    return {"schema_version": SCHEMA_VERSION, "identity": dict(identity), "schema": schema.to_json()}


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
    known = attrs.get("statistics")
    found: Mapping[str, Any] = known if isinstance(known, Mapping) else {}
    for spec in schema.all_arrays():
        _template_array(root, schema, spec, stated(found.get(spec.path, {})))
    for spec in schema.columns():
        node = root.create_array(
            spec.path,
            shape=(schema.size,),
            dtype=spec.dtype,
            chunks=(schema.size,),
            compressors=_codecs(),
            fill_value=spec.fill,
            attributes=plain_json(spec.attrs),
            dimension_names=spec.dims,
            config=ARRAY_CONFIG,
        )
        node[...] = np.full(schema.size, spec.fill, spec.dtype)


def stated(summary: Mapping[str, Any]) -> dict[str, Any]:
    """The statistics of an array that stand among its attributes too."""
    return {name: summary[name] for name in ("mean", "std", "difference_mean", "difference_std") if name in summary}


def _template_array(root: zarr.Group, schema: Schema, spec: ArraySpec, known: Mapping[str, Any]) -> None:
    parent = root.require_group(spec.path.rpartition("/")[0]) if "/" in spec.path else root
    parent.create_array(
        spec.path.rpartition("/")[2],
        shape=(schema.size, *spec.shape),
        dtype=spec.dtype,
        chunks=(schema.chunk, *spec.shape),
        shards=(schema.shard, *spec.shape),
        compressors=_codecs(),
        fill_value=spec.fill,
        attributes=plain_json({**spec.attrs, **known}),
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
    for spec in (*schema.all_arrays(), *schema.columns()):
        yield data / spec.path / "zarr.json"
    groups = {"/".join(s.path.split("/")[:k]) for s in schema.arrays for k in range(s.path.count("/") + 1)}
    yield from sorted(data / group / "zarr.json" for group in groups | {""})
    for name in sorted({schema.unit, *schema.coords}):
        yield data / name / "zarr.json"
        yield data / name / "c" / "0"
