"""Benchmarks: the contest, the references, the peers' problems, and a tiny suite from command line to record."""

from __future__ import annotations

import json
import math
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import scipy.linalg
import torch

from pdediff import cli
from pdediff.errors import ConfigError, ResourceError
from pdediff.flows import compose
from pdediff.pdes import Clock, KolmogorovFlow, KuramotoSivashinsky, finite_volume
from pdediff.runtime import Runtime
from pdediff.stages import repairs
from pdediff.stages.benchmarks import PDEs, base, darcy_solvers, integrators
from pdediff.stages.benchmarks.base import Goal, Measurement, Row, Section
from pdediff.stages.benchmarks.contest import Contestant, Entry, contest
from pdediff.stages.benchmarks.references import reference, relative_l2
from pdediff.stages.benchmarks.spectral_contest import GPURun, KolmogorovRun, KSRun, gpu
from pdediff.stages.benchmarks.table import plain

FLOWS = (
    "suite.ks={batches:[2,4],precisions:[float64],grid:32,length:22.0,frames:3,interval:0.1,step:0.1,warm_up:2}",
    "suite.kolmogorov={batches:[2],precisions:[float32],grid:16,viscosity:0.01,drag:0.1,frames:2,interval:0.02,step:0.02}",
    "suite.darcy={grids:[8,16],samples:2,tolerances:[1e-6],explicit_steps:8}",
)
DATA = "suite.training_set={samples:16,measured:0.5,grid:96,step:0.2,precision:float64,tile:4,workers:2,compared:16}"
TINY = ("compute=inline", "repeats=1", "seconds=0.001", *FLOWS, DATA)


def measured(root: Path, *words: str) -> dict[str, Any]:
    """The record of `pdediff benchmark pdes`, which must succeed."""
    assert cli.run(["benchmark", "pdes", *TINY, *words, "-q", "--data-root", str(root)]) == 0
    (made,) = (root / "reports").iterdir()
    return json.loads((made / "benchmark.json").read_text())


