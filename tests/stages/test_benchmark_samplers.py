"""Suite `samplers`: its priors and errors against exact ones, its peers, and a tiny run from command line to record."""

from __future__ import annotations

import json
import math
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from pdediff import cli
from pdediff.diffusion import GaussianMixturePrior
from pdediff.errors import ConfigError, ConfigErrors
from pdediff.flows import compose
from pdediff.samplers import PC, run, uniform_lambda
from pdediff.stages.benchmarks import Samplers
from pdediff.stages.benchmarks.contest import Contestant
from pdediff.stages.benchmarks.peer_settings import azula_settings, diffusers_settings
from pdediff.stages.benchmarks.sampler_contest import FlowRun, Result, Truth, slope
from pdediff.stages.benchmarks.sampler_plans import ROWS, MixturePrior, Pilots
from pdediff.stages.benchmarks.sampler_priors import Mixture, PowerLaw, mixture, outcome

ROUGH = PowerLaw(0.5, 0.3, 0.89)
SMOOTH = PowerLaw(1.5, 0.009, 0.93)
FLOW = FlowRun(samples=64, evaluations=(5, 10), reference_steps=200)
TINY = (
    "compute=inline",
    "repeats=1",
    "seconds=0.001",
    "suite.parts=[rough,overhead]",
    "suite.flow.samples=64",
    "suite.flow.pilots=8",
    "suite.flow.evaluations=[5,10]",
    "suite.flow.reference_steps=200",
    "suite.flow.only=[DDIM,Heun,UniPC-2 bh2 uniform lambda,UniPC-2 bh1 karras,xEAB3,PRK,azula Euler]",
    "suite.overhead={shape:[2,1,8,8],steps:6,ours:[default],diffusers:[DDIM],azula:[azula Euler uniform lambda]}",
)

needs_peers = pytest.mark.skipif(
    find_spec("diffusers") is None or find_spec("azula") is None, reason="diffusers or azula is not installed"
)


def rows_of(root: Path, *words: str) -> tuple[dict[str, dict[str, Any]], dict[str, dict[str, Any]]]:
    """Rows by name of `pdediff benchmark samplers`, which must succeed: of errors, and of overhead."""
    assert cli.run(["benchmark", "samplers", *TINY, *words, "-q", "--data-root", str(root)]) == 0
    (made,) = (root / "reports").iterdir()
    record = json.loads((made / "benchmark.json").read_text())
    *errors, overhead = [{row["what"]: row for row in section["rows"]} for section in record["sections"]]
    return {name: row for rows in errors for name, row in rows.items()}, overhead


