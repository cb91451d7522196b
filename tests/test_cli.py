"""The command line: exit codes, two-line errors, nothing written when something is wrong, resume after a signal."""

from __future__ import annotations

import errno
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

from pdediff import cli, doctor, stages
from pdediff.errors import (
    DataError,
    IntegrityError,
    Interrupted,
    LockedError,
    MatchError,
    NumericalError,
    RejectedError,
    ResourceError,
)
from pdediff.flows import compose


@pytest.fixture
def stage(monkeypatch: pytest.MonkeyPatch) -> Any:
    """Replace the generate stage by a function of our own."""

    def replace(work: Any) -> None:
        monkeypatch.setitem(stages.__dict__, "generate", work)

    return replace


@pytest.mark.parametrize(
    ("error", "code", "line"),
    [
        (DataError("noise_std is -1", hint="positive"), 3, "error[data]: noise_std is -1"),
        (MatchError("channels differ"), 4, "error[match]: channels differ"),
        (IntegrityError("sample 12 of u is damaged"), 5, "error[integrity]: sample 12 of u is damaged"),
        (NumericalError("loss became NaN"), 6, "error[numeric]: loss became NaN"),
        (ResourceError("no worker is left"), 7, "error[resource]: no worker is left"),
        (RejectedError("9 of 100 samples were rejected"), 8, "error[rejected]: 9 of 100 samples were rejected"),
        (LockedError("data/x is being written"), 75, "error[locked]: data/x is being written"),
        (OSError(errno.ENOSPC, "No space left", "data/x"), 7, "error[resource]: disk full: data/x"),
        (PermissionError(errno.EACCES, "denied", "data"), 7, "error[resource]: no permission: data"),
        (MemoryError(), 7, "error[resource]: out of memory"),
        (ModuleNotFoundError("x", name="dask_jobqueue"), 2, "error[config]: dask_jobqueue is not installed"),
        (NumericalError("x" * 500), 6, "error[numeric]: xxx"),
        (NumericalError("one\ntwo"), 6, "error[numeric]: one two"),
    ],
)
def test_errors_of_stages_have_their_exit_codes(
    error: Exception, code: int, line: str, stage: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    def fail(*arguments: object) -> None:
        raise error

    stage(fail)
    argv = ["generate", "--data-root", str(tmp_path)]
    assert cli.run(argv) == code
    shown = capsys.readouterr().err.splitlines()
    assert shown[0].startswith(line)
    assert len(shown) <= 2
    assert max(map(len, shown)) <= 160
    assert cli.run([*argv, "--debug"]) == code
    assert "Traceback" in capsys.readouterr().err


def test_a_bug_leaves_its_traceback_in_a_file(
    stage: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def fail(*arguments: object) -> None:
        raise KeyError("oops")

    stage(fail)
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    assert cli.run(["generate", "seed=3"]) == 1
    first, hint = capsys.readouterr().err.splitlines()
    assert first == "error[bug]: KeyError: 'oops'"
    (file,) = tmp_path.iterdir()
    assert str(file) in hint
    assert "KeyError: 'oops'" in file.read_text()
    assert file.read_text().startswith("pdediff generate seed=3")


def test_an_interrupted_command_says_how_to_resume(stage: Any, capsys: pytest.CaptureFixture[str]) -> None:
    def stop(*arguments: object) -> None:
        raise Interrupted("stopped by SIGTERM", context={"signal": 15})

    stage(stop)
    assert cli.run(["generate", "pde.low=2", "name=a"]) == 143
    line = "error[interrupted]: stopped by SIGTERM; resume with: pdediff generate pde.low=2 name=a"
    assert capsys.readouterr().err.splitlines() == [line]


SLEEPER = """
import sys, time
from pdediff import cli, stages
def sleep(*arguments):
    print("running", flush=True)
    time.sleep(60)
stages.generate = sleep
cli.main(["generate", "seed=5"])
"""


@pytest.mark.fault
@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_a_signal_stops_a_command(number: int, code: int, tmp_path: Path) -> None:
    with (tmp_path / "err").open("w") as err:
        process = subprocess.Popen(
            [sys.executable, "-c", SLEEPER], stdout=subprocess.PIPE, stderr=err, text=True, cwd=tmp_path
        )
        assert process.stdout is not None
        assert process.stdout.readline() == "running\n"
        begun = time.monotonic()
        process.send_signal(number)
        assert process.wait(timeout=20) == code
        process.stdout.close()
    assert time.monotonic() - begun < 10
    name = signal.Signals(number).name
    line = f"error[interrupted]: stopped by {name}; resume with: pdediff generate seed=5"
    assert (tmp_path / "err").read_text().splitlines() == [line]


def test_a_stage_gets_what_was_asked_for_and_tells_its_path(
    stage: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    seen = {}

    def generate(config: Any, root: Path, runtime: Any) -> Path:
        seen.update(config=config, root=root, runtime=runtime)
        return root / "sets" / "x"

    stage(generate)
    argv = ["generate", "pde=ks1d", "samples=64", "compute=inline", "--workers", "3", "--data-root", str(tmp_path)]
    assert cli.run(argv) == 0
    assert capsys.readouterr().out == f"{tmp_path}/sets/x\n"
    assert seen["config"].pde["kind"] == "KuramotoSivashinsky"
    assert (seen["config"].samples, seen["root"]) == (64, tmp_path)
    assert (seen["runtime"].cluster, seen["runtime"].workers) == ("inline", 3)
    assert cli.run([*argv, "--json"]) == 0
    assert json.loads(capsys.readouterr().out) == {"event": "result", "path": f"{tmp_path}/sets/x"}


def test_inputs_are_found_by_name(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    for folder in ("runs/wet-0123456789ab", "sets/wet-0123456789ab", "sets/dry-0123456789ab", "sets/dry-ba9876543210"):
        (tmp_path / folder).mkdir(parents=True)
    seen: list[Any] = []

    def reconstruct(config: Any, prior: Path, data: Path | None, root: Path, runtime: Any) -> Path:
        seen.append((config.observations, prior, data))
        return root

    monkeypatch.setitem(stages.__dict__, "reconstruct", reconstruct)
    argv = ["reconstruct", "--data-root", str(tmp_path)]
    assert cli.run([*argv, "prior=wet", "observations=my (1) file's.csv"]) == 0
    assert cli.run([*argv, "prior=wet", f"data={tmp_path}/sets/dry-ba9876543210"]) == 0
    prior = tmp_path / "runs/wet-0123456789ab"
    assert seen[0] == ("my (1) file's.csv", prior, None)
    assert seen[1][1:] == (prior, tmp_path / "sets/dry-ba9876543210")
    capsys.readouterr()
    assert cli.run([*argv, "prior=wat", "data=dry"]) == 2
    lines = capsys.readouterr().err.splitlines()
    assert lines[1] == "  hint: did you mean 'wet'?"
    assert lines[2] == "error[config]: data='dry' could be dry-0123456789ab, dry-ba9876543210"


def test_the_report_is_the_last_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    made = tmp_path / "reports/all-0123456789ab"
    made.mkdir(parents=True)
    (made / "report.html").write_text("<html>")
    (made / "scores.txt").write_text("method  CRPS")
    (tmp_path / "recon/dps-0123456789ab").mkdir(parents=True)
    monkeypatch.setitem(stages.__dict__, "evaluate", lambda config, results, root, runtime: made)
    for command in ("evaluate", "report"):
        assert cli.run([command, "dps", "--data-root", str(tmp_path)]) == 0
        assert capsys.readouterr().out.splitlines() == ["method  CRPS", f"{made}/report.html"]


THREADS = """
import os, sys
from pdediff import cli
assert "numpy" not in sys.modules
cli.run(["--version"])
print(*(os.environ[f"{name}_NUM_THREADS"] for name in ("OMP", "MKL", "OPENBLAS")))
"""


def test_numeric_libraries_get_one_thread_before_they_are_loaded() -> None:
    kept = {name: value for name, value in os.environ.items() if not name.endswith("_NUM_THREADS")}
    command = [sys.executable, "-c", THREADS]
    done = subprocess.run(
        command, capture_output=True, text=True, env=kept | {"MKL_NUM_THREADS": "3"}, check=True, timeout=60
    )
    assert done.stdout.splitlines()[-1] == "1 3 1"


def test_a_dry_run_tells_and_writes_nothing(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    words = ["samples=100", "grid=16", "shard=32", "--dry-run", "--json", "--data-root", str(tmp_path / "x")]
    assert cli.run(["generate", *words]) == 0
    told = json.loads(capsys.readouterr().out)
    assert (told["samples"], told["shards"]) == (100, 4)
    assert told["megabytes"] == round(2 * 16 * 16 * 4 * 100 / 1e6, 1)  # permeability and pressure, float32
    assert not any(tmp_path.iterdir())


def test_list_show_and_config(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.run(["list"]) == 0
    assert {line.split()[0] for line in capsys.readouterr().out.splitlines()} == set(compose.groups())
    assert cli.run(["list", "pde"]) == 0
    assert "darcy: {" in capsys.readouterr().out
    assert cli.run(["config", "generate", "samples=7", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["samples"] == 7
    assert cli.run(["config", "generate", "--schema"]) == 0
    assert "samples" in json.loads(capsys.readouterr().out)["properties"]
    made = tmp_path / "sets/a-0123456789ab"
    made.mkdir(parents=True)
    (made / "config.json").write_text('{"seed": 3}')
    assert cli.run(["show", "a", "--data-root", str(tmp_path), "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["config"] == {"seed": 3}
    (made / "config.json").write_text("{")
    assert cli.run(["show", "a", "--data-root", str(tmp_path)]) == 5
    capsys.readouterr()
    assert cli.run(["ls", "--data-root", str(tmp_path)]) == 0
    assert "a-0123456789ab" in capsys.readouterr().out


def test_doctor_names_what_fails(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def broken(root: Path) -> str:
        raise ResourceError("no disk")

    monkeypatch.setattr(doctor, "CHECKS", {"python": doctor.check_python, "disk": broken})
    assert cli.run(["doctor", "--data-root", str(tmp_path)]) == 7
    shown = capsys.readouterr()
    assert shown.out.splitlines()[0].startswith("ok    python")
    assert shown.out.splitlines()[1] == "FAIL  disk      no disk"
    assert shown.err == "error[resource]: 1 of 2 checks failed: disk\n"


def test_doctor_checks_bounds_of_versions(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    assert "torch" in doctor.check_versions(tmp_path)
    monkeypatch.setattr(doctor.metadata, "requires", lambda name: ["fastapi<0.1", "absent-package>=1"])
    with pytest.raises(Exception, match=r"fastapi .* \(needs <0\.1\); absent-package is missing"):
        doctor.check_versions(tmp_path)
    assert "GB free" in doctor.check_disk(tmp_path / "not" / "there")
    assert os.listdir(tmp_path) == []


@pytest.mark.parametrize("command", ["demo", "generate", "train", "verify", "list", "doctor"])
def test_help_has_the_example_first(command: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.run([command, "--help"]) == 0
    shown = capsys.readouterr().out
    assert shown.index("Example:  pdediff ") < shown.index("Options:")
