"""A file of The Well or of PDEBench as a stored set, checked like generated data."""

from __future__ import annotations

import hashlib
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from pydantic import BaseModel

from pdediff import config as configs
from pdediff.errors import DataError, RejectedError
from pdediff.pdes import Variable, check_variables
from pdediff.progress import Progress
from pdediff.stages.exchange import pdebench, well
from pdediff.stages.exchange.foreign import Foreign, Node, Source, open_file
from pdediff.stages.folders import VERSION, output_folder, rejected_of
from pdediff.stages.generation_config import SplitConfig
from pdediff.stages.options import FieldName, Name, PdeNode
from pdediff.store import ArraySpec, Schema, Writer, create, is_complete, write_shard
from pdediff.types import Fraction

READERS = {"well": (well.is_well, well.read), "pdebench": (pdebench.is_pdebench, pdebench.read)}
SHARD_BYTES = 64 * 2**20


class ImportConfig(BaseModel):
    """A set from a file: `rename` maps names there to names here; `pde` gives names, roles and bounds to check."""

    model_config = configs.STRICT

    name: Name | None = None
    pde: PdeNode | None = None
    rename: dict[FieldName, FieldName] = {}
    split: SplitConfig = SplitConfig()
    max_rejected: Fraction = 0.01


def settings(
    name: str | None, pde: Mapping[str, Any] | None, rename: Sequence[str], max_rejected: float
) -> ImportConfig:
    """The config that a command line gives, `rename` as words THERE=HERE. Raises ConfigErrors with every problem."""
    pairs = {there: here for there, _, here in (word.partition("=") for word in rename)}
    return configs.validate(ImportConfig, {"name": name, "pde": pde, "rename": pairs, "max_rejected": max_rejected})


def import_file(config: ImportConfig, file: Path, root: Path, progress: Progress) -> Path:
    """The folder of the set with the content of `file`: made, completed, or returned as it is.

    Raises DataError for a file that is in neither layout or does not fit the equation it is said to hold, RejectedError
    when more than `max_rejected` of its samples fail the checks (the store is complete even so).
    """
    with open_file(file) as opened:
        layout = layout_of(opened)
        told = config.model_dump(exclude={"name", "max_rejected"})
        identity = {"stage": "import", "layout": layout, "sha256": _hash(file), "config": told}
        path = output_folder(root, "sets", config.name or _lower(file.stem), identity)
        foreign = _renamed(READERS[layout][1](opened), config)
        if not is_complete(path):
            schema = schema_of(foreign, config, layout)
            create(path, schema, identity)
            with Writer(path) as writer, progress.bar("import", schema.size) as bar:
                for shard in writer.missing():
                    receipts = write(path, writer.schema, foreign, config, shard)
                    writer.accept(receipts)
                    bar.advance(len(receipts), rejected=sum(r.status != "ok" for r in receipts))
                writer.finish({"max_rejected": config.max_rejected})
    _judge(path, foreign.size, config)
    return path


def layout_of(file: Node) -> str:
    """Which layout a file has. Raises DataError for neither."""
    for name, (fits, _) in READERS.items():
        if fits(file):
            return name
    held = ", ".join(list(file)[:5]) or "nothing"
    raise DataError(f"{file.filename} holds {held}: neither The Well's layout nor one of PDEBench's")


def _lower(name: str) -> str:
    """A name that a store can hold: lower case, other characters become `_`."""
    text = "".join(c if (c.isascii() and c.isalnum()) or c in "_.-" else "_" for c in name.lower()).lstrip("_.-")
    return text[:64] or "imported"


