"""Scores of a case, summaries over cases, paired comparisons, text tables."""

import io
import json

import numpy as np
import pytest

from pdediff.metrics import (
    CASE,
    LEVELS,
    Geometry,
    Row,
    crps,
    finite_json,
    paired,
    plain,
    profile,
    rows,
    score,
    show,
    summarise,
)


def case(seed, width=1.0, shift=0.0, draws=24):
    rng = np.random.default_rng(seed)
    centre = rng.normal(size=(12, 12))
    truth = centre + rng.normal(size=(12, 12))
    return {"u": centre + shift + width * rng.normal(size=(draws, 12, 12))}, {"u": truth}


def test_score_by_hand():
    posterior = {"k": np.array([[[3.0, 12.0]], [[3.0, 4.0]]])}
    found = score(posterior, {"k": np.array([[3.0, 12.0]])}, thresholds={"k": 7.5})["k"]
    assert found["rmse"] == pytest.approx(4.0 / np.sqrt(2.0))
    assert found["misclassified"] == 0.0  # mean 8 is above 7.5
    assert found["crps"] == pytest.approx((0.0 + (4.0 - 4.0)) / 2.0)
    assert found["rel_l2_mean"] == pytest.approx(4.0 / np.sqrt(153.0))
    assert found["ess"] == pytest.approx(2.0)
    assert found["spread"] == pytest.approx(np.sqrt(3.0 * 16.0 / 2.0))
    assert (found["draws"], found["diverged"]) == (2.0, 0.0)


def test_weights_move_every_score():
    posterior, truth = case(0)
    plain_scores, weighted = score(posterior, truth)["u"], score(posterior, truth, np.linspace(-3, 3, 24))["u"]
    same = {k for k in plain_scores if plain_scores[k] == weighted[k]}
    assert same == {"draws", "diverged"}


def test_diverged_draws_are_counted_and_left_out():
    posterior, truth = case(1)
    broken = {"u": np.concatenate([posterior["u"], np.full((8, 12, 12), np.nan)])}
    found, clean = score(broken, truth)["u"], score(posterior, truth)["u"]
    assert found["diverged"] == pytest.approx(0.25)
    assert found["crps"] == clean["crps"]
    lost = score({"u": np.full((4, 12, 12), np.inf)}, truth, thresholds={"u": 0.0})["u"]
    assert lost["diverged"] == 1.0
    assert np.isnan(lost["crps"])
    assert set(lost) == set(score(posterior, truth, thresholds={"u": 0.0})["u"])


def test_profile_agrees_with_score():
    posterior, truth = case(2)
    geometry = {"u": Geometry((1.0, 2.0), "periodic")}
    found, scores = profile(posterior, truth, geometry=geometry)["u"], score(posterior, truth, geometry=geometry)["u"]
    assert found.coverage[LEVELS.index(0.9)] == pytest.approx(scores["coverage_90"], abs=1e-12)
    assert found.ranks.sum() == pytest.approx(1.0)
    assert found.wavenumber[-1] <= 3.0 + 1e-9  # 12 points over length 2
    assert len(found.wavenumber) == len(found.spectrum_truth) == len(found.spectrum_draws)


@pytest.mark.parametrize(
    ("posterior", "truth", "match"),
    [
        ({"u": np.zeros((3, 4))}, {"v": np.zeros(4)}, "no truth for field 'u'"),
        ({"u": np.zeros((3, 4))}, {"u": np.zeros(5)}, "are not"),
        ({"u": np.zeros((3, 2))}, {"u": np.array([1.0, np.nan])}, "truth is not finite"),
    ],
)
def test_fields_that_do_not_fit_are_named(posterior, truth, match):
    with pytest.raises(ValueError, match=match):
        score(posterior, truth)


def made_rows():
    made = []
    for i in range(6):
        for method, width, shift in (("good", 1.0, 0.0), ("narrow", 0.3, 0.0), ("shifted", 1.0, 2.0)):
            posterior, truth = case(i, width, shift)
            made += rows(method, i, score(posterior, truth), {"seconds": 1.0 + i})
    return made


