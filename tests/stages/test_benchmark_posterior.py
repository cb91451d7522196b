"""Suite `posterior`: its problems and scores against closed forms, its counting of cost, and tiny runs."""

from __future__ import annotations

import json
import math
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from pdediff import cli
from pdediff.config import build, to_dict
from pdediff.diffusion import GaussianMixturePrior, GaussianPrior
from pdediff.errors import ConfigError, ConfigErrors, NumericalError
from pdediff.flows import compose
from pdediff.posterior import Draws
from pdediff.runtime import Runtime
from pdediff.stages.benchmarks import Posteriors, posterior_problems
from pdediff.stages.benchmarks.base import Measurement
from pdediff.stages.benchmarks.posterior_bar import FLOOR, PRIOR, BarRun, Tuning
from pdediff.stages.benchmarks.posterior_cost import at_cost
from pdediff.stages.benchmarks.posterior_fields import BAYES, FieldRun, field_errors
from pdediff.stages.benchmarks.posterior_metrics import Sliced, averaged, health, scores
from pdediff.stages.benchmarks.posterior_problems import MeasuredError, MixtureLaw, problems
from pdediff.stages.benchmarks.posterior_tuning import best_options, with_option

LAW = MixtureLaw()
LEFT_OUT = {
    "smc_islands": "the rows of particles run in islands that are merged by evidence already",
    "exact_gaussian": "the first row of each table",
    "exact_mixture": "the first row of each table",
    "two_resolutions": "needs a prior on function space",
}
"""Configs of configs/posterior that are no row of the suite, and why."""

TINY = BarRun(draws=16, problems=2, units=24.0, island=8, directions=16, tuning=Tuning(problems=1, draws=8))


def node_of(name: str) -> dict[str, Any]:
    return compose.node("posterior", name)


def measured(suite: Posteriors, path: Path) -> dict[str, dict[str, Any]]:
    """Rows by name of every section."""
    with Measurement((), 1, 0.001, False, path, Runtime("inline")) as measurement:
        return {
            section.title: {row.what: row.record() for row in section.rows} for section in suite.measure(measurement)
        }


def test_the_problems_are_those_described() -> None:
    found = problems(LAW, 7)
    assert found[:2] == problems(LAW, 2) or found[0].log_evidence == problems(LAW, 2)[0].log_evidence
    spectrum = 1 / torch.arange(1, 65, dtype=torch.float64)
    for case in found:
        assert 2.3 <= 1 / float(case.posterior.weights.square().sum()) <= 3.3
        values = torch.linalg.eigvalsh(case.prior.covariances).flip(1)
        torch.testing.assert_close(values, (16 * spectrum / spectrum.sum()).expand(8, 64), rtol=1e-8, atol=1e-10)
        assert case.observation.noise.std.tolist() == [0.1] * 10  # type: ignore[attr-defined]
    means = torch.cat([case.prior.means.flatten() for case in found])
    rows = torch.cat([case.observation.operator.matrix.flatten() for case in found])  # type: ignore[attr-defined]
    # Standard deviations of 3584 and 4480 normals: five standard errors.
    assert float(means.std()) == pytest.approx(0.28, rel=5 / math.sqrt(2 * len(means)))
    assert float(rows.std()) == pytest.approx(1 / 8, rel=5 / math.sqrt(2 * len(rows)))
    assert len({case.log_evidence for case in found}) == 7


def test_no_problem_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(posterior_problems, "SEARCHED", 20)
    law = MixtureLaw(dimension=4, readings=2, components=2, modes=(2.5, 3.3))
    with pytest.raises(ValueError, match=r"0 of 20 problems have 2.5 to 3.3"):
        problems(law, 1)


def test_moments_and_mode_weights_are_those_of_exact_draws() -> None:
    case, n = problems(LAW, 1)[0], 8000
    x = case.exact(n, 3)
    found = scores(Draws.equal(x[:, None]), case, Sliced.of(x, 8, 0))
    # |mean error|^2 is 1 / n on average, var ratio and weights have standard errors below 1 / sqrt(n): six of them.
    assert found["mean err"] < 3 / math.sqrt(n)
    assert found["var ratio"] == pytest.approx(1, abs=6 / math.sqrt(n))
    assert found["mode TV"] < 6 * math.sqrt(8 / n)
    assert found["SW2"] == 0.0
    # One component alone: its weight is missing from all others.
    component = int(case.posterior.weights.argmax())
    means, covariances = case.posterior.means[component, None], case.posterior.covariances[component, None]
    part = GaussianMixturePrior(torch.ones(1).double(), means, covariances)
    alone = case.mode_weights(part.sample(tuple(range(2000))).flatten(1), torch.full((2000,), 1 / 2000).double())
    assert float(alone[component]) > 0.9


