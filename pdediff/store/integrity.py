"""Finding damage (bytes that are not what a receipt says) and computing exactly the damaged shards again."""

from __future__ import annotations

import hashlib
import json
import tempfile
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import zarr

from pdediff.errors import IntegrityError, PdediffError
from pdediff.store.columns import column_of, write_columns
from pdediff.store.files import disk, read_sealed, seal, sync, write_durably
from pdediff.store.layout import (
    CONFIG,
    DATA,
    MANIFEST,
    RECEIPTS,
    get_array,
    is_present,
    metadata_files,
    object_file,
    open_data,
    read_config,
    read_schema,
    write_template,
)
from pdediff.store.lock import Lock
from pdediff.store.manifest import hash_file, write_manifest
from pdediff.store.receipts import Receipt, append_receipts, hash_receipts, read_receipts
from pdediff.store.security import check_folder


@dataclass(frozen=True)
class Damage:
    """One thing that is wrong: `kind` checksum, content, missing, receipt, metadata, config, manifest or incomplete."""

    kind: str
    message: str
    array: str | None = None
    sample: int | None = None
    shard: int | None = None


def scan(path: str | Path, receipts: Mapping[int, Receipt]) -> list[Damage]:
    """Reads every receipted unit of every array and compares its bytes with the receipt."""
    path = Path(path)
    schema, root = read_schema(path), open_data(path)
    found = []
    for spec in schema.all_arrays():
        try:
            array = get_array(root, spec.path)
        except IntegrityError as error:
            found += [Damage("metadata", error.message, spec.path, i, i // schema.shard) for i in sorted(receipts)]
            continue
        for shard in range(schema.shards):
            rows = [i for i in schema.rows(shard) if i in receipts]
            for index, kind in _scan_rows(path, array, spec.path, rows, receipts):
                found.append(Damage(kind, damage_line(index, spec.path, kind), spec.path, index, shard))
    return found


def _scan_rows(
    path: Path, array: zarr.Array, name: str, rows: list[int], receipts: Mapping[int, Receipt]
) -> Iterator[tuple[int, str]]:
    if not rows:
        return
    if not is_present(object_file(path, array, rows[0])):
        yield from ((index, "missing") for index in rows)
        return
    block = read_rows(array, rows[0], rows[-1] + 1)
    for index in rows:
        unit = block[index - rows[0]] if block is not None else read_rows(array, index, index + 1)
        if unit is None:
            yield index, "checksum"
        elif sha256_of(unit) != receipts[index].sha256.get(name):
            yield index, "content"


def sha256_of(unit: np.ndarray) -> str:
    """SHA-256 of the bytes of one unit, C order, little endian."""
    unit = np.asarray(unit)
    return hashlib.sha256(np.ascontiguousarray(unit, unit.dtype.newbyteorder("<")).data).hexdigest()


def damage_line(index: int, name: str, kind: str) -> str:
    """The words for one damaged unit."""
    why = {"checksum": "checksum", "content": "checksum of its receipt", "missing": "missing"}[kind]
    return f"sample {index} of {name} is damaged ({why})"


def read_rows(array: zarr.Array, start: int, stop: int) -> np.ndarray | None:
    """Rows of an array; None when a codec refuses the bytes (each codec and reader raises its own kind of error)."""
    try:
        return np.asarray(array[start:stop])
    except (MemoryError, PermissionError, PdediffError):
        raise
    except Exception:
        return None


def verify(path: str | Path) -> list[Damage]:
    """Everything that keeps the store from being complete and exactly what was written; empty when it is.

    Cost: every byte is read, decoded and hashed once.
    """
    path = Path(path)
    config, manifest = read_sealed(path / CONFIG), read_sealed(path / MANIFEST)
    if config is None:
        return [Damage("config", f"{path / CONFIG} is missing or damaged")]
    schema, receipts = read_schema(path), read_receipts(path / RECEIPTS)
    if wrong := _verify_metadata(path, manifest):
        # arrays cannot be trusted to decode before their metadata are right
        return [Damage("metadata", f"{file} is damaged") for file in wrong]
    try:
        check_folder(path)
    except IntegrityError as error:
        return [Damage("metadata", error.message)]
    found = scan(path, receipts)
    lost = [i for i in range(schema.size) if i not in receipts]
    if manifest is not None:
        found += [Damage("receipt", f"sample {i} has no receipt", None, i, i // schema.shard) for i in lost]
        if not lost and hash_receipts(receipts) != manifest["content"]:
            found.append(Damage("manifest", f"receipts of {path} are not those of its {MANIFEST}"))
        found += _scan_columns(path, receipts) if not lost else []
        if manifest["config"] != config:
            found.append(Damage("manifest", f"{path / CONFIG} is not the one of its {MANIFEST}"))
    elif lost:
        found.append(Damage("incomplete", f"{len(lost)} of {schema.size} samples are not written"))
    if manifest is None and ((path / MANIFEST).exists() or not lost):
        state = "damaged" if (path / MANIFEST).exists() else "missing"
        found.append(Damage("manifest", f"{path / MANIFEST} is {state}"))
    return found


def _scan_columns(path: Path, receipts: Mapping[int, Receipt]) -> Iterator[Damage]:
    schema, root = read_schema(path), open_data(path)
    for spec in schema.columns():
        array = get_array(root, spec.path)
        values = read_rows(array, 0, schema.size) if is_present(object_file(path, array, 0)) else None
        expected = column_of(spec, receipts, schema.size)
        if values is None or not np.array_equal(values, expected, equal_nan=True):
            yield Damage("content", f"column {spec.path} is damaged", spec.path)


def _verify_metadata(path: Path, manifest: Mapping[str, Any] | None) -> list[Path]:
    if manifest is not None:
        wrong = [path / name for name, sha256 in manifest["files"].items() if hash_file(path / name) != sha256]
    else:
        wrong = [file for file in metadata_files(path) if not _readable(file)]
    return wrong


def _readable(file: Path) -> bool:
    """Whether a file that nothing vouches for yet exists and, being JSON, parses."""
    try:
        return file.name != "zarr.json" or bool(json.loads(file.read_bytes())) if file.exists() else False
    except ValueError:
        return False


def repair(path: str | Path, compute: Callable[[int], list[Receipt]]) -> list[int]:
    """Restores metadata and computes exactly the damaged shards again; returns their numbers.

    `compute(shard)` writes that shard by `write_shard` and returns its receipts. The result must be bit for bit what
    was there: IntegrityError otherwise, and the store stays marked as damaged. A store that was never finished is
    only repaired where it was written. Raises LockedError when a run is writing it.
    """
    path = Path(path)
    with Lock(path, "repair"):
        _restore_config(path)
        manifest = read_sealed(path / MANIFEST)
        if any(d.kind == "metadata" for d in verify(path)):
            _restore_metadata(path, manifest)
        damages = [d for d in verify(path) if d.kind not in ("incomplete", "metadata")]
        shards = sorted({d.shard for d in damages if d.shard is not None})
        receipts = read_receipts(path / RECEIPTS)
        new = [receipt for shard in shards for receipt in _recompute(path, shard, compute, receipts)]
        merged = receipts | {r.index: r for r in new}
        whole = len(merged) == read_schema(path).size
        if manifest is not None and whole and hash_receipts(merged) != manifest["content"]:
            raise IntegrityError(f"{path} could not be repaired: the content is no longer that of its {MANIFEST}")
        append_receipts(path / RECEIPTS, new)
        if whole:
            write_columns(path, merged)
            write_manifest(path, merged)
        if left := [d for d in verify(path) if d.kind != "incomplete"]:
            raise IntegrityError(f"{path} could not be repaired: {left[0].message}")
        return shards


def _recompute(
    path: Path, shard: int, compute: Callable[[int], list[Receipt]], old: Mapping[int, Receipt]
) -> list[Receipt]:
    """New receipts of a shard, with the times it took at first. IntegrityError where its content is another."""
    made = compute(shard)
    if sorted(r.index for r in made) != list(read_schema(path).rows(shard)):
        raise IntegrityError(f"repair of shard {shard} of {path} gave receipts of other samples")
    for receipt in made:
        before = old.get(receipt.index)
        if before is not None and (before.status, before.sha256) != (receipt.status, receipt.sha256):
            raise IntegrityError(
                f"sample {receipt.index} of {path} came out different when computed again",
                hint=f"it was made by version {before.version}, now {receipt.version}; generate a new store",
            )
    return [replace(r, making=replace(r.making, seconds=old[r.index].seconds)) if r.index in old else r for r in made]


def _restore_config(path: Path) -> None:
    if read_sealed(path / CONFIG) is None:
        manifest = read_sealed(path / MANIFEST)
        if manifest is None:
            raise IntegrityError(f"{path} has lost its {CONFIG} and its {MANIFEST}", hint="generate it again")
        write_durably(path / CONFIG, seal(manifest["config"]))
    read_config(path)


def _restore_metadata(path: Path, manifest: Mapping[str, Any] | None) -> None:
    """Writes the damaged metadata and coordinate files again from the schema; they are small and cost nothing."""
    attrs = manifest["attrs"] if manifest is not None else {}
    with disk(path), tempfile.TemporaryDirectory(dir=path, prefix="repair-", suffix=".partial") as folder:
        write_template(Path(folder) / DATA, read_schema(path), attrs)
        for file in _verify_metadata(path, manifest):
            file.parent.mkdir(parents=True, exist_ok=True)
            (Path(folder) / file.relative_to(path)).replace(file)
            sync(file)
