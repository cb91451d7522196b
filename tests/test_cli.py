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

WRONG = [
    # words, first line of the error
    (["generate", "pde=darci"], "error[config]: pde='darci' is not one of darcy, "),
    (["generate", "pde.kind=Darci"], "error[config]: pde.kind='Darci' is not one of Darcy, KolmogorovFlow, "),
    (["generate", "pde.kind=Variable"], "error[config]: pde.kind='Variable' is not one of Darcy"),
    (["generate", "pde.alfa=1"], "error[config]: pde has no option 'alfa'"),
    (["generate", "pde.permeability=log_norml"], "error[config]: pde.permeability='log_norml' is not one of "),
    (["generate", "pde.low=-1"], "error[config]: pde.low=-1 must be greater than 0"),
    (["generate", "pde.low=20"], "error[config]: pde: "),
    (["generate", "pde=null"], "error[config]: pde=None is not a mapping"),
    (["generate", "sampels=3"], "error[config]: unknown option 'sampels'"),
    (["generate", "+foo=1"], "error[config]: unknown option 'foo'"),
    (["generate", "samples=0"], "error[config]: samples=0 must be at least 1"),
    (["generate", "samples=-5"], "error[config]: samples=-5 must be at least 1"),
    (["generate", "samples=10000000000"], "error[config]: samples=10000000000 must be at most "),
    (["generate", "samples=2.5"], "error[config]: samples=2.5 is not a whole number"),
    (["generate", "samples=true"], "error[config]: samples=True is not a whole number"),
    (["generate", "samples=2k"], "error[config]: samples='2k' is not a whole number"),
    (["generate", "samples=null"], "error[config]: samples=None is not a whole number"),
    (["generate", "samples=[1]"], "error[config]: samples=[1] is not a whole number"),
    (["generate", "samples=1,2"], "error[config]: 'samples=1,2' is a sweep"),
    (["generate", "samples"], "error[config]: 'samples' is not an override"),
    (["generate", "samples=("], "error[config]: cannot read 'samples=('"),
    (["generate", "~seed"], "error[config]: '~seed': options cannot be deleted"),
    (["generate", "grid=1"], "error[config]: grid=1 must be at least 4"),
    (["generate", "grid=inf"], "error[config]: grid=inf is not a whole number"),
    (["generate", "seed=-1"], "error[config]: seed=-1 must be at least 0"),
    (["generate", "seed=99999999999999999999"], "error[config]: seed=99999999999999999999 must be at most "),
    (["generate", "tile=8", "shard=12"], "error[config]: shard=12 must be a multiple of tile=8"),
    (["generate", "split.train=0.5"], "error[config]: split: train + valid + test = 0.6 must be 1"),
    (["generate", "split=0.9"], "error[config]: split=0.9 is not a mapping"),
    (["generate", "max_rejected=1%"], "error[config]: max_rejected='1%' is not a number"),
    (["generate", "max_rejected=nan"], "error[config]: max_rejected=nan is not a finite number"),
    (["generate", "max_rejected=1.5"], "error[config]: max_rejected=1.5 must be at most 1"),
    (["generate", "name=../x"], "error[config]: name='../x' is not a name"),
    (["generate", "name=/etc"], "error[config]: name='/etc' is not a name"),
    (["generate", "name=a b"], "error[config]: name='a b' is not a name"),
    (["generate", "name=Capital"], "error[config]: name='Capital' is not a name"),
    (["generate", "name=''"], "error[config]: name='' is not a name"),
    (["generate", "name=а"], "error[config]: name='а' is not a name"),  # noqa: RUF001 - a Cyrillic letter
    (["generate", f"name={'a' * 65}"], "error[config]: name='aaaa"),
    (["generate", "name=2024"], "error[config]: name=2024 is not text"),
    (["generate", "name=${oc.env:HOME}"], "error[config]: name='${oc.env:HOME}': only references"),
    (["generate", "pde._target_=os.system"], "error[config]: pde._target_: a config cannot name code"),
    (["generate", "seed=${sead}"], "error[config]: cannot resolve the config"),
    (["generate", "compute=cloud"], "error[config]: compute='cloud' is not one of "),
    (["generate", "compute.workers=0"], "error[config]: compute.workers=0 must be at least 1"),
    (["generate", "--workers", "100000"], "error[config]: compute.workers=100000 must be at most 4096"),
    (["generate", "--workers", "two"], "error[config]: Invalid value for '--workers'"),
    (["generate", "compute.memory=much"], "error[config]: compute.memory='much' is not 'auto' or a size"),
    (["generate", "--device", "tpu"], "error[config]: Invalid value for '--device'"),
    (["generate", "--sampels", "3"], "error[config]: No such option: --sampels"),
    (["genrate"], "error[config]: No such command 'genrate'"),
    (["train"], "error[config]: data is missing"),
    (["train", "data=nothing"], "error[config]: data='nothing' is neither a folder nor a name"),
    (["train", "data="], "error[config]: data='' is neither a folder nor a name"),
    (["train", "data=.", "network=unit"], "error[config]: network='unit' is not one of "),
    (["train", "data=.", "fit.learning_rate=-1"], "error[config]: fit.learning_rate=-1 must be greater than 0"),
    (["train", "data=.", "fit.sigma_min=90"], "error[config]: fit: sigma_min=90 must be less than sigma_max=80"),
    (["train", "data=.", "fit.precision=float16"], "error[config]: fit.precision='float16' is not one of "),
    (["train", "data=.", "fit.ema=1"], "error[config]: fit.ema=1 must be less than 1"),
    (["train", "data=.", "fields=[u,u]"], "error[config]: fields=['u', 'u'] names a field twice"),
    (["train", "data=.", "fields=[a/b]"], "error[config]: fields[0]='a/b' is not the name of a field"),
    (["sample", "prior=."], None),
    (["sample", "prior=.", "sigma_min=100"], "error[config]: sigma_min=100 must be less than sigma_max=80"),
    (["reconstruct", "observations=x.csv"], "error[config]: prior is missing"),
    (["reconstruct", "prior=."], "error[config]: data is missing"),
    (["reconstruct", "prior=.", "data=.", "observations.noise=0"], "error[config]: observations.noise=0 must be "),
    (["reconstruct", "prior=.", "data=.", "split=tset"], "error[config]: split='tset' is not one of "),
    (["evaluate"], "error[config]: no reconstruction to evaluate"),
    (["evaluate", "nothing"], "error[config]: reconstruction='nothing' is neither"),
    (["show", "nothing"], "error[config]: 'nothing' is no result under "),
    (["show"], "error[config]: Missing argument"),
    (["verify", "nothing"], "error[config]: 'nothing' is no result under "),
    (["list", "posteriors"], "error[config]: 'posteriors' is not one of "),
    (["config", "generat"], "error[config]: 'generat' is not one of "),
    (["config", "generate", "grid=x"], "error[config]: grid='x' is not a whole number"),
]
DRY = ("generate", "train", "sample", "reconstruct")


