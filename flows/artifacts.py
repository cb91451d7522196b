"""What the Prefect UI shows of a run: progress, metrics, provenance, report. A failure here never fails the run."""

from __future__ import annotations

import json
import logging
import re
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TypeVar

from prefect import artifacts
from prefect.context import FlowRunContext, TaskRunContext

from pdediff.progress import Bar, Progress

Value = TypeVar("Value")

INTERVAL = 2.0
"""Seconds between two updates of a progress artifact (one costs about 35 ms)."""

LENGTH = 50_000
"""Characters of the report that are shown; the rest is in the file."""

log = logging.getLogger(__name__)


def slug(text: str) -> str:
    """An artifact key: Prefect takes lower-case letters, digits and dashes only."""
    return re.sub(r"[^a-z0-9]+", "-", text.lower()).strip("-") or "run"


def attempt(call: Callable[[], Value]) -> Value | None:
    """The result of `call`, or None with a warning; None outside of a run, too."""
    if FlowRunContext.get() is None and TaskRunContext.get() is None:
        return None
    try:
        return call()
    except Exception as error:
        log.warning("an artifact could not be written: %s", error)
        return None


class ArtifactProgress:
    """Shows progress where `inner` does and as a Prefect artifact."""

    def __init__(self, inner: Progress, clock: Callable[[], float] = time.monotonic) -> None:
        self._inner = inner
        self._clock = clock

    @contextmanager
    def bar(self, label: str, total: int) -> Iterator[Bar]:
        """Show a stage of `total` units until the context ends."""
        key = f"progress-{slug(label)}"
        artifact = attempt(lambda: artifacts.create_progress_artifact(0.0, key=key, description=label))
        with self._inner.bar(label, total) as bar:
            shown = _ArtifactBar(bar, total, artifact, self._clock)
            try:
                yield shown
            finally:
                shown.publish()


class _ArtifactBar:
    def __init__(self, bar: Bar, total: int, artifact: Any, clock: Callable[[], float]) -> None:
        self._bar = bar
        self._total = total
        self._artifact = artifact
        self._clock = clock
        self._done = 0
        self._shown = clock()

    def advance(self, n: int = 1, rejected: int = 0, note: str = "") -> None:
        """`n` more units are done."""
        self._bar.advance(n, rejected=rejected, note=note)
        self._done += n
        if self._clock() - self._shown >= INTERVAL:
            self._shown = self._clock()
            self.publish()

    def publish(self) -> None:
        """Send the present state."""
        artifact = self._artifact
        if artifact is not None:
            percent = 100.0 * min(1.0, self._done / self._total) if self._total else 100.0
            attempt(lambda: artifacts.update_progress_artifact(artifact, percent))


def provenance(outcome: Mapping[str, Any]) -> None:
    """A table of where a stage's result lies and what made it."""
    rows = [{"what": name, "value": str(value)} for name, value in outcome.items()]
    key = slug(f"provenance-{outcome['stage']}")
    attempt(lambda: artifacts.create_table_artifact(rows, key=key, description="provenance"))


def metrics(report: Path) -> None:
    """The scores of an evaluation as table `metrics`: one row for each posterior, a column for each number."""
    rows = attempt(lambda: score_rows(json.loads((report / "scores.json").read_text())))
    if rows:
        attempt(lambda: artifacts.create_table_artifact(rows, key="metrics", description="scores"))


def score_rows(scores: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Rows of a table from nested scores: the outer names are rows, nested names join to columns."""
    rows = []
    for name, values in scores.items():
        numbers = dict(_numbers("", values)) if isinstance(values, Mapping) else {}
        if numbers:
            rows.append({"name": name, **numbers})
    return rows


def _numbers(prefix: str, values: Mapping[str, Any]) -> Iterator[tuple[str, float]]:
    for name, value in values.items():
        if isinstance(value, Mapping):
            yield from _numbers(f"{prefix}{name}.", value)
        elif isinstance(value, int | float):
            yield f"{prefix}{name}", value


def report(outcome: Mapping[str, Any]) -> None:
    """Markdown `report`: the text of the report, verdict first, and where the HTML lies."""
    folder = Path(outcome["path"])

    def write() -> object:
        text = f"Report: `{folder / 'report.html'}`\n\n{(folder / 'report.md').read_text()[:LENGTH]}"
        return artifacts.create_markdown_artifact(text, key="report", description="report")

    attempt(write)