def test_scores_of_shifted_and_widened_draws() -> None:
    """Exact draws moved by d and spread by s about their mean: |d|^2 and s^2 enter by the formulas."""
    case = problems(LAW, 1)[0]
    x = case.exact(512, 5)
    x = x - x.mean(0) + case.mean
    d = torch.zeros(64, dtype=torch.float64)
    d[0] = 0.7
    sliced = Sliced.of(x, 64, 0)
    before = scores(Draws.equal(x[:, None]), case, sliced)
    moved = scores(Draws.equal((case.mean + 1.5 * (x - case.mean) + d)[:, None]), case, sliced)
    assert before["mean err"] == pytest.approx(0, abs=1e-9)
    assert moved["mean err"] == pytest.approx(0.7 / math.sqrt(case.variance))
    assert moved["var ratio"] == pytest.approx(1.5**2 * before["var ratio"])
    shifted = scores(Draws.equal((x + d)[:, None]), case, sliced)
    assert shifted["SW2"] == pytest.approx(math.sqrt(float((sliced.directions @ d).square().mean())))
    residual = (case.observation.y - (x + d) @ case.observation.operator.matrix.T) / 0.1  # type: ignore[attr-defined]
    assert shifted["misfit"] == pytest.approx(float(residual.square().mean()))


def test_weighted_draws_count_as_often_as_their_weight() -> None:
    g = torch.Generator().manual_seed(0)
    x, other = torch.randn(2, 12, 3, generator=g, dtype=torch.float64)
    counts = torch.tensor([1, 2, 3, 0, 1, 1, 4, 0, 2, 1, 5, 4])
    sliced = Sliced.of(torch.cat([other, other + 0.1]), 32, 1)
    copies = x.repeat_interleave(counts, 0)
    weights = (counts / 24).double()
    expected = sliced(copies, torch.full((24,), 1 / 24, dtype=torch.float64))
    assert sliced(x, weights) == pytest.approx(expected, rel=1e-12)


@pytest.mark.parametrize("sigma", [0.001, 0.03, 0.4, 2.0, 100.0])
def test_the_measured_error_of_one_gaussian_is_the_closed_form(sigma: float) -> None:
    case = problems(replace(LAW, components=1), 1)[0]
    exact = GaussianPrior(case.prior.means[0], case.prior.covariances[0]).error(sigma).matrix
    found = MeasuredError(case.prior)(sigma).matrix
    # The trace of 4096 errors; interpolation between levels a factor 1.5 apart is off by less.
    assert float(found.trace()) == pytest.approx(float(exact.trace()), rel=0.05)
    assert float((found - exact).norm() / exact.norm()) < 0.2  # sampling alone: about sqrt(64 / 4096)
    torch.testing.assert_close(case.errors(sigma).matrix, exact)


def test_cost_is_counted_where_the_denoiser_is_called() -> None:
    case = problems(LAW, 1)[0]
    prior = case.denoiser()
    x = torch.randn(3, 1, 64).requires_grad_()
    sigma = torch.ones(3)
    y = prior(x, sigma) + prior(x.detach(), sigma)
    torch.autograd.grad(y.sum(), x, retain_graph=True)
    torch.autograd.grad(y[:, 0, 0].sum(), x)
    assert (prior.cost.calls, prior.cost.vjps, prior.cost.units) == (6, 6, 12)


@pytest.mark.parametrize(
    ("name", "calls", "vjps"),
    [("dps", 1, 1), ("calibrated", 1, 0), ("mmps", 1, 4), ("smc", 4, 0), ("tds", 2, 2), ("hybrid", 2, 2)],
)
def test_steps_are_those_of_the_cost(name: str, calls: int, vjps: int) -> None:
    """Units are met to half a step, with the calls and gradients that a step of the method has."""
    case = problems(LAW, 1)[0]
    node = at_cost(node_of(name), 60.0, case.denoiser(), case.observation, 4)
    prior = case.denoiser()
    build("posterior", node)(prior, case.observation, 4, 0)
    used = prior.cost.units / 4
    assert abs(used - 60) <= (calls + vjps) / 2 + 1e-9
    assert prior.cost.calls / 4 == pytest.approx(calls * used / (calls + vjps), rel=0.1)


