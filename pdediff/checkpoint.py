"""Run folders: checkpoints that are whole or absent, checked by SHA-256, and that know what they were made for.

    <run>/checkpoints/step-00000500/   tensors.safetensors   meta.json
    <run>/checkpoints/final-00003000/  the finished network; a run with one is complete

A checkpoint is written to a hidden folder, flushed, renamed, and the parent flushed, so a kill or a power cut leaves
the previous one. No pickle: tensors as safetensors, the rest as JSON under a seal (the SHA-256 of its own text).
"""

from __future__ import annotations

import errno
import hashlib
import json
import logging
import math
import os
import re
import shutil
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors import torch as safetensors
from torch import Tensor

from pdediff.errors import IntegrityError, MatchError, NumericalError, ResourceError

SCHEMA = 1
KEEP = 2
FOLDER = "checkpoints"
_NAME = re.compile(r"(step|final)-(\d{8,})")
_TENSORS, _META = "tensors.safetensors", "meta.json"
_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Contract:
    """What a network was trained for, and what data must be to go with it; None is not asked for.

    `units` and `channels` go together; `normalisation` is the digest of the statistics of the training split.
    """

    pde: str | None = None
    channels: tuple[str, ...] | None = None
    grid: tuple[int, ...] | None = None
    dims: tuple[str, ...] | None = None
    units: tuple[str, ...] | None = None
    normalisation: str | None = None
    time_step: float | None = None


def save(run: Path, step: int, tensors: Mapping[str, Tensor], meta: Mapping[str, object], final: bool = False) -> Path:
    """Write one checkpoint, then drop all but the last two steps; `final` marks the run as complete.

    Raises NumericalError for a NaN or infinity in `meta`, and ResourceError (disk full, no permission) with the
    checkpoints before it untouched.
    """
    _refuse_non_finite(meta, "meta")
    folder = run / FOLDER
    target = folder / f"{'final' if final else 'step'}-{step:08d}"
    payload, complex128 = _encode(tensors)
    sealed: dict[str, object] = {
        "schema": SCHEMA,
        "step": step,
        "sha256": hashlib.sha256(payload).hexdigest(),
        "complex128": complex128,
        "meta": dict(meta),
    }
    text = json.dumps(sealed | {"seal": _seal(sealed)}, indent=1, sort_keys=True, allow_nan=False)
    partial = folder / f".partial-{target.name}"
    with _disk(f"cannot write checkpoint {target}", partial):
        folder.mkdir(parents=True, exist_ok=True)
        for rest in folder.glob(".partial-*"):  # of a run that was killed while it wrote
            shutil.rmtree(rest)
        partial.mkdir()
        _write(partial / _TENSORS, payload)
        _write(partial / _META, text.encode())
        _flush_folder(partial)
        if target.exists():
            _remove(target)
        partial.rename(target)
        _flush_folder(folder)
    for _, old in _listed(run, "step")[:-KEEP]:
        _remove(old)
    return target


def load(run: Path, step: int | None = None) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """Tensors and meta of the final checkpoint, else of the newest, or of `step`; every byte is checked.

    A damaged one is renamed to `bad-…` with a warning and the one before it is used. Raises IntegrityError when
    none is left, MatchError for a schema that this version does not read.
    """
    candidates = [c for c in _order(run) if step is None or c[0] == step]
    for position, (_, folder) in enumerate(candidates):
        checked = _checked(folder)
        if checked is not None:
            if position:
                _log.warning("using checkpoint %s of %s instead", folder.name, run.name)
            return checked[0], checked[1]["meta"]
    wanted = "checkpoint" if step is None else f"checkpoint of step {step}"
    raise IntegrityError(f"no whole {wanted} in {run}", hint="run the training again; it continues from what is left")


