"""Writes docs/verification.md: `python tests/pdes/page.py`."""

from __future__ import annotations

import os
from pathlib import Path

os.environ.setdefault("OMP_NUM_THREADS", "1")

import torch
from verification import MODULES, STOPPED, Exact, Row, observed

PAGE = Path(__file__).parents[2] / "docs" / "verification.md"
HEAD = """# Verification of the equations

Written by `make verification` (`python tests/pdes/page.py`); do not edit. The rows are those of `tests/pdes/rows`, and
the tests run them: an observed order must lie within 0.2 of theory (where a row allows more, its comment says why), any
other error below its bound. Sizes are inner steps (time) or cell sizes (space); the observed order is that of the last
two.
"""
TITLES = ("config", "what", "against", "sizes", "errors", "observed order", "theory or bound")


def theory_of(row: Row) -> str:
    """The order that theory gives, or the bound."""
    return f"at most {row.bound:g}" if isinstance(row, Exact) else f"order {row.theory:g}"


def line_of(row: Row) -> str:
    """A row of the table; measures it."""
    errors, orders = observed(row)
    sizes = "" if isinstance(row, Exact) else ", ".join(f"{size:.3g}" for size in row.sizes)
    order = f"{orders[-1]:.2f}" if orders else ""
    cells = (row.pde, row.what, row.against, sizes, ", ".join(f"{e:.1e}" for e in errors), order, theory_of(row))
    return f"| {' | '.join(cells)} |"


def section_of(family: str) -> str:
    """Heading and table of a family."""
    rows = MODULES[family].ROWS
    reasons = [f"{row.pde}: {row.no_order}." for row in rows if isinstance(row, Exact) and row.no_order]
    lines = [f"## {family}", "", f"| {' | '.join(TITLES)} |", f"|{' --- |' * len(TITLES)}", *map(line_of, rows)]
    return "\n".join([*lines, *(["", "No order is observed. " + " ".join(reasons)] if reasons else []), ""])


def entries(text: str) -> set[tuple[str, ...]]:
    """Config, what, against and theory of every row of a page."""
    cells = [[cell.strip() for cell in line[1:-1].split("|")] for line in text.splitlines() if line[:1] == "|"]
    return {(*row[:3], row[-1]) for row in cells if tuple(row) != TITLES and row[0] != "---"}


def main() -> None:
    """Measure all rows and write the page."""
    torch.set_num_threads(1)
    for name, error in STOPPED.items():
        raise ImportError(f"rows/{name}.py") from error
    PAGE.write_text("\n".join([HEAD, *map(section_of, MODULES)]))
    print(f"wrote {PAGE.relative_to(Path.cwd())}" if PAGE.is_relative_to(Path.cwd()) else f"wrote {PAGE}")


if __name__ == "__main__":
    main()
