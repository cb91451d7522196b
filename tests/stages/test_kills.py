"""Programs that are killed, stopped or started twice: what was finished is kept and the end is the same."""

from __future__ import annotations

import os
import random
import shlex
import signal
from collections.abc import Callable
from pathlib import Path

import pytest
import stage_recipe as recipe

from pdediff import cli, stages
from pdediff.store import Lock, verify
from pdediff.store.lock import owner

LONG = int(os.environ.get("PDEDIFF_KILLS", "0"))
"""Kills of each stage in the long variant; the ten below are always there."""

GENERATE = ("compute=inline", *recipe.GENERATE, "samples=96", "shard=4")
TRAIN = ("compute=inline", *recipe.TRAIN, "fit.steps=120", "fit.checkpoint_every=10")
RECONSTRUCT = ("compute=inline", *recipe.reconstruct_words("calibrated"), "cases=8", "posterior.steps=30")
POINTS = {
    "generate": [("folder", 1), ("receipts", 8), ("receipts", 44), ("receipts", 64)],
    "train": [("history", 1), ("step", 40), ("step", 90)],
    "reconstruct": [("folder", 1), ("receipts", 2), ("receipts", 5)],
}
"""Where each stage is killed: when this much of that is there (see `stage_recipe.progress`)."""
MOST = {"generate": ("receipts", 80), "train": ("step", 110), "reconstruct": ("receipts", 6)}


@pytest.fixture
def command(world: recipe.World, tmp_path: Path) -> Callable[[str], tuple[tuple[str, ...], Path]]:
    """Words of a stage, and the folder below the data root that its result comes to."""
    root = tmp_path / "data"
    inputs = {"train": (f"data={world.data}",), "reconstruct": (f"prior={world.prior}", f"data={world.data}")}
    chosen = {"generate": (GENERATE, "sets"), "train": (TRAIN, "runs"), "reconstruct": (RECONSTRUCT, "recon")}

    def words(stage: str) -> tuple[tuple[str, ...], Path]:
        own, folder = chosen[stage]
        return (stage, *own, *inputs.get(stage, ())), root / folder

    return words


