"""A scheduled run really happens: newer fastapi or SQLAlchemy make Prefect schedule nothing, without a word."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

import httpx
import psutil
import pytest
import yaml

REPOSITORY = Path(__file__).parents[2]

TINY = """
from pathlib import Path
from prefect import flow

@flow(name="pipeline")
def pipeline(overrides: list[str] | None = None, data_root: str = "data", config: str = "demo"):
    Path(data_root).mkdir(exist_ok=True)
    Path(data_root, "ran").write_text(f"{config} {overrides}")
    return {"report": "x"}
"""


def deployment() -> dict:
    return yaml.safe_load((REPOSITORY / "prefect.yaml").read_text())


def test_the_deployment_is_the_pipeline_without_overlap_or_local_paths() -> None:
    (one,) = deployment()["deployments"]
    file, _, name = one["entrypoint"].partition(":")
    assert f"def {name}(" in (REPOSITORY / file).read_text()
    assert one["concurrency_limit"] == {"limit": 1, "collision_strategy": "CANCEL_NEW"}
    assert one["schedules"][0]["interval"] > 0
    assert "pull" not in deployment()
    assert str(REPOSITORY) not in (REPOSITORY / "prefect.yaml").read_text()


def test_the_parameters_are_those_of_the_flow() -> None:
    import inspect

    from pdediff.flows.pipeline import pipeline

    (one,) = deployment()["deployments"]
    assert set(one["parameters"]) == set(inspect.signature(pipeline.fn).parameters)


@contextmanager
def running(arguments: list[str], folder: Path, environment: dict[str, str], log: str) -> Iterator[subprocess.Popen]:
    """A Prefect program in its own group, ended with everything it started."""
    with (folder / log).open("w") as stream:
        process = subprocess.Popen(
            [sys.executable, "-m", "prefect", *arguments],
            cwd=folder,
            env=environment,
            stdout=stream,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
    try:
        yield process
    finally:
        family = [psutil.Process(process.pid), *psutil.Process(process.pid).children(recursive=True)]
        process.send_signal(signal.SIGINT)
        _, alive = psutil.wait_procs(family, timeout=10)
        for one in alive:
            one.kill()
        process.wait()
        assert psutil.wait_procs(alive, timeout=5)[1] == []


def prefect(arguments: list[str], folder: Path, environment: dict[str, str]) -> None:
    with (folder / "command.log").open("a") as stream:
        done = subprocess.run(
            [sys.executable, "-m", "prefect", *arguments],
            cwd=folder,
            env=environment,
            stdout=stream,
            stderr=subprocess.STDOUT,
            timeout=120,
            check=False,
        )
    assert done.returncode == 0, (folder / "command.log").read_text()


def wait_until(condition: object, seconds: float, what: str, folder: Path) -> None:
    end = time.monotonic() + seconds
    while not condition():
        logs = "\n".join(f"--- {log.name}\n{log.read_text()[-3000:]}" for log in folder.glob("*.log"))
        assert time.monotonic() < end, f"{what}\n{logs}"
        time.sleep(0.5)


def healthy(url: str) -> bool:
    try:
        return httpx.get(f"{url}/health", timeout=5).status_code == 200
    except httpx.TransportError:
        return False


def scheduled_and_completed(url: str) -> bool:
    query = {"flow_runs": {"state": {"type": {"any_": ["COMPLETED"]}}}}
    runs = httpx.post(f"{url}/flow_runs/filter", json=query, timeout=20).json()
    return any(run["auto_scheduled"] for run in runs)


@pytest.mark.slow
def test_one_scheduled_run_completes(tmp_path: Path) -> None:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    from pdediff.environment import DEFAULTS

    url = f"http://127.0.0.1:{port}/api"
    kept = {name: value for name, value in os.environ.items() if not name.startswith("PREFECT_")}
    environment = kept | DEFAULTS | {"PREFECT_HOME": str(tmp_path / "home"), "PREFECT_API_URL": url}
    settings = deployment()
    (one,) = settings["deployments"]
    one["schedules"] = [{"interval": 10}]
    (tmp_path / "prefect.yaml").write_text(yaml.safe_dump(settings))
    (tmp_path / "flows").mkdir()
    (tmp_path / "flows" / "pipeline.py").write_text(TINY)
    with ExitStack() as stack:
        serve = ["server", "start", "--host", "127.0.0.1", "--port", str(port)]
        stack.enter_context(running(serve, tmp_path, environment, "server.log"))
        wait_until(lambda: healthy(url), 120, "the server did not start", tmp_path)
        prefect(["work-pool", "create", one["work_pool"]["name"], "--type", "process"], tmp_path, environment)
        prefect(["--no-prompt", "deploy", "--all"], tmp_path, environment)
        work = ["worker", "start", "--pool", one["work_pool"]["name"]]
        stack.enter_context(running(work, tmp_path, environment, "worker.log"))
        wait_until(lambda: scheduled_and_completed(url), 150, "no scheduled run completed", tmp_path)
    assert (tmp_path / "data" / "ran").read_text() == "demo []"
