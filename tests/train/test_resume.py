"""The same bits after any kill, signal or damage; another config, network or data set is refused."""

import logging
import os
import signal
import subprocess
import sys
import threading
from dataclasses import asdict, replace
from pathlib import Path

import pytest
import torch
import train_recipe as recipe

from pdediff import checkpoint
from pdediff.errors import Interrupted, MatchError
from pdediff.models import UNet
from pdediff.train import Optimiser, Supervision, fit


def test_a_finished_run_is_left_alone(uninterrupted, tmp_path):
    run, network, result = uninterrupted
    assert result.steps == 24
    assert result.skipped == 0
    assert [line["step"] for line in recipe.lines(run)] == [3, 6, 9, 12, 15, 18, 21, 24]
    assert checkpoint.latest(run) == 24
    assert not checkpoint.is_complete(run)  # marking it is the caller's
    meta = checkpoint.load(run)[1]
    assert meta["name"] == "whole"
    assert meta["training"]["fit"] == asdict(recipe.SHORT)
    assert meta["training"]["threads"] == torch.get_num_threads()

    def never(*_):
        raise AssertionError("no step is left to do")

    again = recipe.small_unet()
    second = fit(again, never, recipe.SIZE, recipe.SHORT, run)
    assert second.digest == result.digest
    assert all(torch.equal(a, b) for a, b in zip(again.parameters(), network.parameters(), strict=True))
    # the network ends with the averaged weights, not the last ones
    raw = checkpoint.load(run)[0]
    assert torch.equal(raw["average.leave.conv.weight"], network.leave.conv.weight)
    assert not torch.equal(raw["network.leave.conv.weight"], network.leave.conv.weight)


def test_global_random_state_has_no_part_in_it(uninterrupted, tmp_path):
    torch.manual_seed(123)
    before = torch.get_rng_state()
    assert (
        fit(recipe.small_unet(), recipe.denoising, recipe.SIZE, recipe.SHORT, tmp_path).digest
        == uninterrupted[2].digest
    )
    assert torch.equal(before, torch.get_rng_state())


@pytest.mark.parametrize("stop", [1, 7, 13, 23])
def test_stopped_at_any_step_and_started_again(uninterrupted, tmp_path, stop):
    class Stopped(Exception):
        pass

    def loss(network, indices, step):
        if step == stop:
            raise Stopped
        return recipe.denoising(network, indices, step)

    with pytest.raises(Stopped):
        fit(recipe.small_unet(), loss, recipe.SIZE, recipe.SHORT, tmp_path)
    with (tmp_path / "history.jsonl").open("a") as file:
        file.write('{"step": 99, "lo')  # torn by the kill
    result = fit(recipe.small_unet(), recipe.denoising, recipe.SIZE, recipe.SHORT, tmp_path)
    assert result.digest == uninterrupted[2].digest
    assert result.loss == uninterrupted[2].loss
    assert recipe.reproducible(tmp_path) == recipe.reproducible(uninterrupted[0])


def test_complex_weights_resume_too(tmp_path):
    def stop(network, indices, step):
        if step == 9:
            raise KeyError(step)
        return recipe.denoising(network, indices, step)

    config = replace(recipe.SHORT, steps=12)
    whole = fit(recipe.small_fno(), recipe.denoising, recipe.SIZE, config, tmp_path / "whole")
    with pytest.raises(KeyError):
        fit(recipe.small_fno(), stop, recipe.SIZE, config, tmp_path / "cut")
    assert fit(recipe.small_fno(), recipe.denoising, recipe.SIZE, config, tmp_path / "cut").digest == whole.digest
    stored = checkpoint.load(tmp_path / "cut")[0]
    assert stored["average.blocks.convs.0.weight.tensor"].dtype == torch.complex64


KILLED = """
import os, signal, sys
from pathlib import Path
sys.path.insert(0, {tests!r})
import train_recipe as t
import torch
from pdediff.train import fit
torch.set_num_threads({threads})
def loss(network, indices, step):
    if step == {kill}:
        os.kill(os.getpid(), signal.SIGKILL)
    return t.denoising(network, indices, step)
fit(t.small_unet(), loss, t.SIZE, t.SHORT, Path({run!r}))
"""


@pytest.mark.fault
@pytest.mark.slow
def test_kill_9_in_a_process_and_resume(uninterrupted, tmp_path):
    places = {"tests": str(Path(__file__).parent), "run": str(tmp_path), "threads": torch.get_num_threads()}
    root = str(Path(__file__).parents[2])
    for kill in (9, 20):
        with (tmp_path / "log").open("w") as log:
            done = subprocess.run(
                [sys.executable, "-c", KILLED.format(kill=kill, **places)],
                stdout=log,
                stderr=log,
                cwd=root,
                env=os.environ | {"PYTHONPATH": root},
                check=False,
            )
        assert done.returncode == -signal.SIGKILL, (tmp_path / "log").read_text()
        assert checkpoint.latest(tmp_path) == kill // 6 * 6
    assert (
        fit(recipe.small_unet(), recipe.denoising, recipe.SIZE, recipe.SHORT, tmp_path).digest
        == uninterrupted[2].digest
    )
    assert recipe.reproducible(tmp_path) == recipe.reproducible(uninterrupted[0])