def load_step(run: Path) -> tuple[Path, int, dict[str, Tensor], dict[str, Any]] | None:
    """Newest checkpoint of training `(folder, step, tensors, meta)` for a resume, None if there is none that is whole.

    A damaged one is renamed to `bad-…` with a warning and the one before it is used.
    """
    while found := _listed(run, "step"):
        step, folder = found[-1]
        checked = _checked(folder)
        if checked is not None:
            return folder, step, checked[0], checked[1]["meta"]
    return None


def latest(run: Path) -> int | None:
    """Step of the checkpoint that `load` would try first, None if there is none."""
    found = _order(run)
    return found[0][0] if found else None


def is_complete(run: Path) -> bool:
    """True if the run has a final checkpoint and it is whole."""
    return any(_checked(folder) is not None for _, folder in reversed(_listed(run, "final")))


def digest(checkpoint: Path) -> str:
    """SHA-256 of the tensors of one checkpoint folder, as `save` returned it, from its meta."""
    return str(json.loads((checkpoint / _META).read_text())["sha256"])


def contract_of(meta: Mapping[str, object]) -> Contract:
    """The contract in a checkpoint's meta (key `contract`); MatchError if it says nothing usable."""
    node = meta.get("contract")
    if not isinstance(node, Mapping):
        raise MatchError("checkpoint does not say what it was trained for", hint="train it again with this version")
    known = {field.name for field in fields(Contract)}
    if unknown := sorted(set(node) - known):
        raise MatchError(f"checkpoint's contract has the unknown entry {unknown[0]!r}")
    values: dict[str, Any] = {key: tuple(v) if isinstance(v, list) else v for key, v in node.items()}
    return Contract(**values)


def with_contract(meta: Mapping[str, object], contract: Contract) -> dict[str, object]:
    """`meta` with the contract that `require_match` will check."""
    return dict(meta) | {"contract": asdict(contract)}


def require_match(meta: Mapping[str, object], wanted: Contract, what: str = "dataset") -> None:
    """MatchError, in one line, unless the checkpoint was trained for what `wanted` (the `what`) is."""
    trained = contract_of(meta)
    for field in fields(Contract):
        name = field.name
        ours, theirs = getattr(trained, name), getattr(wanted, name)
        if theirs is None or ours == theirs:
            continue
        if name in ("channels", "grid"):
            raise MatchError(f"checkpoint expects channels {_fields(trained)}; {what} has {_fields(wanted)}")
        label = name.replace("_", " ")
        raise MatchError(f"checkpoint expects {label} {_shown(ours)}; {what} has {_shown(theirs)}")


def damages(run: Path, set_aside: bool = False) -> list[str]:
    """One line for each checkpoint of a run that is not what was written; `set_aside` renames them to `bad-…`."""
    read = {folder: _read(folder) for _, folder in _order(run)}
    bad = {folder: why for folder, why in read.items() if isinstance(why, str)}
    for folder, why in bad.items() if set_aside else ():
        _quarantine(folder, why)
    return [f"checkpoint {folder.name} of {run.name} is damaged ({why})" for folder, why in bad.items()]


def _checked(folder: Path) -> tuple[dict[str, Tensor], dict[str, Any]] | None:
    """Tensors and sealed meta of one checkpoint; a damaged one is moved out of the way and gives None."""
    if isinstance(read := _read(folder), str):
        _quarantine(folder, read)
        return None
    return read


def _read(folder: Path) -> tuple[dict[str, Tensor], dict[str, Any]] | str:
    """Tensors and sealed meta of one checkpoint, or what is wrong with it."""
    try:
        sealed = json.loads((folder / _META).read_text())
        if sealed.pop("seal") != _seal(sealed):
            raise ValueError("meta.json is not what was written")
        if sealed["schema"] != SCHEMA:
            raise MatchError(
                f"checkpoint {folder.name} has schema {sealed['schema']}; this version reads schema {SCHEMA}",
                hint="use a newer pdediff" if sealed["schema"] > SCHEMA else "use an older pdediff, or train again",
            )
        payload = (folder / _TENSORS).read_bytes()
        if hashlib.sha256(payload).hexdigest() != sealed["sha256"]:
            raise ValueError("SHA-256 of the tensors differs")
        tensors = safetensors.load(payload)
    except PermissionError as error:
        raise ResourceError(f"cannot read checkpoint {folder}: {error.strerror}") from error
    except (OSError, ValueError, KeyError, TypeError, AttributeError, SafetensorError) as error:
        return str(error).splitlines()[0][:80] if isinstance(error, ValueError) else type(error).__name__
    for name in sealed["complex128"]:
        tensors[name] = torch.view_as_complex(tensors[name])
    return tensors, sealed