@pytest.fixture(scope="module")
def uninterrupted(world: recipe.World, tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """Content hashes of the three results, made without an interruption in this process."""
    root = tmp_path_factory.mktemp("uninterrupted")
    data = stages.generate(recipe.config("generate", *GENERATE[1:]), root, recipe.INLINE)
    run = stages.train(recipe.config("train", *TRAIN[1:]), world.data, root, recipe.INLINE)
    config = recipe.config("reconstruct", *RECONSTRUCT[1:])
    made = stages.reconstruct(config, world.prior, world.data, root, recipe.INLINE)
    return {"generate": recipe.content(data), "train": recipe.content(run), "reconstruct": recipe.content(made)}


def settled(stage: str, folder: Path, uninterrupted: dict[str, str]) -> None:
    """The result is the uninterrupted one, and nothing else is left behind."""
    path = recipe.only(folder)
    assert path is not None
    assert recipe.content(path) == uninterrupted[stage]
    assert not recipe.leftovers(path)
    assert recipe.is_free(path)
    assert not (path / ".lock").read_bytes()
    assert stages.verify(path) == []
    before = recipe.snapshot(path)
    assert cli.run(["verify", str(path), "--json"]) == 0
    assert recipe.snapshot(path) == before


def kill_all(words: tuple[str, ...], folder: Path, points: list[tuple[str, int]]) -> None:
    """Start, kill at the next point, start again; what had a receipt or a checkpoint is still there afterwards."""
    for what, amount in points:
        before = recipe.progress(folder)

        def reached(what: str = what, amount: int = amount) -> bool:
            return recipe.progress(folder)[what] >= amount

        code = recipe.signal_when(words, folder.parent, reached, signal.SIGKILL)
        assert code == -signal.SIGKILL, (what, amount, recipe.said(folder.parent))
        after = recipe.progress(folder)
        assert after["receipts"] >= before["receipts"]
        assert after["step"] >= before["step"]
        path = recipe.only(folder)
        assert path is not None
        assert not (path / "manifest.json").exists()
        assert not (path / ".lock").exists() or recipe.is_free(path)
    assert recipe.finish(words, folder.parent) == 0, recipe.said(folder.parent)


@pytest.mark.fault
@pytest.mark.slow
@pytest.mark.parametrize("stage", POINTS)
def test_kill_9_at_ten_points_gives_the_uninterrupted_result(
    stage: str,
    command: Callable[[str], tuple[tuple[str, ...], Path]],
    uninterrupted: dict[str, str],
    capsys: pytest.CaptureFixture[str],
) -> None:
    words, folder = command(stage)
    kill_all(words, folder, POINTS[stage])
    settled(stage, folder, uninterrupted)


@pytest.mark.fault
@pytest.mark.slow
@pytest.mark.skipif(not LONG, reason="set PDEDIFF_KILLS to the number of kills of each stage")
@pytest.mark.parametrize("stage", POINTS)
def test_kill_9_at_many_random_points(
    stage: str,
    command: Callable[[str], tuple[tuple[str, ...], Path]],
    uninterrupted: dict[str, str],
    capsys: pytest.CaptureFixture[str],
) -> None:
    what, most = MOST[stage]
    draw, left = random.Random(f"{stage} {LONG}"), LONG
    words, folder = command(stage)
    while left:
        count = min(left, draw.randint(1, 6))
        kill_all(words, folder, [(what, point) for point in sorted(draw.randint(1, most) for _ in range(count))])
        settled(stage, folder, uninterrupted)
        left -= count
        path = recipe.only(folder)
        assert path is not None
        path.rename(folder.parent / f"{stage}-{left}")


@pytest.mark.fault
@pytest.mark.slow
def test_kill_9_of_a_run_with_workers(
    command: Callable[[str], tuple[tuple[str, ...], Path]],
    uninterrupted: dict[str, str],
    capsys: pytest.CaptureFixture[str],
) -> None:
    words, folder = command("generate")
    kill_all((words[0], "compute=local", *words[2:]), folder, [("receipts", 20)])
    settled("generate", folder, uninterrupted)


@pytest.mark.fault
@pytest.mark.slow
@pytest.mark.parametrize(
    ("stage", "number", "what", "amount"),
    [
        ("reconstruct", signal.SIGTERM, "receipts", 2),
        ("generate", signal.SIGINT, "receipts", 12),
        ("train", signal.SIGINT, "history", 3),
        ("train", signal.SIGTERM, "history", 3),
    ],
)
def test_a_stopped_program_says_how_to_resume(
    stage: str,
    number: signal.Signals,
    what: str,
    amount: int,
    command: Callable[[str], tuple[tuple[str, ...], Path]],
    uninterrupted: dict[str, str],
    capsys: pytest.CaptureFixture[str],
) -> None:
    words, folder = command(stage)
    code = recipe.signal_when(words, folder.parent, lambda: recipe.progress(folder)[what] >= amount, number)
    lines = recipe.said(folder.parent)
    assert code == 128 + number, lines
    assert 1 <= len(lines) <= 2
    assert lines[0].startswith("error[interrupted]: ")
    # The command is never cut, so that it can be copied.
    assert (
        lines[-1].endswith(f"resume with: pdediff {shlex.join(words)}") or f"resume with: pdediff {stage} " in lines[-1]
    )
    path = recipe.only(folder)
    assert path is not None
    assert recipe.is_free(path)
    assert not (path / ".lock").read_bytes()
    assert not (path / "manifest.json").exists()
    if stage == "train":
        assert recipe.progress(folder)["step"] >= 30  # it saved where it stopped
    assert recipe.finish(words, folder.parent) == 0, recipe.said(folder.parent)
    settled(stage, folder, uninterrupted)


@pytest.mark.fault
@pytest.mark.slow
@pytest.mark.parametrize("stage", ["generate", "train"])
def test_a_second_run_on_the_same_folder_is_refused(
    stage: str,
    command: Callable[[str], tuple[tuple[str, ...], Path]],
    uninterrupted: dict[str, str],
    capsys: pytest.CaptureFixture[str],
) -> None:
    words, folder = command(stage)
    codes, lines = [], []

    def refused() -> bool:
        there = recipe.progress(folder)
        if there["receipts"] >= 4 or there["history"] >= 1:
            path = recipe.only(folder)
            holder = owner(path) if path is not None else None
            if holder is None:
                return False
            # The first run stands still meanwhile: on a busy machine it would be done before the second one starts.
            first = int(str(holder["pid"]))
            os.kill(first, signal.SIGSTOP)
            try:
                capsys.readouterr()
                codes.append(cli.run([*words, "--data-root", str(folder.parent), "-q"]))
                lines.extend(capsys.readouterr().err.splitlines())
            finally:
                os.kill(first, signal.SIGCONT)
        return bool(codes)

    recipe.signal_when(words, folder.parent, refused, signal.SIGCONT)  # which does nothing to a running program
    assert codes == [75]
    assert len(lines) == 1
    assert lines[0].startswith("error[locked]: ")
    assert "is being written by run " in lines[0]
    settled(stage, folder, uninterrupted)


@pytest.mark.slow
def test_every_stage_takes_the_lock_of_its_folder(copy: recipe.World, capsys: pytest.CaptureFixture[str]) -> None:
    """The folder that a stage is about to write is locked by another run: refused, and left as it is."""
    made = {
        "generate": (copy.data, recipe.GENERATE),
        "train": (copy.prior, (*recipe.TRAIN, f"data={copy.data}")),
        "reconstruct": (
            copy.recon["dps"],
            (*recipe.reconstruct_words("dps"), f"prior={copy.prior}", f"data={copy.data}"),
        ),
    }
    report = stages.evaluate(recipe.config("evaluate"), [copy.recon["kriging"]], copy.root, recipe.INLINE)
    made["evaluate"] = (report, (copy.recon["kriging"].name,))
    for command, (path, words) in reversed(made.items()):
        (path / "manifest.json").unlink()
        with Lock(path, "another"):
            before = recipe.snapshot(path)
            assert cli.run([command, "compute=inline", *words, "--data-root", str(copy.root), "-q"]) == 75
            assert recipe.snapshot(path) == before
        line = capsys.readouterr().err.splitlines()[0]
        assert line.startswith("error[locked]: ")
        assert f"{path.name} is being written by run another (pid {os.getpid()} " in line
        assert cli.run([command, "compute=inline", *words, "--data-root", str(copy.root), "-q"]) == 0
    assert verify(copy.data) == []
