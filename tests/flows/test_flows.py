"""The flows as a program launches them: results, retries, artifacts, and a server that ends with its process."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import psutil
import pytest

REPOSITORY = Path(__file__).parents[2]


def clean_environment() -> dict[str, str]:
    """The user's environment without a Prefect setting."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith("PREFECT_")}
    return kept | {"PYTHONPATH": str(REPOSITORY)}


@pytest.fixture(scope="module")
def answers(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    root = tmp_path_factory.mktemp("flows")
    out = root / "out.txt"
    script = REPOSITORY / "tests" / "flows" / "run_flows.py"
    with out.open("w") as stream:  # a file, not a pipe: an orphan holding a pipe would block the suite
        done = subprocess.run(
            [sys.executable, str(script), str(root / "data"), str(root / "answers.json")],
            stdout=stream,
            stderr=subprocess.STDOUT,
            env=clean_environment(),
            timeout=240,
            check=False,
        )
    assert done.returncode == 0, out.read_text()
    return json.loads((root / "answers.json").read_text()) | {"root": root, "out": out.read_text()}


@pytest.mark.slow
def test_flows_call_their_stage_and_return_json(answers: dict[str, Any]) -> None:
    first = answers["generate"]
    assert (first["stage"], first["identity"]) == ("generate", "000000000001")
    assert Path(first["path"]) == answers["root"].resolve() / "data" / "sets" / "generate-000000000001"
    assert answers["calls"] == [
        ["generate", "64", "inline"],
        ["train", "generate-000000000001"],
        ["evaluate", "one-000000000001"],
        ["benchmark", "PDEs", "scipy"],
        ["tune", "train-000000000002", "7"],
        ["sample", "train-000000000002", "3", "tune-000000000005"],
    ]


@pytest.mark.slow
def test_the_pipeline_hands_each_result_to_the_next_stage(answers: dict[str, Any]) -> None:
    calls, result = answers["pipeline_calls"], answers["pipeline"]
    data, prior = (Path(result[stage]["path"]).name for stage in ("generate", "train"))
    posteriors = list(result["reconstruct"])
    assert {"calibrated", "dps", "red_diff", "smc"} <= set(posteriors)
    drawn = [Path(one["path"]).name for one in result["reconstruct"].values()]
    assert calls == [
        ["generate", "64", "inline"],
        ["train", data],
        ["sample", prior, "2"],
        *([name, prior, data, "3"] for name in posteriors),
        ["evaluate", *drawn],
    ]
    assert result["report"] == f"{result['evaluate']['path']}/report.html"


@pytest.mark.slow
def test_artifacts_are_shown(answers: dict[str, Any]) -> None:
    assert answers["artifacts"] == {
        "progress-generate": "progress",
        "provenance-generate": "table",
        "provenance-train": "table",
        "provenance-evaluate": "table",
        "provenance-benchmark": "table",
        "provenance-tune": "table",
        "provenance-sample": "table",
        "metrics": "table",
        "benchmark": "markdown",
        "report": "markdown",
    }
    assert "could not be written" not in answers["out"]


@pytest.mark.slow
def test_a_lack_of_resources_is_retried_once_and_wrong_data_never(answers: dict[str, Any]) -> None:
    assert answers["retried"] == "generate"
    assert answers["retried_calls"] == ["generate", "generate"]
    assert answers["refused"] == ["bad", "look", 1]


@pytest.mark.slow
def test_all_config_errors_come_at_once(answers: dict[str, Any]) -> None:
    kind, lines = answers["config"]
    assert kind == "ConfigErrors"
    assert any("samples=0" in line for line in lines)
    assert any("grid='x'" in line for line in lines)


@pytest.mark.slow
def test_prefect_keeps_its_files_in_the_data_root(answers: dict[str, Any]) -> None:
    home = answers["root"] / "data" / ".prefect"
    assert (home / "prefect.db").is_file()
    kept = [json.loads(json.loads(file.read_text())["result"]) for file in (home / "storage").glob("*.json")]
    assert answers["generate"] in kept
    assert answers["pipeline"]["evaluate"] in kept


SERVING = """
import sys, time
from pathlib import Path
from pdediff.environment import set_environment
set_environment(Path(sys.argv[1]))
from pdediff.flows.server import local_server
with local_server() as url:
    Path(sys.argv[1], "url").write_text(url)
    time.sleep(120)
"""


@pytest.mark.fault
@pytest.mark.slow
def test_the_private_server_dies_with_its_parent(tmp_path: Path) -> None:
    with (tmp_path / "out.txt").open("w") as stream:
        driver = subprocess.Popen(
            [sys.executable, "-c", SERVING, str(tmp_path)],
            stdout=stream,
            stderr=subprocess.STDOUT,
            env=clean_environment(),
        )
    end = time.monotonic() + 120
    while not (tmp_path / "url").exists():
        assert time.monotonic() < end, (tmp_path / "out.txt").read_text()
        time.sleep(0.2)
    family = psutil.Process(driver.pid).children(recursive=True)
    assert any("pdediff.flows.server" in " ".join(child.cmdline()) for child in family)
    driver.send_signal(signal.SIGKILL)
    driver.wait()
    assert psutil.wait_procs(family, timeout=20)[1] == []
