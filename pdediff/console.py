"""Options that commands share, and how they tell their results on stdout."""

from __future__ import annotations

import json
import sys
from enum import StrEnum
from pathlib import Path
from typing import Annotated, Any

import typer

from pdediff.errors import IntegrityError


class Device(StrEnum):
    """Where networks and solvers run."""

    auto = "auto"
    cpu = "cpu"
    cuda = "cuda"


class Layout(StrEnum):
    """Layouts of other suites."""

    well = "well"
    pdebench = "pdebench"


Words = Annotated[
    list[str] | None,
    typer.Argument(metavar="KEY=VALUE", help="such as pde=ks1d or pde.alpha=3", show_default=False),
]
Root = Annotated[Path, typer.Option("--data-root", help="folder of all results")]
AsJson = Annotated[bool, typer.Option("--json", help="one JSON object per event on stdout")]
Quiet = Annotated[bool, typer.Option("--quiet", "-q", help="no progress")]
Debug = Annotated[bool, typer.Option("--debug", help="show the traceback of an error")]
Workers = Annotated[int | None, typer.Option("--workers", help="worker processes", show_default="2")]
OnDevice = Annotated[Device | None, typer.Option("--device", help="device of the workers", show_default="auto")]
DryRun = Annotated[bool, typer.Option("--dry-run", help="print what would be done")]
Prefect = Annotated[bool, typer.Option("--prefect/--no-prefect", help="run as a Prefect flow")]
Paths = Annotated[list[str], typer.Argument(help="path or name of a result", show_default=False)]
ROOT = Path("data")


def finish(path: Path, as_json: bool) -> None:
    """Tell the result: the table of scores if there is one, and on the last line the path."""
    shown = path / "report.html" if (path / "report.html").is_file() else path
    if as_json:
        emit({"event": "result", "path": str(shown)}, as_json)
        return
    for table in ("scores.txt", "benchmark.txt"):
        if (path / table).is_file():
            write((path / table).read_text())
    write(str(shown))


def emit(told: dict[str, Any], as_json: bool) -> None:
    """One record: a line of text, or JSON."""
    write(json.dumps(told) if as_json else ", ".join(f"{key}: {value}" for key, value in told.items()))


def write(text: str) -> None:
    """A text on stdout, at once."""
    sys.stdout.write(f"{text}\n")
    sys.stdout.flush()


def read_json(path: Path) -> Any:
    """The content of a JSON file. Raises IntegrityError where it is damaged."""
    try:
        return json.loads(path.read_text())
    except ValueError:
        raise IntegrityError(f"{path} is damaged", hint="`pdediff repair` may restore it") from None


def to_yaml(data: Any) -> str:
    """Plain data for people to read."""
    import yaml

    return yaml.safe_dump(data, sort_keys=False).rstrip()
