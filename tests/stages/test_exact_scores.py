"""`pdediff evaluate` of a problem's reconstruction: the exact posterior is in the table, the report and the store."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import stage_recipe as recipe
import zoo_recipe as zoo

from pdediff import stages
from pdediff.stages.configs import ReconstructConfig

LABELS = ("mean off the exact mean", "spread / exact spread", "error of mean / Bayes", "error of one draw / Bayes")


@pytest.fixture(scope="module")
def report(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Exact draws and those of a mode finder that was stopped early, on the same eight cases."""
    root, found = tmp_path_factory.mktemp("exact"), []
    for name in ("exact_gaussian", "red_diff"):
        told = {"name": name.replace("_", "-"), "problem": zoo.problem("heat1d"), "posterior": zoo.posterior(name)}
        config = ReconstructConfig.model_validate(told | {"cases": 8, "draws": 32})
        found.append(stages.reconstruct(config, None, None, root, recipe.INLINE))
    return stages.evaluate(recipe.config("evaluate"), found, root, recipe.INLINE)


def test_exact_draws_score_what_they_must(report: Path) -> None:
    """Means of 8 cases; a field of 32 points has about eight independent values a case."""
    told = {
        (r["method"], r["metric"]): r["mean"]
        for r in json.loads((report / "scores.json").read_text())
        if r["field"] == "initial"
    }
    assert told["exact-gaussian", "exact_floor"] == pytest.approx(32**-0.5)
    assert told["exact-gaussian", "exact_distance"] == pytest.approx(32**-0.5, rel=0.5)
    assert told["exact-gaussian", "exact_spread"] == pytest.approx(1.0, abs=0.15)
    assert told["exact-gaussian", "exact_mean_error"] == pytest.approx(1.0, abs=0.15)
    assert told["exact-gaussian", "exact_draw_error"] == pytest.approx(1.0, abs=0.15)
    assert told["exact-gaussian", "best_draw"] > told["exact-gaussian", "best_mean"]
    assert told["red-diff", "exact_spread"] > 1.2  # four of its 300 steps
    assert told["red-diff", "exact_distance"] > 2 * told["exact-gaussian", "exact_distance"]


def test_they_are_printed_and_doubted(report: Path) -> None:
    for name in ("scores.txt", "report.md", "report.html"):
        text = (report / name).read_text()
        assert all(label in text for label in LABELS), name
    doubts = (report / "report.md").read_text()
    assert "exact standard deviations off the exact mean" in doubts
    assert "of that of the exact posterior" in doubts
