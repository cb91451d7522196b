"""The map of the runtime: same bits for any worker count, and what holds when processes die."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import textwrap
import time
from collections import Counter
from collections.abc import Iterator
from functools import partial
from pathlib import Path

import cloudpickle
import psutil
import pytest
import torch

from pdediff.cluster import nanny_cluster, open_session
from pdediff.errors import ConfigError, DataError, Interrupted, PdediffError, ResourceError
from pdediff.runtime import Failure, Runtime, Slurm, resolve_device, set_environment
from pdediff.types import Purpose, derive, normal

# The workers cannot import test modules in every import mode of pytest.
cloudpickle.register_pickle_by_value(sys.modules[__name__])


def transform(item: int) -> tuple[int, bytes]:
    """Something whose bits would change with threads or order: a matrix product of keyed noise."""
    x = normal((derive(3, Purpose.PROBLEM, item),), (96, 96))[0]
    return torch.get_num_threads(), (torch.linalg.matrix_exp(x / 10) @ x).numpy().tobytes()


def logged(folder: Path, item: int, deadly: tuple[int, ...] = (), once: bool = False) -> int:
    """Leave a trace of each execution; die if told so (always, or the first time only)."""
    traces = len(list(folder.glob(f"{item}-*")))
    (folder / f"{item}-{os.getpid()}-{time.time_ns()}").touch()
    if item in deadly and not (once and traces):
        os.kill(os.getpid(), signal.SIGKILL)
    time.sleep(0.1)
    return item * item


def refuse(item: int) -> int:
    """An error of ours, of Python, or a result."""
    if item == 3:
        raise DataError("item 3 is bad", hint="look at it", context={"item": item})
    if item == 4:
        raise ZeroDivisionError("item 4")
    return item


def environment(item: str) -> str | None:
    """What a worker sees."""
    return os.environ.get(item)


def collect(runtime: Runtime, function: object, items: list) -> tuple[dict, list]:
    results: dict = {}

    def keep(item: object, result: object) -> None:
        assert item not in results
        results[item] = result

    return results, runtime.map(function, items, label="test", on_result=keep)


def executions(folder: Path) -> Counter:
    return Counter(int(trace.name.split("-")[0]) for trace in folder.iterdir())


@pytest.fixture(scope="module")
def two() -> Iterator[Runtime]:
    with Runtime(cluster="local", workers=2).open() as runtime:
        yield runtime


def test_inline_local_one_and_two_give_the_same_bits(two: Runtime) -> None:
    items = list(range(7))
    before = torch.get_num_threads()
    inline, failures = collect(Runtime(cluster="inline"), transform, items)
    assert torch.get_num_threads() == before
    assert failures == []
    assert {threads for threads, _ in inline.values()} == {1}
    assert collect(two, transform, items)[0] == inline
    assert collect(Runtime(cluster="local", workers=1), transform, items[::-1])[0] == inline


def test_inline_restores_threads_after_an_error() -> None:
    torch.set_num_threads(2)
    try:
        with pytest.raises(ZeroDivisionError):
            collect(Runtime(cluster="inline"), refuse, [1, 4])
        assert torch.get_num_threads() == 2
    finally:
        torch.set_num_threads(1)


def test_workers_have_one_thread_whatever_the_driver_has(two: Runtime) -> None:
    seen, _ = collect(two, environment, ["OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS"])
    assert set(seen.values()) == {"1"}


@pytest.mark.parametrize("where", ["inline", "local"])
def test_an_error_stops_the_map_and_arrives_whole(where: str, two: Runtime) -> None:
    runtime = Runtime(cluster="inline") if where == "inline" else two
    delivered: list[int] = []
    with pytest.raises(DataError) as caught:
        runtime.map(refuse, [0, 1, 3, *range(10, 40)], label="x", on_result=lambda item, _: delivered.append(item))
    assert (caught.value.hint, caught.value.context) == ("look at it", {"item": 3})
    assert {0, 1} <= set(delivered)
    assert len(delivered) <= 4  # two before it, and at most what was in flight
    with pytest.raises(ZeroDivisionError, match="item 4"):
        collect(runtime, refuse, [4])


def test_an_error_of_the_receiver_is_raised(two: Runtime) -> None:
    def full(item: int, result: int) -> None:
        raise ResourceError("disk full")

    with pytest.raises(ResourceError, match="disk full"):
        two.map(refuse, [1, 2], label="x", on_result=full)
    assert collect(two, refuse, [1, 2])[0] == {1: 1, 2: 2}


def test_no_items_need_no_cluster() -> None:
    assert collect(Runtime(cluster="address", address="tcp://127.0.0.1:9"), refuse, []) == ({}, [])


def test_progress_counts_units_and_rejected() -> None:
    seen: list[tuple[int, int]] = []

    class Recorder:
        def bar(self, label: str, total: int) -> Recorder:
            seen.append((total, -1))
            return self

        def __enter__(self) -> Recorder:
            return self

        def __exit__(self, *exception: object) -> None: ...

        def advance(self, n: int = 1, rejected: int = 0, note: str = "") -> None:
            seen.append((n, rejected))

    Runtime(cluster="inline", progress=Recorder()).map(
        refuse, [1, 2], label="x", on_result=lambda item, result: None, size=lambda i: 10 * i, rejected=lambda r: r
    )
    assert seen == [(30, -1), (10, 1), (20, 2)]


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
    failures = runtime.map(partial(logged, tmp_path), list(range(12)), label="x", on_result=kill_once)
    assert failures == []
    assert results == {i: i * i for i in range(12)}
    assert sum(executions(tmp_path).values()) <= 12 + 2
    assert worker_processes() == before


@pytest.mark.fault
@pytest.mark.slow
def test_only_the_poison_item_is_blamed(tmp_path: Path) -> None:
    runtime = Runtime(cluster="local", workers=2)
    results, failures = collect(runtime, partial(logged, tmp_path, deadly=(5,)), list(range(10)))
    assert failures == [Failure(5, "killed its worker twice")]
    assert results == {i: i * i for i in range(10) if i != 5}
    counts = executions(tmp_path)
    assert counts[5] == 2
    assert all(counts[i] <= 2 for i in results)
    assert sum(counts.values()) <= 10 + 2


@pytest.mark.fault
@pytest.mark.slow
def test_an_item_that_dies_once_is_computed(tmp_path: Path) -> None:
    runtime = Runtime(cluster="local", workers=1)
    results, failures = collect(runtime, partial(logged, tmp_path, deadly=(2,), once=True), list(range(4)))
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
    root = Path(__file__).parents[1]
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


QUIET = """
import logging, multiprocessing, sys
from pdediff.runtime import Runtime

