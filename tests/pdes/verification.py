"""What every equation must show: an order of convergence, or agreement with something known; the rows of one table.

A file rows/<family>.py holds `SMALL` (equations that solve in milliseconds, by name), `ROWS`, and `GRIDS` where the 32
points on which test_configs.py builds every config do not suit one.
"""

from __future__ import annotations

import importlib
import math
from collections.abc import Callable
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from types import ModuleType

from pdediff.pdes import PDE

CONFIGS = sorted((Path(__file__).parents[2] / "configs" / "pde").glob("*.yaml"))
FAMILIES = sorted(path.stem for path in (Path(__file__).parent / "rows").glob("*.py"))


@dataclass(frozen=True)
class Order:
    """Errors of a config's method at decreasing `sizes` (steps or cells): the last two must fall at order `theory`."""

    pde: str
    what: str
    against: str
    theory: float
    sizes: tuple[float, ...]
    error: Callable[[float], float]
    tolerance: float = 0.2


@dataclass(frozen=True)
class Exact:
    """One number of a config's method that must stay within `bound`; `no_order` says why nothing converges, if so."""

    pde: str
    what: str
    against: str
    bound: float
    error: Callable[[], float]
    no_order: str = ""


Row = Order | Exact


def name_of(row: Row) -> str:
    """Name of a row in the tests and on the page."""
    return f"{row.pde}: {row.what} against {row.against}"


def observed(row: Row) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """Errors of a row, and the orders between neighbouring sizes (none for `Exact`)."""
    if isinstance(row, Exact):
        return (float(row.error()),), ()
    errors = tuple(float(row.error(size)) for size in row.sizes)
    logs = [math.log(error) if error > 0.0 else -math.inf for error in errors]
    steps = [math.log(coarse / fine) for coarse, fine in pairwise(row.sizes)]
    falls = [coarse - fine for coarse, fine in pairwise(logs)]
    return errors, tuple(fall / step for fall, step in zip(falls, steps, strict=True))


def failing(row: Row, errors: tuple[float, ...], orders: tuple[float, ...]) -> str | None:
    """What is wrong with the figures of a row, or None."""
    if not all(map(math.isfinite, errors)):
        return f"{name_of(row)}: errors {errors} are not finite"
    if isinstance(row, Exact):
        return None if errors[0] <= row.bound else f"{name_of(row)}: {errors[0]:.3g} is above {row.bound:g}"
    if abs(orders[-1] - row.theory) <= row.tolerance:
        return None
    shown = ", ".join(f"{error:.3g}" for error in errors)
    return f"{name_of(row)}: order {orders[-1]:.2f} instead of {row.theory:g} (errors {shown})"


def family(name: str) -> ModuleType:
    """The module rows/<name>.py; this file's folder must be on the path."""
    return importlib.import_module(f"rows.{name}")


def _families() -> tuple[dict[str, ModuleType], dict[str, Exception]]:
    """Modules by name, and what stopped those that cannot be imported: that fails a test of theirs, not all tests."""
    modules, stopped = {}, {}
    for name in FAMILIES:
        try:
            modules[name] = family(name)
        except Exception as error:
            stopped[name] = error
    return modules, stopped


MODULES, STOPPED = _families()


def small() -> dict[str, tuple[PDE, int]]:
    """Every small equation with its grid. Raises ValueError where two families give one name."""
    found: dict[str, tuple[PDE, int]] = {}
    for module in MODULES.values():
        if twice := sorted(found.keys() & module.SMALL.keys()):
            raise ValueError(f"{module.__name__} repeats the names {twice}")
        found |= module.SMALL
    return found


def grids() -> dict[str, int]:
    """Points for the configs that name them."""
    return {name: grid for module in MODULES.values() for name, grid in vars(module).get("GRIDS", {}).items()}


def rows() -> list[Row]:
    """Every row, by family."""
    return [row for module in MODULES.values() for row in module.ROWS]