def _hash(file: Path) -> str:
    with file.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def _renamed(foreign: Foreign, config: ImportConfig) -> Foreign:
    """The variables under the names the user gave, and with the equation's bounds and roles where it was named."""
    known = [source.variable.name for source in foreign.sources]
    if unknown := [name for name in config.rename if name not in known]:
        raise DataError(f"rename names {unknown[0]!r}; the file has {', '.join(known)}")
    sources = []
    promised = {v.name: v for v in configs.build("pde", config.pde).variables()} if config.pde else {}
    for source in foreign.sources:
        v = source.variable
        name = config.rename.get(v.name) or _lower(v.name)
        kept = promised.get(name)
        if kept is not None and kept.dims != v.dims:
            raise DataError(f"{name} has dims ({', '.join(v.dims)}); the equation says ({', '.join(kept.dims)})")
        own = kept or Variable(name, v.dims, v.units, v.long_name, v.role)
        sources.append(Source(own, source.shape, source.read))
    names = [source.variable.name for source in sources]
    if missing := [name for name in promised if name not in names]:
        raise DataError(f"the file has no {missing[0]} (it has {', '.join(names)})", hint="--rename THERE=HERE")
    return Foreign(foreign.size, tuple(sources), foreign.coordinates, foreign.attrs)


def schema_of(foreign: Foreign, config: ImportConfig, layout: str) -> Schema:
    """The layout of the set: shards of about 64 MB."""
    specs = [
        ArraySpec(
            s.variable.name,
            ("sample", *s.variable.dims),
            "float32",
            s.shape,
            {"units": s.variable.units, "long_name": s.variable.long_name, "role": s.variable.role},
        )
        for s in foreign.sources
    ]
    meaning = {"long_name": "split", "flag_values": [0, 1, 2], "flag_meanings": "train valid test", "units": "1"}
    each = 4 * sum(int(np.prod(s.shape, dtype=np.int64)) for s in foreign.sources)
    pde = configs.build("pde", config.pde) if config.pde else None
    told = foreign.attrs
    attrs = {
        "pde": pde.name if pde else str(told.get("dataset_name", told.get("pde", "imported"))),
        "formula": pde.formula if pde else "unknown",
        "boundary": pde.boundary if pde else str(told["boundary"]),
        "symmetries": pde.symmetries if pde else "none",
        "method": {"method": f"imported from the layout of {layout}", "attributes": told},
        "pdediff_version": VERSION,
    }
    return Schema(
        unit="sample",
        size=foreign.size,
        arrays=(*specs, ArraySpec("split", ("sample",), "int8", (), meaning)),
        coords={name: (values, {"units": "1", "long_name": name}) for name, values in foreign.coordinates.items()},
        attrs=attrs,
        shard=max(1, min(foreign.size, SHARD_BYTES // max(1, each))),
        chunk=1,
    )


def write(path: Path, schema: Schema, foreign: Foreign, config: ImportConfig, shard: int) -> list[Any]:
    """Read, check and write one shard; its receipts."""
    begun = time.perf_counter()
    rows = schema.rows(shard)
    data: dict[str, np.ndarray] = {}
    for source in foreign.sources:
        values = np.asarray(source.read(rows))
        if values.dtype.kind not in "fiub" or values.shape != (len(rows), *source.shape):
            raise DataError(f"{source.variable.name} holds {values.dtype} values of shape {values.shape[1:]}")
        data[source.variable.name] = values.astype(np.float32)
    reasons = _check(foreign, data)
    data["split"] = _split(config, schema.size, rows)
    rejected = {rows.start + i: reason for i, reason in enumerate(reasons) if reason is not None}
    return write_shard(path, shard, data, list(rows), rejected, VERSION, time.perf_counter() - begun)


def _check(foreign: Foreign, data: Mapping[str, np.ndarray]) -> list[str | None]:
    variables = [source.variable for source in foreign.sources]
    return check_variables(variables, {name: torch.from_numpy(values) for name, values in data.items()})


def _split(config: ImportConfig, size: int, rows: Sequence[int]) -> np.ndarray:
    train = round(config.split.train * size)
    valid = train + round(config.split.valid * size)
    return np.searchsorted([train, valid], np.asarray(rows), side="right").astype("int8")


def _judge(path: Path, size: int, config: ImportConfig) -> None:
    rejected = rejected_of(path)
    if len(rejected) > config.max_rejected * size:
        index, reason = next(iter(rejected.items()))
        raise RejectedError(
            f"{len(rejected)} of {size} samples were rejected, more than max_rejected={config.max_rejected:g}; "
            f"sample {index}: {reason}",
            hint=f"the others are in {path}",
        )