LOCKS = []

def hold(item):
    LOCKS.append(multiprocessing.RLock())  # as progress bars of third parties do
    return item

if __name__ == "__main__":
    logging.basicConfig(level=logging.INFO)
    Runtime(cluster="local", workers=1).map(hold, [1], label="x", on_result=lambda item, result: None)
"""


@pytest.mark.slow
def test_a_good_run_says_nothing(tmp_path: Path) -> None:
    (tmp_path / "quiet.py").write_text(QUIET)
    done = subprocess.run(
        [sys.executable, str(tmp_path / "quiet.py")],
        capture_output=True,
        text=True,
        env={**os.environ, "PYTHONPATH": str(Path(__file__).parents[1])},
        timeout=120,
        check=True,
    )
    assert (done.stdout, done.stderr) == ("", "")


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
        Runtime(cluster="inline").map(refuse, [0, 1], label="x", on_result=receive)
    assert kept == [0]
    assert signal.getsignal(signal.SIGINT) is before


@pytest.mark.skipif(torch.cuda.is_available(), reason="needs a machine without a GPU")
@pytest.mark.parametrize("options", [{"device": "cuda"}, {"cluster": "inline", "device": "cuda"}, {"cluster": "gpu"}])
def test_a_gpu_that_is_not_there_is_refused(options: dict) -> None:
    with pytest.raises(ConfigError, match="device=cuda") as caught:
        Runtime(**options)
    assert caught.value.exit_code == 2
    assert Runtime().torch_device == resolve_device("auto") == "cpu"


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"workers": 0}, "at least 1"),
        ({"threads": 0}, "at least 1"),
        ({"cluster": "address"}, "belongs to cluster=address"),
        ({"address": "tcp://127.0.0.1:8786"}, "belongs to cluster=address"),
        ({"cluster": "gpu", "device": "cpu"}, "contradicts"),
    ],
)
def test_contradictions_are_refused(options: dict, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        Runtime(**options)


def test_slurm_names_its_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(ConfigError) as caught:
        Runtime(cluster="slurm")
    assert "pdediff[slurm]" in str(caught.value.hint)


def test_slurm_script_asks_for_what_the_runtime_says() -> None:
    pytest.importorskip("dask_jobqueue")
    from pdediff.cluster import slurm_cluster

    runtime = Runtime(cluster="slurm", threads=4, slurm=Slurm(partition="gpu", gpus=1, prologue=("module load x",)))
    with slurm_cluster(runtime) as cluster:
        script = cluster.job_script()
    for line in ("#SBATCH -p gpu", "--cpus-per-task=4", "--gres=gpu:1", "export OMP_NUM_THREADS=4", "module load x"):
        assert line in script
    assert "--nthreads 1" in script


def test_gpu_workers_see_one_gpu_each() -> None:
    from distributed import Client

    with nanny_cluster(["4", "7"], "auto") as cluster, Client(cluster, set_as_default=False) as client:
        seen = client.run(environment, "CUDA_VISIBLE_DEVICES")
    assert sorted(seen.values()) == ["4", "7"]


def test_an_existing_scheduler_is_used_and_left_alone(two: Runtime) -> None:
    address = two._sessions[0].client.scheduler.address
    there = Runtime(cluster="address", address=address)
    assert collect(there, refuse, [1, 2, 5]) == ({1: 1, 2: 2, 5: 5}, [])
    assert collect(two, refuse, [1]) == ({1: 1}, [])


def test_an_absent_scheduler_is_a_resource_error(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("pdediff.cluster.CONNECT_TIMEOUT", 1)
    with pytest.raises(ResourceError, match="did not start") as caught:
        collect(Runtime(cluster="address", address="tcp://127.0.0.1:9"), refuse, [1])
    assert "tcp://127.0.0.1:9" in str(caught.value.hint)


def test_a_cluster_without_workers_is_given_up(two: Runtime) -> None:
    class Empty:
        client, size, elastic, patience = two._sessions[0].client, 1, False, 0.3

        def workers(self) -> int:
            return 0

    from pdediff.spread import Spread

    spread = Spread(Empty(), time.sleep, lambda item, result: None, lambda: None)
    with Empty.client.as_current(), pytest.raises(ResourceError, match="no worker came back"):
        spread.run([3])


def test_environment_defaults_respect_the_user(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("DO_NOT_TRACK", "0")
    monkeypatch.delenv("PREFECT_HOME", raising=False)
    monkeypatch.delenv("WANDB_MODE", raising=False)
    set_environment(tmp_path)
    assert os.environ["DO_NOT_TRACK"] == "0"
    assert os.environ["WANDB_MODE"] == "disabled"
    assert os.environ["PREFECT_HOME"] == str(tmp_path / ".prefect")


def test_open_twice_is_one_cluster(two: Runtime) -> None:
    with two.open() as again:
        assert again._sessions == two._sessions
    assert len(two._sessions) == 1


def test_errors_of_the_start_keep_their_kind(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(runtime: Runtime, stack: object) -> None:
        raise OSError("no sockets")

    monkeypatch.setitem(__import__("pdediff.cluster").cluster._START, "local", fail)
    with pytest.raises(PdediffError, match="no sockets") as caught, open_session(Runtime()):
        pass
    assert caught.value.exit_code == 7