def _quarantine(folder: Path, why: str) -> None:
    bad = folder.with_name(f"bad-{folder.name}")
    count = 1
    while bad.exists():
        count += 1
        bad = folder.with_name(f"bad-{folder.name}-{count}")
    with _disk(f"cannot set aside damaged checkpoint {folder}"):
        folder.rename(bad)
    _log.warning("checkpoint %s is damaged (%s): moved to %s", folder.name, why, bad.name)


def _encode(tensors: Mapping[str, Tensor]) -> tuple[bytes, list[str]]:
    plain = {name: t.detach().cpu().clone(memory_format=torch.contiguous_format) for name, t in tensors.items()}
    # safetensors has no complex128: pairs of float64
    complex128 = sorted(name for name, t in plain.items() if t.dtype == torch.complex128)
    for name in complex128:
        plain[name] = torch.view_as_real(plain[name])
    return safetensors.save(plain), complex128


def _seal(sealed: Mapping[str, object]) -> str:
    text = json.dumps(sealed, sort_keys=True, separators=(",", ":"), allow_nan=False)
    return hashlib.sha256(text.encode()).hexdigest()


def _refuse_non_finite(node: object, where: str) -> None:
    if isinstance(node, float) and not math.isfinite(node):
        raise NumericalError(f"checkpoint {where} is {node}; nothing was written")
    if isinstance(node, Mapping):
        for key, value in node.items():
            _refuse_non_finite(value, f"{where}.{key}")
    elif isinstance(node, list | tuple):
        for index, value in enumerate(node):
            _refuse_non_finite(value, f"{where}[{index}]")


def _listed(run: Path, kind: str) -> list[tuple[int, Path]]:
    folder = run / FOLDER
    names = [(m, p) for p in (folder.iterdir() if folder.is_dir() else ()) if (m := _NAME.fullmatch(p.name))]
    return sorted((int(match[2]), path) for match, path in names if match[1] == kind)


def _order(run: Path) -> list[tuple[int, Path]]:
    return _listed(run, "final")[::-1] + _listed(run, "step")[::-1]


@contextmanager
def _disk(message: str, partial: Path | None = None) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        if partial is not None:
            shutil.rmtree(partial, ignore_errors=True)
        full = error.errno in (errno.ENOSPC, errno.EDQUOT)
        hint = "free some space and run the same command again" if full else None
        raise ResourceError(f"{message}: {error.strerror or error}", hint=hint) from error


def _write(path: Path, payload: bytes) -> None:
    with path.open("wb") as file:
        file.write(payload)
        file.flush()
        os.fsync(file.fileno())


def _flush_folder(folder: Path) -> None:
    handle = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def _remove(folder: Path) -> None:
    # first out of sight, so that a kill in the middle does not leave something that looks damaged
    hidden = folder.with_name(f".partial-old-{folder.name}")
    shutil.rmtree(hidden, ignore_errors=True)
    folder.rename(hidden)
    shutil.rmtree(hidden, ignore_errors=True)


def _fields(contract: Contract) -> str:
    channels = "(" + ", ".join(contract.channels) + ")" if contract.channels is not None else "of any name"
    return channels + (" at " + "x".join(map(str, contract.grid)) if contract.grid is not None else "")


def _shown(value: object) -> str:
    if value is None:
        return "none"
    return "(" + ", ".join(map(str, value)) + ")" if isinstance(value, tuple) else str(value)
