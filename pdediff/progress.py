"""Progress of a long stage: a rich bar on a terminal, a line now and then elsewhere, JSON events for programs."""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass, field
from typing import Protocol, TextIO


class Bar(Protocol):
    """One running stage."""

    def advance(self, n: int = 1, rejected: int = 0, note: str = "") -> None:
        """`n` more units are done, `rejected` of them were rejected; `note` says what is going on."""


class Progress(Protocol):
    """Where the progress of stages is shown."""

    def bar(self, label: str, total: int) -> AbstractContextManager[Bar]:
        """Show a stage of `total` units until the context ends."""
        ...


@dataclass
class Count:
    """Bookkeeping of one stage: what is done, how fast, how long still; `show` is called when a line is due."""

    label: str
    total: int
    show: Callable[[Count], None]
    interval: float
    clock: Callable[[], float] = time.monotonic
    done: int = 0
    rejected: int = 0
    note: str = ""
    told: int = field(default=-1, init=False)
    started: float = field(init=False)
    shown: float = field(init=False)

    def __post_init__(self) -> None:
        self.started = self.shown = self.clock()

    def advance(self, n: int = 1, rejected: int = 0, note: str = "") -> None:
        """Count, and show when the last line is older than the interval."""
        self.done += n
        self.rejected += rejected
        self.note = note or self.note
        if self.clock() - self.shown >= self.interval:
            self.shown, self.told = self.clock(), self.done
            self.show(self)

    @property
    def seconds(self) -> float:
        """Time since the stage began."""
        return self.clock() - self.started

    @property
    def rate(self) -> float:
        """Units per second since the stage began."""
        return self.done / self.seconds if self.seconds > 0 else 0.0

    @property
    def remaining(self) -> float | None:
        """Seconds still to go at this rate; None as long as there is no rate."""
        return (self.total - self.done) / self.rate if self.rate > 0 else None


@dataclass(frozen=True)
class PlainProgress:
    """One line of text every `interval` seconds, for logs."""

    stream: TextIO | None = None
    interval: float = 10.0

    @contextmanager
    def bar(self, label: str, total: int) -> Iterator[Bar]:
        """A first line at the first report that is due, a last one at the end."""
        count = Count(label, total, self._line, self.interval)
        try:
            yield count
        finally:
            if count.told != count.done:
                self._line(count)

    def _line(self, count: Count) -> None:
        parts = [f"{count.label}: {count.done}/{count.total}", f"{count.rate:.3g}/s"]
        if count.remaining is not None and count.done < count.total:
            parts.append(f"{clock_time(count.remaining)} left")
        else:
            parts.append(f"{clock_time(count.seconds)}")
        parts += [f"{count.rejected} rejected"] if count.rejected else []
        parts += [count.note] if count.note else []
        print(", ".join(parts), file=self.stream or sys.stderr, flush=True)


@dataclass(frozen=True)
class JsonProgress:
    """One JSON object a line: `start`, `progress` (at most one per `interval` seconds) and `end` events."""

    stream: TextIO | None = None
    interval: float = 1.0

    @contextmanager
    def bar(self, label: str, total: int) -> Iterator[Bar]:
        """Events of one stage."""
        count = Count(label, total, lambda c: self._event("progress", c), self.interval)
        self._event("start", count)
        try:
            yield count
        finally:
            self._event("end", count)

    def _event(self, event: str, count: Count) -> None:
        data: dict[str, object] = {"event": event, "stage": count.label, "done": count.done, "total": count.total}
        if event != "start":
            data |= {"rejected": count.rejected, "seconds": round(count.seconds, 3), "note": count.note}
            data["remaining_seconds"] = None if count.remaining is None else round(count.remaining, 1)
        print(json.dumps(data), file=self.stream or sys.stdout, flush=True)


@dataclass(frozen=True)
class SilentProgress:
    """Shows nothing."""

    @contextmanager
    def bar(self, label: str, total: int) -> Iterator[Bar]:
        """Only counts."""
        yield Count(label, total, lambda count: None, interval=float("inf"))


@dataclass(frozen=True)
class RichProgress:
    """A bar with rate, time left and rejected count, drawn on the terminal's stderr."""

    stream: TextIO | None = None

    @contextmanager
    def bar(self, label: str, total: int) -> Iterator[Bar]:
        """One bar, left standing when the stage ends."""
        from rich import progress as rich_progress
        from rich.console import Console

        columns = (
            rich_progress.TextColumn("{task.description}"),
            rich_progress.BarColumn(bar_width=30),
            rich_progress.MofNCompleteColumn(),
            rich_progress.TextColumn("{task.fields[rate]}"),
            rich_progress.TimeElapsedColumn(),
            rich_progress.TimeRemainingColumn(),
            rich_progress.TextColumn("[red]{task.fields[rejected]}[/red] {task.fields[note]}"),
        )
        with rich_progress.Progress(*columns, console=Console(file=self.stream or sys.stderr)) as shown:
            task = shown.add_task(label, total=total, rate="", rejected="", note="")

            def draw(count: Count) -> None:
                rejected = f"{count.rejected} rejected" if count.rejected else ""
                shown.update(task, completed=count.done, rate=f"{count.rate:.3g}/s", rejected=rejected, note=count.note)

            count = Count(label, total, draw, interval=0.1)
            try:
                yield count
            finally:
                draw(count)


def choose(*, as_json: bool = False, quiet: bool = False) -> Progress:
    """What suits the terminal: JSON on request, nothing when quiet, a bar on a terminal, lines elsewhere."""
    if as_json:
        return JsonProgress()
    if quiet:
        return SilentProgress()
    return RichProgress() if sys.stderr.isatty() else PlainProgress()


def clock_time(seconds: float) -> str:
    """`7 s`, `3:05` or `2:14:09`."""
    whole = round(seconds)
    if whole < 60:
        return f"{whole} s"
    minutes, rest = divmod(whole, 60)
    return f"{minutes}:{rest:02d}" if minutes < 60 else f"{minutes // 60}:{minutes % 60:02d}:{rest:02d}"
