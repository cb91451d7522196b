"""The tiny job of the stage tests: words of the command line, how they become configs, and programs to interrupt."""

from __future__ import annotations

import fcntl
import hashlib
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pdediff import checkpoint, stages
from pdediff.config import build
from pdediff.launch import checked
from pdediff.runtime import Runtime
from pdediff.store import content_hash, read_manifest
from pdediff.store.receipts import read_receipts

CONFIGS = Path(__file__).parents[2] / "configs"
INLINE = Runtime(cluster="inline")
GENERATE = (
    "pde=darcy",
    "samples=32",
    "grid=16",
    "shard=8",
    "tile=4",
    "split={train: 0.5, valid: 0.25, test: 0.25}",
)
TRAIN = (
    "network.widths=[8]",
    "network.features=16",
    "fit.steps=12",
    "fit.batch=8",
    "fit.checkpoint_every=5",
    "calibration={levels: 4, fields: 16, rank: 8}",
)
RECONSTRUCT = ("cases=2", "draws=8", "tile=8", "observations.sensors={pressure: 12, permeability: 4}")
POSTERIORS = ("calibrated", "dps", "kriging", "red_diff", "smc")
"""Those of the demo, one of each kind; the others pass through the same stage and are tested in tests/posterior."""


@dataclass(frozen=True)
class World:
    """One finished job: `recon` by the name of its posterior config."""

    root: Path
    data: Path
    prior: Path
    recon: dict[str, Path]
    report: Path


def reconstruct_words(posterior: str) -> tuple[str, ...]:
    """Words of a quick reconstruction by one of the posterior configs."""
    steps = ("posterior.steps=6",) if "steps:" in (CONFIGS / "posterior" / f"{posterior}.yaml").read_text() else ()
    return (f"posterior={posterior}", f"name={posterior}", *RECONSTRUCT, *steps)


def config(command: str, *words: str) -> Any:
    """The checked config of a stage."""
    return checked(command, words)


def built(option: str) -> Any:
    """One of the ready-made equations."""
    return build("pde", config("generate", f"pde={option}").pde)


def make(root: Path) -> World:
    """The whole job, in this process."""
    data = stages.generate(config("generate", *GENERATE), root, INLINE)
    prior = stages.train(config("train", *TRAIN), data, root, INLINE)
    recon = {
        name: stages.reconstruct(config("reconstruct", *reconstruct_words(name)), prior, data, root, INLINE)
        for name in POSTERIORS
    }
    report = stages.evaluate(config("evaluate", "thresholds={permeability: 7.5}"), list(recon.values()), root, INLINE)
    return World(root, data, prior, recon, report)


def snapshot(path: Path) -> dict[str, tuple[int, str]]:
    """Time of the last change and hash of every file of a folder."""
    files = sorted(file for file in path.rglob("*") if file.is_file())
    return {
        str(file.relative_to(path)): (file.stat().st_mtime_ns, hashlib.sha256(file.read_bytes()).hexdigest())
        for file in files
    }


def content(path: Path) -> str:
    """Content hash of a finished result, from what is stored and as its manifest states it: they must agree."""
    manifest = read_manifest(path)
    assert manifest is not None
    if (path / "data.zarr").exists():
        assert content_hash(path) == manifest["content"]
    return str(manifest["content"])


def only(folder: Path) -> Path | None:
    """The one result in a folder, None while there is none."""
    found = [path for path in folder.iterdir() if path.is_dir()] if folder.is_dir() else []
    assert len(found) <= 1, found
    return found[0] if found else None


def progress(folder: Path) -> dict[str, int]:
    """How far the one result in a folder is: 1 or 0 for things that are there or not."""
    path = only(folder)
    if path is None:
        return {"folder": 0, "receipts": 0, "history": 0, "step": 0, "final": 0}
    log = path / "history.jsonl"
    steps = [p.name for p in (path / checkpoint.FOLDER).glob("*-*")] if (path / checkpoint.FOLDER).is_dir() else []
    newest = [int(name.removeprefix("step-")) for name in steps if name.startswith("step-")]
    return {
        "folder": 1,
        "receipts": len(read_receipts(path / "receipts.jsonl")),
        "history": log.read_bytes().count(b"\n") if log.exists() else 0,
        "step": max(newest, default=0),
        "final": int(any(name.startswith("final-") for name in steps)),
    }


PROGRAM = "from pdediff.cli import main; main()"


def launch(words: tuple[str, ...], root: Path, program: str = PROGRAM) -> subprocess.Popen[bytes]:
    """`pdediff WORDS` as a program with a process group of its own; what it says is in files, not in pipes."""
    # Words such as an option of another stage must not depend on what the suite has set.
    environment = {k: v for k, v in os.environ.items() if not k.startswith("PREFECT_")}
    with (root.parent / "out.txt").open("wb") as out, (root.parent / "err.txt").open("wb") as err:
        return subprocess.Popen(
            [sys.executable, "-c", program, *words, "--data-root", str(root), "-q"],
            stdout=out,
            stderr=err,
            env=environment,
            start_new_session=True,
        )


def said(root: Path) -> list[str]:
    """Lines on stderr of the last program."""
    return (root.parent / "err.txt").read_text().splitlines()


def finish(words: tuple[str, ...], root: Path, program: str = PROGRAM) -> int:
    """Run a program to its end; its exit code."""
    return launch(words, root, program).wait(120)


def signal_when(
    words: tuple[str, ...],
    root: Path,
    reached: Callable[[], bool],
    number: signal.Signals,
    program: str = PROGRAM,
) -> int:
    """Start a program, send its process group a signal as soon as `reached`, never on time; its exit code."""
    process = launch(words, root, program)
    deadline = time.monotonic() + 120
    try:
        while process.poll() is None and not reached():
            assert time.monotonic() < deadline
            time.sleep(0.001)
        if process.poll() is None:
            # a polite signal goes to the program alone, as a scheduler or a user sends it
            os.killpg(process.pid, number) if number == signal.SIGKILL else process.send_signal(number)
        return process.wait(120)
    finally:
        if process.poll() is None:
            os.killpg(process.pid, signal.SIGKILL)
            process.wait()


def is_free(path: Path) -> bool:
    """Whether nobody holds the lock of a result."""
    with (path / ".lock").open() as handle:
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            return False
    return True


def leftovers(path: Path) -> list[str]:
    """Temporary files and folders."""
    return [p.name for p in path.rglob("*") if p.name.endswith(".partial") or p.name.startswith(".partial")]
