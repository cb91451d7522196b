"""Progress lines: what is counted, when a line is due, and what programs read."""

from __future__ import annotations

import contextlib
import io
import json

import pytest

from pdediff import progress
from pdediff.progress import Count, JsonProgress, PlainProgress, RichProgress, SilentProgress, choose, clock_time


def test_counts_give_rate_and_time_left() -> None:
    now = [0.0]
    shown: list[tuple[int, float]] = []
    count = Count("solve", 10, lambda c: shown.append((c.done, c.seconds)), interval=5.0, clock=lambda: now[0])
    assert count.remaining is None
    for _ in range(4):
        now[0] += 2.0
        count.advance(2, rejected=1)
    # 2 units each 2 s; a line is due at the first report 5 s after the last line: at 6 s, not yet again at 8 s.
    assert shown == [(6, 6.0)]
    assert (count.rate, count.remaining, count.rejected) == (1.0, 2.0, 4)


def test_plain_lines_say_how_it_ended() -> None:
    stream = io.StringIO()
    with PlainProgress(stream, interval=0.0).bar("train", 3) as bar:
        bar.advance(1, note="loss 0.3")
        bar.advance(2, rejected=1)
    with PlainProgress(stream, interval=100.0).bar("solve", 2) as bar:
        bar.advance(1)
    lines = stream.getvalue().splitlines()
    assert len(lines) == 3
    assert lines[0].startswith("train: 1/3, ")
    assert lines[0].endswith(" left, loss 0.3")
    assert lines[1].startswith("train: 3/3, ")
    assert "1 rejected" in lines[1]
    assert lines[2].startswith("solve: 1/2, ")


def test_json_events_are_one_object_a_line() -> None:
    stream = io.StringIO()
    with contextlib.suppress(KeyError), JsonProgress(stream, interval=0.0).bar("solve", 2) as bar:
        bar.advance(1)
        raise KeyError
    events = [json.loads(line) for line in stream.getvalue().splitlines()]
    assert [(e["event"], e["stage"], e["done"], e["total"]) for e in events] == [
        ("start", "solve", 0, 2),
        ("progress", "solve", 1, 2),
        ("end", "solve", 1, 2),
    ]


def test_the_bar_of_a_terminal_ends_full() -> None:
    stream = io.StringIO()
    with RichProgress(stream).bar("solve", 4) as bar:
        bar.advance(4, rejected=2)
    assert "4/4" in stream.getvalue()
    assert "2 rejected" in stream.getvalue()


def test_the_right_one_is_chosen(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    assert isinstance(choose(as_json=True, quiet=True), JsonProgress)
    assert isinstance(choose(quiet=True), SilentProgress)
    assert isinstance(choose(), PlainProgress)
    monkeypatch.setattr(progress.sys.stderr, "isatty", lambda: True)
    assert isinstance(choose(), RichProgress)
    with SilentProgress().bar("x", 1) as bar:
        bar.advance()
    assert capsys.readouterr() == ("", "")


@pytest.mark.parametrize(("seconds", "text"), [(7.4, "7 s"), (59.6, "1:00"), (185, "3:05"), (8049, "2:14:09")])
def test_times_read_like_a_clock(seconds: float, text: str) -> None:
    assert clock_time(seconds) == text