def test_methods_without_steps_are_as_configured() -> None:
    case = problems(LAW, 1)[0]
    assert at_cost(node_of("kriging"), 60.0, case.denoiser(), case.observation, 4) == node_of("kriging")


def test_tuning_takes_the_least_error() -> None:
    node = {"kind": "A", "guidance": {"kind": "B", "strength": 1.0}, "rate": 2.0}

    def error(tried: dict[str, Any]) -> float:
        strength, rate = tried["guidance"]["strength"], tried["rate"]
        if strength > 5:
            raise NumericalError("diverged")
        return math.nan if strength > 3 else (strength - 2) ** 2 + (rate - strength) ** 2

    best, words = best_options(node, {"guidance.strength": [0.5, 2.0, 4.0, 8.0], "rate": [1.0, 2.5]}, error)
    assert best == {"kind": "A", "guidance": {"kind": "B", "strength": 2.0}, "rate": 2.5}
    assert words == "strength 2, rate 2.5"
    assert node["guidance"] == {"kind": "B", "strength": 1.0}
    with pytest.raises(ConfigError, match="B has no option strenght to tune"):
        with_option(node, "guidance.strenght", 1.0)


def test_evidence_ratio_and_standard_error() -> None:
    case = problems(LAW, 1)[0]
    told = [{"log_evidence": case.log_evidence + math.log(r), "distinct_roots": 8 * r} for r in (0.5, 1.5)]
    found = health([Draws.equal(torch.zeros(2, 1, 64), of) for of in told], case)
    assert found == pytest.approx({"roots": 8.0, "logZ err": math.log(0.75) / 2, "Z ratio": 1.0, "Z ratio +-": 0.5})
    assert averaged([{"SW2": 1.0, "Z ratio +-": 3.0}, {"SW2": 3.0, "Z ratio +-": 4.0}]) == {
        "SW2": 2.0,
        "SW2 +-": 1.0,
        "Z ratio +-": 2.5,  # of independent errors: the root of the sum of squares over the number
    }


def test_field_errors_by_hand() -> None:
    """Draws m + e, m - e with m off the truth by d and off the exact mean by c, along other directions."""
    truth, zero = torch.tensor([[3.0, 0.0], [0.0, 4.0]]).double(), torch.zeros(2, 2).double()
    exact, m = truth + 0.6, truth + 0.6
    e = zero.clone()
    e[0, 0] = 0.5
    found = field_errors(torch.stack([m + e, m - e]), truth, exact, zero + 0.25)
    variance = 2 * 0.25  # of two draws: their squared distances to the mean over n - 1
    assert found["draw"] == pytest.approx(math.sqrt((4 * 0.36 + 0.25) / 25))
    assert found["mean"] == pytest.approx(math.sqrt((4 * 0.36 - variance / 2) / 25))
    assert found["to exact mean"] == 0.0
    assert found["spread"] == pytest.approx(math.sqrt(variance / (4 * 0.0625)))


def test_a_tiny_table(tmp_path: Path) -> None:
    """Rows in order; a method that fails says why; goals are told; the tuned value is named."""
    names = ("kriging", "smc", "dps", "d_flow")
    run = replace(TINY, tuning=replace(TINY.tuning, options={"dps": {"guidance.strength": [1e9, 0.2]}}))
    suite = Posteriors(
        {name: node_of(name) for name in names},
        {"ddnm_plus": compose.node("guidance", "ddnm_plus")},
        parts=("mixture", "gaussian"),
        bar=run,
        goals={"mixture_smc": 100.0, "mixture_smc_mode_tv": 0.0, "mixture_smc_evidence": 1e9, "gaussian_d_flow": 1.0},
    )
    found = measured(suite, tmp_path)
    table = found["mixture, 8 components"]
    assert list(table) == [FLOOR, PRIOR, *names, "ddnm_plus under DDIM"]
    assert table["d_flow"]["values"]["failed"] == "ConfigError: order 2 needs at least 2 steps, got 1"
    assert table["d_flow"]["values"]["SW2"] is None
    assert table["dps"]["values"]["tuned"] == "strength 0.2"
    assert table["dps"]["values"]["VJPs"] == table["dps"]["values"]["units"] / 2
    assert table["smc"]["values"]["units"] == pytest.approx(24, abs=1)
    assert 0 < table["smc"]["values"]["roots"] <= 8
    # Kriging knows nothing of modes: on one Gaussian it is exact and has the exact evidence, on a mixture it has not.
    assert found["gaussian, 1 component"]["kriging"]["values"]["mode TV"] == pytest.approx(0)
    values = found["gaussian, 1 component"]["smc"]["values"]
    assert (values["logZ err"], values["Z ratio"]) == pytest.approx((0, 1), abs=1e-4)
    assert table[PRIOR]["values"]["misfit"] > 10 > 2 > table[FLOOR]["values"]["misfit"]
    goals = {name: row["goal"]["met"] for part in found.values() for name, row in part.items() if row["goal"]}
    assert goals == {"smc, SW2": True, "smc, mode TV": False, "smc, Z ratio": True, "d_flow, SW2": False}


