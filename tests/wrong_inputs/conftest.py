"""One tiny data root with results that fit and results that do not, and what every refusal must look like."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

import pytest

from pdediff import cli

Refused = Callable[..., None]

SPLIT = "split={train: 0.6, valid: 0.2, test: 0.2}"
FIT = (
    *("network.widths=[8]", "network.features=16", "fit.steps=4", "fit.batch=8", "fit.warm_up=1"),
    *("calibration.levels=2", "calibration.fields=8", "calibration.rank=4"),
)
READ = ("reconstruct", "compute=inline", "prior=darcy", "draws=2", "tile=2", "posterior.steps=4")
WORDS = {
    "GENERATE": ("generate", "compute=inline", "samples=160", "grid=16", SPLIT),
    "TRAIN": ("train", "compute=inline", "data=darcy", *FIT),
    "TRAIN-FNO": ("train", "compute=inline", "data=darcy", "network=fno", *FIT[2:]),
    "SAMPLE": ("sample", "compute=inline", "prior=darcy", "n=2", "tile=2"),
    "READ": READ,
    "HELD-OUT": (*READ, "cases=1", "observations.sensors={pressure: 3}", "observations.on_grid=[]"),
}
"""Commands that would run, by the word that stands for them in the tables."""

MADE = (
    "GENERATE",
    f"generate compute=inline samples=20 grid=8 name=coarse {SPLIT}",
    "generate compute=inline samples=2 grid=16 pde=kolmogorov2d pde.clock.frames=2 pde.clock.warm_up=0 shard=1 tile=1",
    "TRAIN",
    "TRAIN name=twice",
    "TRAIN name=twice seed=1",
)


def run(line: str | Sequence[str], root: Path) -> int:
    """One command line under a data root; its exit code."""
    words = line.replace(": ", ":").replace(", ", ",").split() if isinstance(line, str) else list(line)
    return cli.run([*WORDS.get(words[0], words[:1]), *words[1:], "--data-root", str(root)])


def listing(root: Path) -> dict[str, int]:
    """Every file and folder with its size."""
    return {str(p.relative_to(root)): p.stat().st_size for p in sorted(root.rglob("*"))}


@pytest.fixture(scope="session")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A set and a prior that fit; sets on another grid and of other fields; two priors of one name."""
    root = tmp_path_factory.mktemp("wrong") / "data"
    for line in MADE:
        assert run(f"{line} -q", root) == 0
    return root


@pytest.fixture
def refused(capsys: pytest.CaptureFixture[str]) -> Refused:
    """The whole contract: exit code, first line, two lines at most, their length, and nothing new or changed."""

    def check(words: str | Sequence[str], code: int, line: str, root: Path) -> None:
        before = listing(root)
        capsys.readouterr()
        assert run(words, root) == code
        shown = capsys.readouterr()
        lines = shown.err.splitlines()
        assert lines[0].startswith("error[")
        assert line in lines[0]
        assert "Traceback" not in shown.err
        assert len(lines) == 1 or (len(lines) == 2 and lines[1].startswith("  hint: "))
        assert max(map(len, lines)) <= 160
        assert not shown.out
        assert listing(root) == before

    return check
