"""What holds when workers or the driver die, or a signal comes."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import textwrap
import time
from functools import partial
from pathlib import Path

import psutil
import pytest
import runtime_recipe as recipe

from pdediff.errors import Interrupted
from pdediff.runtime import Failure, Runtime


@pytest.mark.fault
@pytest.mark.slow
def test_sigkill_of_a_worker_loses_nothing(tmp_path: Path) -> None:
    results: dict[int, int] = {}
    before = worker_processes()

    def kill_once(item: int, result: int) -> None:
        results[item] = result
        if len(results) == 3:
            (worker_processes() - before).pop().kill()

    runtime = Runtime(cluster="local", workers=2)
    failures = runtime.map(partial(recipe.logged, tmp_path), list(range(12)), label="x", on_result=kill_once)
    assert failures == []
    assert results == {i: i * i for i in range(12)}
    assert sum(recipe.executions(tmp_path).values()) <= 12 + 2
    assert worker_processes() == before


@pytest.mark.fault
@pytest.mark.slow
def test_only_the_poison_item_is_blamed(tmp_path: Path) -> None:
    runtime = Runtime(cluster="local", workers=2)
    results, failures = recipe.collect(runtime, partial(recipe.logged, tmp_path, deadly=(5,)), list(range(10)))
    assert failures == [Failure(5, "killed its worker twice")]
    assert results == {i: i * i for i in range(10) if i != 5}
    counts = recipe.executions(tmp_path)
    assert counts[5] == 2
    assert all(counts[i] <= 2 for i in results)
    assert sum(counts.values()) <= 10 + 2


@pytest.mark.fault
@pytest.mark.slow
def test_an_item_that_dies_once_is_computed(tmp_path: Path) -> None:
    runtime = Runtime(cluster="local", workers=1)
    results, failures = recipe.collect(
        runtime, partial(recipe.logged, tmp_path, deadly=(2,), once=True), list(range(4))
    )
    assert (results, failures) == ({i: i * i for i in range(4)}, [])


DRIVER = """
import os, sys, time
from pathlib import Path
from pdediff.errors import PdediffError
from pdediff.runtime import Runtime

def work(item):
    Path(sys.argv[1], f"{item}-{os.getpid()}").touch()
    time.sleep(60 if item > 1 else 0)
    return item

def fine(folder, item):
    (folder / f"{item}-{os.getpid()}").touch()
    time.sleep(60 if item > 1 else 0)
    return item

if __name__ == "__main__":
    from functools import partial
    try:
        Runtime(cluster=sys.argv[2], workers=2).map(
            partial(fine, Path(sys.argv[1])), range(4), label="x", on_result=lambda item, result: None
        )
    except PdediffError as error:
        print(error.lines()[0], error.context["signal"])
        sys.exit(error.exit_code)
"""


def start_driver(tmp_path: Path, cluster: str) -> tuple[subprocess.Popen, Path, Path]:
    """Run DRIVER until its long items have begun."""
    script, traces, out = tmp_path / "driver.py", tmp_path / "traces", tmp_path / "out.txt"
    script.write_text(textwrap.dedent(DRIVER))
    traces.mkdir()
    root = Path(__file__).parents[2]
    with out.open("w") as stream:
        driver = subprocess.Popen(
            [sys.executable, str(script), str(traces), cluster],
            stdout=stream,
            stderr=subprocess.STDOUT,
            env={**os.environ, "PYTHONPATH": str(root)},
        )
    wait_for(lambda: any(t.name.startswith("2-") for t in traces.iterdir()), 60, out)
    return driver, traces, out


def wait_for(condition: object, seconds: float, out: Path | None = None) -> None:
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, out.read_text() if out else "timed out"
        time.sleep(0.1)


def worker_processes() -> set[psutil.Process]:
    return {c for c in psutil.Process().children(recursive=True) if "spawn_main" in " ".join(c.cmdline())}


@pytest.mark.fault
@pytest.mark.slow
def test_sigkill_of_the_driver_leaves_no_process(tmp_path: Path) -> None:
    driver, _, _ = start_driver(tmp_path, "local")
    family = psutil.Process(driver.pid).children(recursive=True)
    assert len(family) >= 2
    driver.kill()
    driver.wait()
    _, alive = psutil.wait_procs(family, timeout=20)
    assert alive == []


@pytest.mark.fault
@pytest.mark.slow
@pytest.mark.parametrize(("cluster", "number"), [("local", signal.SIGTERM), ("inline", signal.SIGINT)])
def test_a_signal_stops_quickly(tmp_path: Path, cluster: str, number: signal.Signals) -> None:
    driver, traces, out = start_driver(tmp_path, cluster)
    family = psutil.Process(driver.pid).children(recursive=True)
    begin = time.monotonic()
    driver.send_signal(number)
    assert driver.wait(timeout=30) == Interrupted.exit_code
    assert time.monotonic() - begin < 10
    assert out.read_text().splitlines()[-1] == f"error[interrupted]: stopped by {number.name} {int(number)}"
    assert psutil.wait_procs(family, timeout=5)[1] == []
    assert not any(t.name.startswith("9-") for t in traces.iterdir())


def test_a_signal_waits_for_the_delivery_in_progress() -> None:
    kept: list[int] = []

    def receive(item: int, result: int) -> None:
        os.kill(os.getpid(), signal.SIGINT)
        time.sleep(0.05)
        kept.append(item)

    before = signal.getsignal(signal.SIGINT)
    with pytest.raises(Interrupted):
        Runtime(cluster="inline").map(recipe.refuse, [0, 1], label="x", on_result=receive)
    assert kept == [0]
    assert signal.getsignal(signal.SIGINT) is before
