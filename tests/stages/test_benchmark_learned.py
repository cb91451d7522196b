"""Part `learned` of the suite `posterior`: a tiny run, and its coverage by hand."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import stage_recipe as recipe
import torch

from pdediff.config import build
from pdediff.errors import ConfigError
from pdediff.flows import compose
from pdediff.runtime import Runtime
from pdediff.stages.benchmarks import Posteriors
from pdediff.stages.benchmarks.base import Measurement
from pdediff.stages.benchmarks.posterior_fields import BAYES, FieldRun
from pdediff.stages.benchmarks.posterior_learned import LearnedRun, coverage

RUN = FieldRun(rows={"calibrated": 12, "kriging": 0, "dps": 12}, noises=(0.01,), grid=16, points=30, cases=2, draws=8)
TINY = LearnedRun(
    network={"kind": "UNet", "widths": [8], "features": 8},
    fit={"skip": "spectral", "steps": 2, "batch": 8},
    run=replace(RUN, tuned={"dps": {"guidance.strength": [0.5, 1.0]}}),
    fields=160,
)


def suite(**arguments: Any) -> Posteriors:
    """The suite as it is configured, with a small part `learned` alone."""
    found: Posteriors = build("suite", compose.node("suite", "posterior"))
    goals = {"learned_draw": 2.0, "learned_mean": 2.0, "learned_calls": 40.0, "learned_vjps": 0.0}
    return replace(found, **({"parts": ("learned",), "learned": TINY, "goals": goals} | arguments))


def test_a_tiny_run_trains_its_priors_once(tmp_path: Path) -> None:
    (tmp_path / "scratch").mkdir()
    with Measurement((), 1, 0.001, False, tmp_path / "scratch", Runtime("inline")) as measurement:
        sections = list(suite().measure(measurement))
        kept = recipe.snapshot(tmp_path / "runs")
        again = list(suite().measure(measurement))
    assert recipe.snapshot(tmp_path / "runs") == kept
    assert [section.title.split()[0] for section in sections] == ["poisson", "poisson", "helmholtz", "helmholtz"]
    assert len({path.split("/")[0] for path in kept}) == 2
    for table, bars, repeated in zip(sections[::2], sections[1::2], again[::2], strict=True):
        rows: dict[str, Any] = {row.what: row.values for row in table.rows}
        assert list(rows) == [BAYES, "calibrated, exact prior", "calibrated", "kriging", "dps"]
        assert all(row.get("failed") is None for row in rows.values())
        best, learned = rows[BAYES], rows["calibrated"]
        assert learned["points"] == pytest.approx(100 * (learned["draw"] - best["draw"]), abs=1e-9)
        assert learned["points "] == pytest.approx(100 * (learned["mean"] - best["mean"]), abs=1e-9)
        # A Wiener filter of 160 fields under a network that knows nothing: near the optimum, unlike any guess.
        assert learned["draw"] < 1.3 * best["draw"]
        assert rows["kriging"]["draw"] < 1.3 * best["draw"]
        assert (learned["calls"], learned["VJPs"]) == (12.0, 0.0)
        assert rows["dps"]["VJPs"] > 0
        assert rows["dps"]["tuned"] in ("strength 0.5", "strength 1")
        reached = {row.what: row.values["reached"] for row in bars.rows}
        assert reached == {"draw": learned["points"], "mean": learned["points "], "calls": 12.0, "vjps": 0.0}
        same: dict[str, Any] = {row.what: row.values for row in repeated.rows}
        assert same["calibrated"]["draw"] == learned["draw"]


def test_coverage_by_hand() -> None:
    """Twenty-one draws 0 ... 20 of two points: the central 90 % are 1 ... 19, edges included."""
    drawn = torch.arange(21.0)[:, None].expand(21, 4)
    truth = torch.tensor([0.9, 1.0, 19.0, 5.0])
    assert coverage(drawn, truth, torch.tensor([True, True, True, True])) == 0.75
    assert coverage(drawn, truth, torch.tensor([True, True, False, False])) == 0.5


def test_rows_and_options_that_are_none_are_told() -> None:
    with pytest.raises(ConfigError, match=r"learned\.run\.rows: 'krigin' is no row"):
        suite(learned=replace(TINY, run=replace(RUN, rows={"krigin": 1.0})))
    with pytest.raises(ConfigError, match=r"DPS has no option power to tune"):
        suite(learned=replace(TINY, run=replace(RUN, tuned={"dps": {"guidance.power": [1.0]}})))
    with pytest.raises(ConfigError, match="goals has no option 'learned_spread'"):
        suite(goals={"learned_spread": 1.0})


def test_the_suite_is_measured_as_the_issue_asks() -> None:
    found: Posteriors = build("suite", compose.node("suite", "posterior"))
    run = found.learned.run
    assert (run.grid, run.points, found.learned.fields) == (64, 500, 2000)
    assert (found.goals["learned_draw"], found.goals["learned_mean"], run.rows["calibrated"]) == (2.0, 2.0, 40)
