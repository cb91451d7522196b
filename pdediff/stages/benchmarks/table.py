"""The printed table of a benchmark."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from pdediff.stages.benchmarks.base import Section, Value


def plain(head: Mapping[str, str], sections: Sequence[Section]) -> str:
    """Lines of what it ran on, then a table for each section; goals in the last column."""
    lines = [f"{key}: {value}" for key, value in head.items()]
    for section in sections:
        lines += ["", f"{section.title}: {section.note}", *_table(section)]
    return "\n".join(lines) + "\n"


def _table(section: Section) -> list[str]:
    columns = list(dict.fromkeys(name for row in section.rows for name in row.values))
    cells = [["", *columns, "goal"]]
    for row in section.rows:
        told = [_cell(row.values.get(name)) for name in columns]
        cells.append([row.what, *told, row.goal.words() if row.goal else ""])
    if not any(row.goal for row in section.rows):
        cells = [line[:-1] for line in cells]
    widths = [max(len(line[i]) for line in cells) for i in range(len(cells[0]))]
    return ["  ".join(_aligned(line, widths)).rstrip() for line in cells]


def _aligned(line: Sequence[str], widths: Sequence[int]) -> list[str]:
    first, *others = zip(line, widths, strict=True)
    return [f"{first[0]:{first[1]}}", *(f"{cell:>{width}}" for cell, width in others)]


def _cell(value: Value) -> str:
    if value is None:
        return "-"
    return value if isinstance(value, str) else f"{value:.3g}" if abs(value) < 1000 else f"{value:.0f}"