@pytest.mark.parametrize(("words", "line"), WRONG, ids=lambda value: " ".join(value) if isinstance(value, list) else "")
def test_wrong_input_ends_with_one_clear_line(
    words: list[str], line: str | None, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    root = tmp_path / "data"
    known_root = words[0] not in ("list", "config", "genrate")
    argv = words + (["--data-root", str(root)] if known_root else []) + (["--dry-run"] if words[0] in DRY else [])
    code = cli.run(argv)
    shown = capsys.readouterr()
    lines = shown.err.splitlines()
    assert code == 2
    assert lines[0].startswith(line or "error[config]: ")
    assert all(text.startswith(("error[config]: ", "  hint: ")) for text in lines)
    assert max(map(len, lines)) <= 160
    assert not shown.out
    assert not any(tmp_path.iterdir())


def test_all_errors_come_at_once(capsys: pytest.CaptureFixture[str]) -> None:
    words = ["pde=darci", "sampels=3", "grid=0", "name=../x", "data=x", "compute.workers=0"]
    assert cli.run(["train", *words]) == 2
    lines = capsys.readouterr().err.splitlines()
    assert len([line for line in lines if line.startswith("error")]) == 6


@pytest.fixture
def stage(monkeypatch: pytest.MonkeyPatch) -> Any:
    """Replace the generate stage by a function of our own."""

    def replace(work: Any) -> None:
        monkeypatch.setattr(stages, "generate", work, raising=False)

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

    monkeypatch.setattr(stages, "reconstruct", reconstruct, raising=False)
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
    monkeypatch.setattr(stages, "evaluate", lambda config, results, root, runtime: made, raising=False)
    for command in ("evaluate", "report"):
        assert cli.run([command, "dps", "--data-root", str(tmp_path)]) == 0
        assert capsys.readouterr().out.splitlines() == ["method  CRPS", f"{made}/report.html"]


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
