"""Write a stored set as a file of another suite."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Literal

import h5py

from pdediff.errors import ConfigError
from pdediff.stages.exchange import pdebench, well
from pdediff.stages.exchange.outgoing import Outgoing

Format = Literal["well", "pdebench"]
WRITERS = {"well": well.write, "pdebench": pdebench.write}


def export(path: Path, out: Path, layout: Format, split: str | None = None) -> Path:
    """The accepted samples of a set (of one split, or all) as an HDF5 file of The Well or of PDEBench.

    Raises ConfigError where the file exists or the set is none, DataError where the layout cannot hold the set.
    """
    if out.exists():
        raise ConfigError(f"{out} exists already", hint="choose another file, or remove it")
    if not out.parent.is_dir():
        raise ConfigError(f"{out.parent} is not a folder", hint="make it first")
    outgoing = Outgoing.of(path, split)
    partial = out.with_name(out.name + ".partial")
    try:
        with h5py.File(partial, "w") as file:
            WRITERS[layout](file, outgoing)
        os.replace(partial, out)
    finally:
        partial.unlink(missing_ok=True)
    return out