def test_a_tiny_table_of_fields(tmp_path: Path) -> None:
    """The exact method meets the optimum to its sampling error; the default has all bars."""
    run = FieldRun(
        rows={"calibrated": 30.0, "kriging": 0.0, "dps": 20.0},
        noises=(0.01,),
        grid=16,
        points=60,
        cases=2,
        draws=64,
        tuned={"dps": {"guidance.strength": [1e9, 0.3]}},
    )
    goals = {"fields_draw": 1.1, "fields_mean": 1.1, "fields_spread": 0.1, "fields_calls": 30.0, "fields_vjps": 0.0}
    methods = {name: node_of(name) for name in run.rows}
    for part in ("poisson", "helmholtz"):
        found = measured(Posteriors(methods, parts=(part,), fields=run, goals=goals), tmp_path)
        table = found[f"{part} 16x16, 60 sensors, noise 1 %"]
        assert list(table) == [BAYES, "exact draws", *run.rows]
        best = table[BAYES]["values"]
        for name in ("exact draws", "kriging"):
            values = table[name]["values"]
            assert values["draw"] == pytest.approx(best["draw"], rel=0.05)
            assert values["mean"] == pytest.approx(best["mean"], rel=0.05)
            assert values["spread"] == pytest.approx(1, abs=0.05)
            assert values["to exact mean"] < 0.05 * best["draw"]
        bars = found[f"{part} 16x16, 60 sensors, noise 1 %, bars"]
        assert {name: row["goal"]["met"] for name, row in bars.items()} == dict.fromkeys(
            ("draw", "mean", "spread", "calls", "vjps"), True
        )
        assert table["dps"]["values"]["tuned"] == "strength 0.3"
        assert table["dps"]["values"]["draw"] > best["draw"]


def test_from_the_command_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    words = ("compute=inline", "suite.parts=[]", "-q", "--data-root", str(tmp_path))
    assert cli.run(["benchmark", "posterior", *words]) == 0
    (made,) = (tmp_path / "reports").iterdir()
    record = json.loads((made / "benchmark.json").read_text())
    assert (record["suite"], record["sections"]) == ("posterior", [])


def test_every_config_is_a_row() -> None:
    node = compose.node("suite", "posterior")
    folder = Path(__file__).parents[2] / "configs" / "posterior"
    assert {*node["methods"], *LEFT_OUT} == {path.stem for path in folder.glob("*.yaml")}
    assert {name: node_of(name) for name in node["methods"]} == node["methods"]


def test_the_config_file_writes_out_every_setting() -> None:
    node = compose.node("suite", "posterior")
    assert to_dict(build("suite", node)) == node


def test_wrong_settings_are_named() -> None:
    methods = {"smc": node_of("smc")}
    with pytest.raises(ConfigError, match="goals has no option 'mixture_scm'"):
        Posteriors(methods, goals={"mixture_scm": 1.0})
    with pytest.raises(ConfigError, match=r"fields.rows: 'scm' is no row"):
        Posteriors(methods, fields=FieldRun(rows={"scm": 40.0}))
    with pytest.raises(ConfigError, match=r"bar.tuning.options: 'dsp' is no row"):
        Posteriors(methods, bar=BarRun(tuning=Tuning(options={"dsp": {"steps": [1.0]}})))
    with pytest.raises(ConfigErrors, match=r"methods.a.kind='Sm' is not one of"):
        Posteriors({"a": {"kind": "Sm"}})