def test_summary_means_are_means_and_the_best_is_the_best():
    made = made_rows()
    table = summarise(made)
    by_hand = np.mean([crps(*(d["u"] for d in case(i))) for i in range(6)])
    entry = table.get("good", "u", "crps")
    assert entry is not None
    assert entry.mean == pytest.approx(by_hand, rel=1e-12)
    assert entry.lower < entry.mean < entry.upper
    assert table.best("u", "crps") == "good"
    assert table.best("u", "coverage_90") in ("good",)
    assert table.best("u", "draws") is None
    assert table.best(CASE, "seconds") is None  # all alike
    assert table.fields == ("u", CASE)


def test_spread_skill_over_cases_is_the_ratio_of_mean_squares():
    made = [Row("a", 0, "u", {"spread": 1.0, "rmse": 1.0, "spread_skill": 1.0})]
    made += [Row("a", 1, "u", {"spread": 1.0, "rmse": 7.0, "spread_skill": 1.0 / 7.0})]
    entry = summarise(made).get("a", "u", "spread_skill")
    assert entry is not None
    assert entry.mean == pytest.approx(np.sqrt(2.0 / 50.0))


def test_a_method_that_diverged_on_a_case_cannot_be_best():
    made = [Row("a", i, "u", {"crps": 1.0 if i else float("nan")}) for i in range(3)]
    made += [Row("b", i, "u", {"crps": 2.0}) for i in range(3)]
    table = summarise(made)
    entry = table.get("a", "u", "crps")
    assert entry is not None
    assert (entry.missing, entry.count) == (1, 3)
    assert table.best("u", "crps") == "b"
    assert "1 of 3 cases missing" in plain(table)


def test_twice_the_same_case_is_refused():
    with pytest.raises(ValueError, match="two rows for method 'a', case 1"):
        summarise([Row("a", 1, "u", {"crps": 1.0})] * 2)


def test_paired_comparison_by_hand():
    made = [Row("a", i, "u", {"crps": v}) for i, v in enumerate((1.0, 2.0, 3.0))]
    made += [Row("b", i, "u", {"crps": v}) for i, v in enumerate((2.0, 4.0, 6.0))]
    made += [Row("b", 9, "u", {"crps": 100.0})]  # not shared
    found = paired(made, "a", "b", "u", "crps")
    assert found.difference.mean == pytest.approx(-2.0)
    assert found.relative.mean == pytest.approx(-0.5)
    assert found.wins == 3
    assert found.p_value == pytest.approx(2.0 / 8.0)  # only all-plus and all-minus are as large
    with pytest.raises(ValueError, match="share no case"):
        paired(made, "a", "c", "u", "crps")


def test_paired_p_value_for_many_cases_is_uniform_under_no_difference():
    rng = np.random.default_rng(4)
    p_values = []
    for k in range(60):
        values = rng.normal(size=(16, 2))
        made = [Row("ab"[j], i, "u", {"crps": values[i, j]}) for i in range(16) for j in range(2)]
        p_values.append(paired(made, "a", "b", "u", "crps", seed=k).p_value)
    # Kolmogorov distance of 60 uniform values is above 0.34 with chance 1e-6
    assert np.max(np.abs(np.sort(p_values) - (np.arange(60) + 0.5) / 60)) < 0.34


def test_plain_table_and_json():
    table = summarise(made_rows())
    out = io.StringIO()
    show(table, stream=out)
    lines = out.getvalue().splitlines()
    assert lines[0].split() == ["u", "good", "narrow", "shifted"]
    row = next(line for line in lines if line.startswith("CRPS"))
    assert row.count("[") == 3
    assert row.count("*") == 1
    records = json.loads(finite_json(table))
    assert {"method", "field", "metric", "mean", "lower", "upper", "count", "missing"} == set(records[0])


def test_rich_table_is_used_on_a_terminal():
    class Terminal(io.StringIO):
        def isatty(self):
            return True

    out = Terminal()
    show(summarise(made_rows()), stream=out)
    assert "┃" in out.getvalue()
    assert "relative L2" in out.getvalue()