@pytest.mark.fault
@pytest.mark.parametrize("damage", ["flip", "cut", "zero tail", "missing meta"])
def test_damaged_newest_checkpoint(uninterrupted, tmp_path, caplog, damage):
    def stop(network, indices, step):
        if step == 15:
            raise KeyError(step)
        return recipe.denoising(network, indices, step)

    with pytest.raises(KeyError):
        fit(recipe.small_unet(), stop, recipe.SIZE, recipe.SHORT, tmp_path)
    newest = tmp_path / "checkpoints" / "step-00000012"
    if damage == "missing meta":
        (newest / "meta.json").unlink()
    else:
        raw = bytearray((newest / "tensors.safetensors").read_bytes())
        raw[len(raw) // 2] ^= 1 if damage == "flip" else 0
        raw = raw[:-100] if damage == "cut" else raw
        raw = raw[:-4096] + bytes(4096) if damage == "zero tail" else raw
        (newest / "tensors.safetensors").write_bytes(raw)
    seen = []

    def loss(network, indices, step):
        seen.append(step)
        return recipe.denoising(network, indices, step)

    with caplog.at_level(logging.WARNING):
        result = fit(recipe.small_unet(), loss, recipe.SIZE, recipe.SHORT, tmp_path)
    assert seen[0] == 6
    assert "checkpoint step-00000012 is damaged" in caplog.text
    assert result.digest == uninterrupted[2].digest


def test_sigterm_saves_and_says_how_to_go_on(uninterrupted, tmp_path):
    def loss(network, indices, step):
        if step == 8:
            os.kill(os.getpid(), signal.SIGTERM)
        return recipe.denoising(network, indices, step)

    handler = signal.getsignal(signal.SIGTERM)
    with pytest.raises(Interrupted) as caught:
        fit(recipe.small_unet(), loss, recipe.SIZE, recipe.SHORT, tmp_path)
    assert caught.value.message == "training stopped after step 9 of 24"
    assert signal.getsignal(signal.SIGTERM) is handler
    assert checkpoint.latest(tmp_path) == 9
    assert (
        fit(recipe.small_unet(), recipe.denoising, recipe.SIZE, recipe.SHORT, tmp_path).digest
        == uninterrupted[2].digest
    )


def test_runs_outside_of_the_main_thread(uninterrupted, tmp_path):
    threads, out = torch.get_num_threads(), []

    def work():
        torch.set_num_threads(threads)
        out.append(fit(recipe.small_unet(), recipe.denoising, recipe.SIZE, recipe.SHORT, tmp_path).digest)

    thread = threading.Thread(target=work)
    thread.start()
    thread.join()
    assert out == [uninterrupted[2].digest]


@pytest.mark.parametrize(
    ("change", "line"),
    [
        ({"batch": 5}, "run was trained with batch=4, config says 5"),
        ({"seed": 2}, "run was trained with seed=1, config says 2"),
        ({"steps": 48}, "run was trained with steps=24, config says 48"),
        ({"optimiser": Optimiser(warm_up=2, clip=2.0)}, "run was trained with clip=1.0, config says 2.0"),
    ],
)
def test_another_config_is_refused(uninterrupted, change, line):
    with pytest.raises(MatchError) as caught:
        fit(recipe.small_unet(), recipe.denoising, recipe.SIZE, replace(recipe.SHORT, **change), uninterrupted[0])
    assert caught.value.message == line


def test_another_supervision_is_welcome(uninterrupted):
    run, _, result = uninterrupted
    config = replace(recipe.SHORT, supervision=Supervision(checkpoint_every=5, max_bad_steps=1, divergence=2.0))
    assert fit(recipe.small_unet(), recipe.denoising, recipe.SIZE, config, run).digest == result.digest


def test_another_network_or_data_set_is_refused(uninterrupted):
    run = uninterrupted[0]
    with pytest.raises(MatchError, match=r"checkpoint and network differ in 'adam\.first\."):
        fit(recipe.Linear(), recipe.denoising, recipe.SIZE, recipe.SHORT, run)
    with pytest.raises(MatchError, match=r"of shape \[\d+(, \d+)*\]; the network has \["):
        fit(UNet(widths=(8, 24), features=16).build(1, 2, 0), recipe.denoising, recipe.SIZE, recipe.SHORT, run)
    with pytest.raises(MatchError, match="run was trained on 10 samples; the data set has 11"):
        fit(recipe.small_unet(), recipe.denoising, 11, recipe.SHORT, run)