@pytest.mark.slow
def test_a_tiny_suite(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    record = measured(tmp_path, "peers=[]", "suite.goals={ks_floor:1e-9,darcy_ms:1e9,workers_contents:1}")
    shown = capsys.readouterr().out
    (made,) = (tmp_path / "reports").iterdir()
    assert made.name.startswith("benchmark-pdes-")
    assert shown == (made / "benchmark.txt").read_text() + f"\n{made}\n"
    rows = {row["what"]: row for section in record["sections"] for row in section["rows"]}
    assert {"float64 B=4", "16x16 ours 1e-06", "generate", "speed-up", "xarray"} <= set(rows)
    assert not any("exponax" in name or "SuperLU" in name for name in rows)
    goals = {row["goal"]["name"]: row["goal"]["met"] for row in rows.values() if row["goal"]}
    assert goals == {"ks_floor": False, "darcy_ms": True, "workers_contents": True}
    assert 0 < rows["float64 B=4"]["values"]["error"] < 1e-4
    assert rows["16x16 ours 1e-06"]["values"]["error"] < 1e-5
    assert rows["error of one frame"]["values"]["error"] < 1e-3
    assert {"processor", "cores"} <= set(record["hardware"])
    assert "jax" not in sys.modules


def test_a_benchmark_measures_each_time(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    turns = iter(range(2))

    def measure(suite: PDEs, measurement: Measurement) -> Iterator[Section]:
        (measurement.scratch / "left.npy").write_text("")
        yield Section("turn", "", (Row("turn", {"turn": next(turns)}),))

    monkeypatch.setattr(PDEs, "measure", measure)
    before, after = measured(tmp_path, "peers=[]"), measured(tmp_path, "peers=[]")
    assert [record["sections"][0]["rows"][0]["values"] for record in (before, after)] == [{"turn": 0}, {"turn": 1}]
    (made,) = (tmp_path / "reports").iterdir()
    assert [path.name for path in tmp_path.iterdir()] == ["reports"]
    assert repairs.verify(made) == []
    (made / "benchmark.txt").write_text("faster")
    assert [damage.kind for damage in repairs.verify(made)] == ["content"]
    assert "run benchmark again" in repairs.remedy(made)


@pytest.mark.slow
def test_exponax_solves_the_same_problem(tmp_path: Path) -> None:
    record = measured(
        tmp_path, "peers=[exponax]", "suite.parts=[ks,kolmogorov]", "suite.kolmogorov.precisions=[float64]"
    )
    assert record["versions"]["exponax"].startswith("0.2")
    rows = {row["what"]: row["values"] for section in record["sections"] for row in section["rows"]}
    for name in ("float64 B=4", "float64 B=2"):
        assert rows[name]["error"] == pytest.approx(rows[name]["exponax error"], rel=1e-4)
    assert rows["float64 against exponax"]["ratio"] > 0
    assert "jax" not in sys.modules


def test_turns_are_interleaved_and_the_best_run_counts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PYTHONPATH", str(Path(__file__).parent))
    log = tmp_path / "log"
    with Contestant("ours", "made_up_peer") as ours, Contestant("slow", "made_up_peer") as slow:
        entries = [
            Entry(ours, "a", {"seconds": 0.01, "log": str(log), "name": "ours"}),
            Entry(slow, "a", {"seconds": 0.04, "log": str(log), "name": "slow"}),
        ]
        fast, late = contest(entries, repeats=3, seconds=1e-6)
        ours.prepare("b", entries[0].settings, tmp_path / "saved.npy")
    assert log.read_text().split() == ["ours", "slow"] * 4 + ["ours"]
    assert 0.01 <= fast.cpu < 0.03 < 0.04 <= late.cpu
    assert fast.cpu <= fast.first
    assert (fast.runs, late.runs) == (3, 3)
    assert np.load(tmp_path / "saved.npy").tolist() == [1.0, 0.01]


@pytest.mark.parametrize(
    ("settings", "said"), [({"fail": 1}, "ValueError: no such flow"), ({"die": 1}, "slow failed: last words")]
)
def test_a_peer_that_fails_is_named_in_one_line(
    settings: dict[str, int], said: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PYTHONPATH", str(Path(__file__).parent))
    with Contestant("slow", "made_up_peer") as slow, pytest.raises(ResourceError, match=said) as caught:
        slow.prepare("a", settings)
    assert len(caught.value.lines()) == 2


def test_a_peer_that_is_not_installed_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(base, "find_spec", lambda name: None)
    assert cli.run(["benchmark", "pdes", "--data-root", str(tmp_path)]) == 2
    line, hint = capsys.readouterr().err.splitlines()
    assert line == "error[config]: peers: exponax needs the package exponax, which is not installed"
    assert hint == '  hint: pip install "pdediff[dev]", or measure without it: peers=[scipy,pdebench]'
    assert list(tmp_path.iterdir()) == []
    assert cli.run(["benchmark", "pdes", "peers=[]", "suite.parts=[ks]", "--dry-run", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["parts"] == "ks"


@pytest.mark.parametrize("name", ["ks", "kolmogorov"])
def test_our_integrator_meets_the_reference_at_fourth_order(name: str) -> None:
    """The two share neither stepper nor form of the transport: both are of the same equation, in the same signs."""
    found = []
    for step in (0.05, 0.025):
        clock = Clock(frames=2, interval=0.1, step=step)
        if name == "ks":
            pde = KuramotoSivashinsky(length=22.0, spread=0.0, clock=clock)
            problem, field, length = pde.draw([1, 2], 32), "u", 22.0
        else:
            flow = KolmogorovFlow(viscosity=0.01, clock=Clock(2, 0.1, step * 16 / 64))
            pde, length = flow, 2.0 * math.pi  # type: ignore[assignment]
            problem, field = flow.draw([1, 2], 16), "vorticity"
        frames = pde.solve(problem)[field].numpy()
        settings = {"equation": name, "viscosity": 0.01, "drag": 0.1, "forcing": 4}
        span = problem.scalars["frame_interval"].numpy() if name == "ks" else 0.1
        found.append(relative_l2(frames[:, 1], reference(settings, frames[:, 0], length, span)).max())
    assert found[0] < 1e-3
    assert math.log2(found[0] / found[1]) == pytest.approx(4.0, abs=0.5)


def test_the_peers_of_darcy_solve_our_equation(tmp_path: Path) -> None:
    a = np.exp(np.random.default_rng(0).normal(size=(2, 8, 8)))
    file = tmp_path / "a.npy"
    np.save(file, a)
    common = {"permeability": str(file)}
    ours = darcy_solvers.prepare({**common, "what": "iterative", "tolerance": 1e-10})().numpy()
    for ordering in ("COLAMD", "MMD_AT_PLUS_A"):
        direct = darcy_solvers.prepare({**common, "what": "direct", "ordering": ordering})()
        np.testing.assert_allclose(direct, ours, rtol=1e-8)
    u = torch.from_numpy(ours)
    product = darcy_solvers.matrix(a[1]) @ ours[1].ravel()
    np.testing.assert_allclose(product, finite_volume.apply(torch.from_numpy(a), u)[1].numpy().ravel(), rtol=1e-9)
    # the explicit loop runs to t = 2 with a scaled to at most 1: what it lacks is the transient
    (late,) = darcy_solvers.prepare({**common, "what": "explicit", "steps": 16 * 64})()
    for field, solution, state in zip(a, ours, late.numpy(), strict=True):
        left = scipy.linalg.expm(-2.0 * darcy_solvers.matrix(field / field.max()).toarray()) @ solution.ravel()
        transient = np.linalg.norm(left) / np.linalg.norm(solution)
        lacking = np.linalg.norm(state / field.max() - solution) / np.linalg.norm(solution)
        assert transient > 1e-3, "these fields are slow: they show the end time"
        assert lacking == pytest.approx(transient, rel=0.02)
        assert darcy_solvers.transient(field) == pytest.approx(transient, rel=0.02)


def test_the_gpu_part_counts_bytes(tmp_path: Path) -> None:
    runs = (
        KSRun((2,), ("float32",), 32, 22.0, 3, 0.1, 0.1, 0),
        KolmogorovRun((2,), ("float32",), 16, 0.01, 0.1, 2, 0.1, 0.1),
    )
    with Measurement((), 1, 1e-3, False, tmp_path, Runtime(cluster="inline")) as measurement:
        section = gpu(runs, GPURun((4,), (2,), 1000), measurement, device="cpu")
    values = {row.what: row.values for row in section.rows}
    ks = values["ks float32 B=4"]
    # each of two steps is 32 spectra of 10 complex numbers and 16 fields of 32 numbers, float32
    assert integrators.bytes_of_a_step(runs[0].problem() | {"precision": "float32"}) == 4 * (32 * 2 * 10 + 16 * 32)
    assert ks["GB/s"] == pytest.approx(1e-9 * float(ks["1/s"]) * 2 * 4 * (640 + 512))  # type: ignore[arg-type]
    assert ks["share"] == pytest.approx(float(ks["GB/s"]) / float(values["copy"]["GB/s"]))  # type: ignore[arg-type]
    assert "kolmogorov float32 B=2" in values


def test_goals_and_the_table() -> None:
    assert Goal("a", 1.2, 1.2).met
    assert not Goal("a", math.nan, 1.2).met
    assert Goal("a", 3.0, 12.0, "at most").words() == "met: 3, at most 12"
    rows = (Row("one", {"us": 1.2345, "words": "yes"}), Row("two", {"ratio": 12345.6}, Goal("a", 1.0, 1.2)))
    lines = plain({"hardware": "this"}, [Section("title", "note", rows)]).splitlines()
    assert lines == [
        "hardware: this",
        "",
        "title: note",
        "       us  words  ratio                     goal",
        "one  1.23    yes      -",
        "two     -      -  12346  missed: 1, at least 1.2",
    ]


def test_the_config_file_writes_out_every_setting() -> None:
    from pdediff.config import to_dict

    node = compose.node("suite", "pdes")
    plain_node = to_dict(PDEs())
    assert node == plain_node
    with pytest.raises(ConfigError, match="goals has no option 'ks_float'"):
        PDEs(goals={"ks_float": 1.0})
