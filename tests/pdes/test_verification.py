"""Orders, exact solutions and invariants of every config; docs/verification.md shows the figures."""

from __future__ import annotations

import math

import pytest
import verification
from page import PAGE, entries, theory_of
from verification import CONFIGS, FAMILIES, MODULES, STOPPED, Exact, Order, Row, failing, name_of, observed

ROWS = verification.rows()


@pytest.mark.parametrize("family", FAMILIES)
def test_family_has_small_equations_and_rows(family: str) -> None:
    if family in STOPPED:
        raise STOPPED[family]
    assert MODULES[family].SMALL
    assert MODULES[family].ROWS


@pytest.mark.parametrize("row", ROWS, ids=name_of)
def test_row(row: Row) -> None:
    assert failing(row, *observed(row)) is None


def test_rows_have_names_of_their_own_and_known_configs() -> None:
    names = [name_of(row) for row in ROWS]
    assert len(set(names)) == len(names)
    assert not [name for name in names if "|" in name], "a table cell holds no bar"
    assert {row.pde for row in ROWS} <= {path.stem for path in CONFIGS}


@pytest.mark.parametrize("config", [path.stem for path in CONFIGS])
def test_every_config_converges_and_agrees_with_something(config: str) -> None:
    mine = [row for row in ROWS if row.pde == config]
    orders = [row for row in mine if isinstance(row, Order) or row.no_order]
    assert orders, f"no Order row, and no Exact row that says why there is none, for {config}"
    assert any(isinstance(row, Exact) for row in mine), f"no Exact row for {config}"


def test_the_page_lists_these_rows() -> None:
    listed = entries(PAGE.read_text())
    assert listed == {(row.pde, row.what, row.against, theory_of(row)) for row in ROWS}, "run `make verification`"


def test_figures_are_judged() -> None:
    order = Order("heat1d", "time", "sine", 2.0, (0.2, 0.1), lambda h: 3.0 * h**2)
    errors, orders = observed(order)
    assert errors == pytest.approx((0.12, 0.03))
    assert orders == pytest.approx((2.0,))
    assert failing(order, errors, orders) is None
    assert "order 1.70 instead of 2" in str(failing(order, errors, (1.7,)))
    assert "order 2.30 instead of 2" in str(failing(order, errors, (2.3,)))
    assert "not finite" in str(failing(order, (1.0, math.nan), (math.nan,)))
    exact = Exact("heat1d", "mean drift", "0", 1e-12, lambda: 2e-12)
    assert failing(exact, *observed(exact)) == "heat1d: mean drift against 0: 2e-12 is above 1e-12"
    assert failing(exact, (1e-12,), ()) is None