@pytest.mark.parametrize("law", [ROUGH, SMOOTH], ids=["rough", "smooth"])
@pytest.mark.parametrize("rho", [0.01, 1.0, 157.0])
def test_the_closed_form_is_that_of_the_package(law: PowerLaw, rho: float) -> None:
    of = mixture(law)
    same = GaussianMixturePrior(of.weights, of.means[:, None], torch.diag(of.variance).expand(4, -1, -1))
    y = of.draw(32, 0, rho)
    expected = same(y[:, None], torch.full((32,), rho, dtype=torch.float64))
    torch.testing.assert_close(of.denoise(y, rho), expected[:, 0], rtol=1e-9, atol=1e-10)
    torch.testing.assert_close(MixturePrior(of)(y[:, None], torch.tensor([rho] * 32)), expected, rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("law", [ROUGH, SMOOTH], ids=["rough", "smooth"])
def test_the_priors_are_those_described(law: PowerLaw) -> None:
    of = mixture(law)
    std = of.variance.sqrt()
    assert float(std[-1]) == pytest.approx(law.smallest)
    assert float(std[0] / std[31]) == pytest.approx(32**law.decay)
    assert float((of.variance + of.weights @ of.means**2).mean()) == pytest.approx(law.rms**2)
    x = of.draw(20000, 0, 0.0)
    assert float((x**2).mean().sqrt()) == pytest.approx(law.rms, rel=0.03)
    torch.testing.assert_close(x.mean(0), of.weights @ of.means, rtol=0, atol=0.1)
    spread = MixturePrior(of).error(math.inf).variance[0]
    torch.testing.assert_close(x.var(0), spread, rtol=0.08, atol=0)


def test_the_reference_is_the_flow_of_one_gaussian() -> None:
    """y(rho) = m + (y_T - m) sqrt((v + rho^2) / (v + rho_T^2)), and the state at zero beyond it."""
    one = torch.ones(1, dtype=torch.float64)
    variance = torch.tensor([4.0, 1.0, 1e-4], dtype=torch.float64)
    of = Mixture(one, torch.tensor([[1.0, -1.0, 0.5]], dtype=torch.float64), variance)
    y = of.draw(8, 0, 100.0)
    exact = of.means + (y - of.means) * ((variance + 0.01**2) / (variance + 100.0**2)).sqrt()
    errors = [float((of.flow(y, 100.0, 0.01, n) - exact).abs().max()) for n in (200, 400)]
    assert errors[1] < 1e-6
    assert math.log2(errors[0] / errors[1]) == pytest.approx(4.0, abs=0.3)


def test_the_truth_at_zero_and_its_floor(tmp_path: Path) -> None:
    truth = Truth(SMOOTH, FLOW, tmp_path / "start.npy")
    start = torch.from_numpy(np.load(tmp_path / "start.npy"))
    lower = truth.prior.flow(truth.lowest, FLOW.rho_min, 1e-7, 400)
    np.testing.assert_allclose(truth.zero, lower.numpy(), atol=1e-7)
    assert truth.floor == pytest.approx(1.7e-3, rel=0.2)  # the jump loses a third of modes of standard deviation 0.009
    # an outcome that is the truth has no error; one mode that is 1 % too wide is the worst
    found = outcome({"evaluations": [5, 10, 20]}, start)
    found["nfe"], found["end"] = [5, 10, 0], FLOW.rho_min
    found["state"][0] = truth.lowest
    wide = truth.lowest.numpy() * np.where(np.arange(64) == 3, 1.01, 1.0)
    found["state"][1] = wide
    result = truth.result(found)
    assert result.errors[0] < 1e-12
    assert result.errors[1] == pytest.approx(float(((wide - truth.lowest.numpy()) ** 2).mean() ** 0.5))
    assert result.spectral[1] == pytest.approx(0.01)
    assert (result.end, result.used, math.isnan(result.errors[2])) == ("min", (5, 10, 0), True)


def test_slopes_are_fitted_above_the_floor() -> None:
    used = (5, 10, 20, 40, 80)
    cubic = tuple(n**-3.0 for n in used)
    assert slope(Result("min", used, cubic, cubic), 0.0) == pytest.approx(-3.0)
    assert slope(Result("0", used, (*cubic[:3], 1e-5, 1e-5), cubic), 4e-5) == pytest.approx(-3.0)
    assert slope(Result("0", used, (0.1, *[math.nan] * 4), cubic), 0.0) is None


@pytest.mark.parametrize("row", ["default, pilot and own grid", "picked of 90", "tuned"])
def test_rules_and_tuners_beat_fixed_plans(row: str) -> None:
    of = mixture(SMOOTH)
    prior = MixturePrior(of)
    plan = ROWS[row](prior, Pilots(157.4, 0.01, 16), prior.s, 5)
    start = of.draw(64, 5, 157.4)
    truth = of.flow(start, 157.4, 0.01, 400)

    def error(of_plan: Any) -> float:
        out = run(of_plan, prior, start[:, None], range(64))[:, 0]
        return float(((out - truth) ** 2).mean().sqrt())

    assert plan.nfe == 5
    others = [PC(field, 3, prior.s).plan(uniform_lambda(157.4, 0.01, 5)) for field in ("eps", "x0", "v", "F")]
    assert error(plan) < min(map(error, others))


@needs_peers
def test_the_peers_converge_to_our_reference(tmp_path: Path) -> None:
    """A peer whose levels, frame or end were misread would not: DDIM is of order one, UniPC-3 and xEAB3 above two."""
    truth = Truth(ROUGH, FLOW, tmp_path / "start.npy")
    common = {"what": "flow", "law": vars(ROUGH), "start": str(tmp_path / "start.npy"), **vars(FLOW)}
    common |= {"evaluations": (20, 40, 80)}
    bars = {
        "DDIM": (-1.0, 0.03),
        "UniPC-2 bh2 uniform lambda -> min": (-2.9, 2e-4),
        "LMS": (-3.3, 2e-4),
        "azula xEAB3 uniform lambda": (-3.2, 1e-4),
        "azula vAB2 flow time": (-1.9, 5e-3),
    }
    peers = (Contestant(peer, f"pdediff.stages.benchmarks.peer_{peer}") for peer in ("diffusers", "azula"))
    with next(peers) as diffusers, next(peers) as azula:
        for name, (wanted, bar) in bars.items():
            runner = azula if name in azula_settings() else diffusers
            settings = {**common, **{**azula_settings(), **diffusers_settings()}[name]}
            runner.prepare(name, settings, tmp_path / "end.npy")
            result = truth.result(np.load(tmp_path / "end.npy"))
            assert result.used == (20, 40, 80), name
            assert result.errors[-1] < bar, (name, result)
            assert slope(result, 0.0) == pytest.approx(wanted, abs=0.4), (name, result)


@needs_peers
@pytest.mark.slow
def test_a_tiny_suite(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    rows, overhead = rows_of(tmp_path, "suite.goals={rough_tuned_20:1e-6,rough_diffusers_10:1.0,overhead_us:1e6}")
    # nothing is said of what was not run, NaN is told as NaN, and evaluations are those that were used
    assert rows["UniPC-2 bh1 karras"]["values"]["NFE 10"] == "NaN"
    assert rows["PNDM (PRK start)"]["values"]["NFE 10"] is None
    assert rows["Heun"]["values"]["used"] == "5/9"
    assert rows["azula Heun uniform lambda"]["values"]["used"] == "4/10"
    theirs = rows["azula Euler uniform lambda"]["values"]  # DDIM by another name, in another frame
    assert rows["ddim"]["values"]["NFE 10"] == pytest.approx(theirs["NFE 10"], rel=1e-9)
    tuned_error = rows["NFE 10 tuned"]["values"]["error"]
    assert tuned_error <= rows["default"]["values"]["NFE 10"]
    best = rows["NFE 10 best of diffusers"]
    assert best["values"]["ratio tuned"] == pytest.approx(best["values"]["error"] / tuned_error)
    assert best["values"]["error"] == rows[best["values"]["setting"]]["values"]["NFE 10"]
    measured = [*rows.values(), *overhead.values()]
    goals = {row["goal"]["name"]: row["goal"]["met"] for row in measured if row["goal"]}
    assert goals == {"rough_diffusers_10": True, "overhead_us": True}
    assert set(overhead) == {"default", "DDIM", "azula Euler uniform lambda"}
    assert overhead["default"]["values"]["ratio"] == 1.0
    assert "DDIM trailing -> min" in capsys.readouterr().out


def test_ours_alone(tmp_path: Path) -> None:
    errors, rows = rows_of(tmp_path, "peers=[]", "suite.parts=[overhead]")
    assert (errors, set(rows)) == ({}, {"default"})
    assert 0 < rows["default"]["values"]["us"] < 1e4


def test_the_config_file_writes_out_every_setting() -> None:
    from pdediff.config import to_dict

    node = compose.node("suite", "samplers")
    assert node == to_dict(Samplers(ours=node["ours"]))
    assert {name: compose.node("sampler", name) for name in node["ours"]} == node["ours"]
    known = {**diffusers_settings(), **azula_settings()}
    assert {*node["overhead"]["diffusers"], *node["overhead"]["azula"]} <= set(known)


def test_wrong_settings_are_named() -> None:
    ours = compose.node("suite", "samplers")["ours"]
    with pytest.raises(ConfigError, match="goals has no option 'rough_piked_20'"):
        Samplers(ours=ours, goals={"rough_piked_20": 1.0})
    with pytest.raises(ConfigErrors, match=r"ours.a.kind='Dim' is not one of"):
        Samplers(ours={**ours, "a": {"kind": "Dim"}})
    with pytest.raises(ConfigErrors, match=r"overhead.ours: 'default' is not in ours"):
        Samplers(ours={})
