"""Part `nonlinear` of suite `posterior`: its scores, and a tiny run."""

from __future__ import annotations

import math
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from pdediff.config import build, to_dict
from pdediff.errors import ConfigError, ConfigErrors
from pdediff.flows import compose
from pdediff.runtime import Runtime
from pdediff.stages.benchmarks import Posteriors
from pdediff.stages.benchmarks.base import Measurement
from pdediff.stages.benchmarks.posterior_nonlinear import (
    CHAINS,
    DEFAULT,
    NonlinearRun,
    NonlinearTrial,
    compared,
    judged,
    posed,
    reference,
)
from pdediff.stages.problems import setup_of

BURGERS = compose.node("problem", "burgers1d") | {"grid": 16, "points": 4, "viscosity": 0.1, "noise": 0.1}
SHORT = compose.node("posterior", "pcn") | {
    "run": {"chains": 8, "burn_in": 20, "samples": 16, "thin": 2, "reference": "laplace"}
}
TINY = NonlinearRun(problems={"one": BURGERS}, chains={"one": SHORT}, rows=(DEFAULT, "smc", "dps"), draws=8, trials=2)
METHODS = {name: compose.node("posterior", name) | {"steps": 5} for name in (*TINY.rows, "enkg")}


def test_scores_of_shifted_and_widened_draws() -> None:
    """Draws moved by d and spread by s against the moments they had; a finite number of draws adds nothing."""
    x = torch.randn(4000, 1, 5, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    scale = torch.tensor([0.5, 1.0, 2.0, 1.0, 0.1], dtype=torch.float64)
    x, flat = scale * (x - x.mean(0)) / x.std(0), torch.full((4000,), 1 / 4000, dtype=torch.float64)
    mean, d = torch.full((1, 5), 3.0, dtype=torch.float64), torch.tensor([0.0, 0.7, 0.0, 0.0, 0.0])
    found = compared(mean + 1.5 * x + d, flat, mean, scale[None])
    size, spread = 3 * math.sqrt(5), float(scale.norm())
    less = 2.25 * spread**2 / 4000
    assert found["mean"] == pytest.approx(math.sqrt(0.49 - less) / size)
    assert found["bias"] == pytest.approx(math.sqrt(0.49 - less) / spread)
    assert found["spread"] == pytest.approx(1.5)
    assert found["pattern"] == pytest.approx(1.0)
    assert compared(mean + x, flat, mean, scale[None])["bias"] == 0.0
    # Weights count as copies; the other way round the pattern is the opposite one.
    twice, weights = torch.cat([x, x[:1000]]), torch.cat([torch.full((1000,), 2.0), torch.ones(3000)]).double() / 5000
    some, other = (
        compared(x, weights, mean, scale[None]),
        compared(twice, torch.ones(5000).double() / 5000, mean, scale[None]),
    )
    assert some["spread"] == pytest.approx(other["spread"], rel=1e-3)
    assert compared(x, flat, mean, 3 - scale[None])["pattern"] == pytest.approx(-1.0)


def test_truth_and_readings_are_those_of_the_problem() -> None:
    truth, observation = posed("one", TINY, 0)
    made = build("problem", BURGERS)
    residual = observation.white_residual(truth[None])
    assert float(residual.square().mean()) < 4  # 8 readings: chance below 1e-4
    assert not torch.equal(truth, posed("one", TINY, 1)[0])
    assert truth.shape == setup_of(made).prior.shape


def test_default_and_chains_agree_where_readings_are_nearly_linear() -> None:
    """Strong viscosity: 32 draws against the chains, the bias with a standard error of 1 / sqrt(32)."""
    run = replace(TINY, draws=32)
    longer = SHORT | {"run": SHORT["run"] | {"chains": 32, "burn_in": 100, "samples": 32, "thin": 4}}
    known = reference(NonlinearTrial("one", CHAINS, longer, run))
    assert known.told["R-hat"] < 1.1
    assert known.told["acceptance"] > 0.3
    node = compose.node("posterior", "calibrated")
    outcome = judged(NonlinearTrial("one", DEFAULT, node, run, known))
    print(known.told, outcome)
    assert outcome.failed is None
    assert outcome.values["bias"] < 0.5
    assert outcome.values["spread"] == pytest.approx(1, abs=0.3)
    assert outcome.values["misfit"] < 2
    assert outcome.values["tangent"] == 0
    assert 41 <= outcome.values["forward"] <= 60


def test_every_row_is_told(tmp_path: Path) -> None:
    """Of a tiny run: the reference first, costs counted, what is refused with its reason, tuned values, and bars."""
    tuned = replace(TINY, tuned={"dps": {"guidance.strength": [1e-4, 1e-3]}})
    suite = Posteriors(METHODS, parts=("nonlinear",), nonlinear=tuned, goals={"nonlinear_solves": 1e4})
    with Measurement((), 1, 0.001, False, tmp_path, Runtime("inline")) as measurement:
        sections = {s.title: {row.what: row.record() for row in s.rows} for s in suite.measure(measurement)}
    table = sections["one"]
    assert list(table) == [CHAINS, *TINY.rows]
    chains, default, dps = (table[name]["values"] for name in (CHAINS, DEFAULT, "dps"))
    assert chains["forward"] > 1
    assert chains["R-hat"] >= 1
    assert default["VJPs"] == 0
    assert default["calls"] == 6
    assert default["adjoint"] >= 6
    assert "linear" in table["smc"]["values"]["failed"]
    assert dps["tuned"].startswith("strength")
    assert dps["VJPs"] == dps["forward"] == dps["adjoint"] == 5
    bar = sections["one, bars"]["solves"]
    assert bar["goal"]["met"]
    assert bar["values"]["reached"] == pytest.approx(default["forward"] + 2 * default["adjoint"], rel=0.01)


def test_what_cannot_be_measured_is_refused() -> None:
    with pytest.raises(ConfigError, match=r"nonlinear\.chains has no 'two'"):
        replace(TINY, problems={"two": BURGERS})
    with pytest.raises(ConfigErrors, match=r"problems\.one"):
        Posteriors(METHODS, nonlinear=replace(TINY, problems={"one": BURGERS | {"grid": 0}}, rows=()))
    with pytest.raises(ConfigError, match=r"nonlinear\.rows"):
        Posteriors(METHODS, nonlinear=replace(TINY, rows=("nothing",)))


def test_the_suite_measures_the_three_problems() -> None:
    node = compose.node("suite", "posterior")
    assert list(node["nonlinear"]["problems"]) == ["darcy2d", "burgers1d-ic", "ns2d-unit"]
    assert to_dict(build("suite", node))["nonlinear"] == node["nonlinear"]
