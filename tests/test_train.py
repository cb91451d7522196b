"""Training: closed forms of rate, average and Adam; the same bits after any kill; NaN, divergence, signals, memory."""

import json
import logging
import math
import os
import signal
import subprocess
import sys
import threading
from dataclasses import asdict, replace
from pathlib import Path

import pytest
import torch
from torch import nn

from pdediff import checkpoint
from pdediff.errors import Interrupted, MatchError, NumericalError, ResourceError
from pdediff.models import FNO, UNet
from pdediff.train import FitConfig, Order, ema_decay, fit, learning_rate
from pdediff.train.state import State, Watch

SHORT = FitConfig(steps=24, batch=4, warm_up=2, checkpoint_every=6, log_every=3, seed=1)
SIZE = 10


class Linear(nn.Module):
    def __init__(self):
        super().__init__()
        self.weight = nn.Parameter(torch.tensor([1.0, -2.0]))

    def forward(self, x):
        return x @ self.weight


def small_unet():
    return UNet(widths=(8, 16), features=16).build(1, 2, seed=0)


def small_fno():
    return FNO(modes=4, width=8, layers=2, features=16).build(1, 2, seed=0)


def denoising(network, indices, step):
    """Loss of a unit-variance EDM denoiser on fixed fields; the noise comes from the step alone."""
    fields = torch.randn((SIZE, 1, 8, 8), generator=torch.Generator().manual_seed(0))[indices]
    noise = torch.randn(fields.shape, generator=torch.Generator().manual_seed(1000 + step))
    out = network((fields + noise) / math.sqrt(2.0), torch.zeros(len(indices)))
    return (out - (noise - fields) / math.sqrt(2.0)).square().flatten(1).mean(1)


def lines(run):
    return [json.loads(line) for line in (run / "history.jsonl").read_text().splitlines()]


def reproducible(run):
    return [{k: v for k, v in line.items() if k != "samples_per_second"} for line in lines(run)]


# ------------------------------------------------------------------------------------------------ closed forms


def test_learning_rate_by_hand():
    config = FitConfig(steps=10, warm_up=3, learning_rate=1.0)
    assert [learning_rate(config, s) for s in range(4)] == [0.25, 0.5, 0.75, 1.0]
    # half a cosine over the seven steps after the warm-up
    assert learning_rate(config, 5) == pytest.approx(0.5 + 0.5 * math.cos(2 * math.pi / 7), abs=1e-15)
    assert learning_rate(config, 10) == pytest.approx(0.0, abs=1e-15)
    assert learning_rate(replace(config, warm_up=0), 5) == pytest.approx(0.5, abs=1e-15)


def test_ema_decay_by_hand():
    config = FitConfig(batch=10, ema_half_life=1000.0)
    assert ema_decay(config, 10**6) == pytest.approx(0.5**0.01, abs=1e-15)  # 100 steps halve
    assert ema_decay(config, 199) == pytest.approx(0.5**0.1, abs=1e-15)  # 5 % of 2000 samples are 10 steps
    assert ema_decay(config, 0) == 0.5**20


def test_every_epoch_sees_every_sample_once_in_a_new_order():
    order = Order(10, 4, seed=3)
    seen = torch.cat([order.indices(step) for step in range(10)]).reshape(4, 10)
    assert all(sorted(row) == list(range(10)) for row in seen.tolist())
    assert len({tuple(row) for row in seen.tolist()}) == 4
    # a function of the step, not of what was asked before
    assert torch.equal(Order(10, 4, seed=3).indices(7), order.indices(7))
    assert not torch.equal(Order(10, 4, seed=4).indices(7), order.indices(7))
    assert Order(3, 8, seed=0).indices(0).bincount().tolist() in ([3, 3, 2], [3, 2, 3], [2, 3, 3])
    with pytest.raises(ValueError, match="at least one sample; got 0"):
        Order(0, 1, 0)


def test_adam_and_average_equal_their_closed_form_on_a_line():
    """A constant gradient: Adam's step is lr * sign (up to eps), the average a sum of powers."""
    network = Linear()
    slope = torch.tensor([3.0, -0.5])
    config = FitConfig(steps=50, warm_up=0, batch=2, ema_half_life=8.0, learning_rate=0.1)
    state = State(network)
    weight, average = [1.0, -2.0], [1.0, -2.0]
    for step in range(50):
        rate, decay = learning_rate(config, step), ema_decay(config, step)
        state.update([slope.clone()], rate, 0.0, decay)
        for k, sign in enumerate((1.0, -1.0)):
            weight[k] -= rate * sign
            average[k] = decay * average[k] + (1 - decay) * weight[k]
    # float32: 50 roundings of numbers up to 5, and eps / |gradient| = 2e-8 of each step
    torch.testing.assert_close(network.weight.detach(), torch.tensor(weight), rtol=0, atol=2e-5)
    torch.testing.assert_close(state.averaged()["weight"], torch.tensor(average), rtol=0, atol=2e-5)


@pytest.mark.parametrize("make", [small_unet, small_fno])
def test_update_is_adam_of_torch(make):
    """On channels-last and on complex weights, against torch's own unfused AdamW."""
    ours, theirs = make(), make()
    state = State(ours)
    reference = torch.optim.AdamW(theirs.parameters(), lr=1e-2, betas=(0.9, 0.99), weight_decay=0.1, foreach=False)
    for step in range(3):
        for network in (ours, theirs):
            network.zero_grad()
            denoising(network, torch.arange(4), step).mean().backward()
        state.update(state.gradients(), 1e-2, 0.1, 0.5)
        reference.step()
    for (name, a), b in zip(ours.named_parameters(), theirs.parameters(), strict=True):
        # order of float32 operations; 3 steps of 1e-2
        torch.testing.assert_close(a, b, rtol=1e-4, atol=1e-5, msg=lambda m, n=name: f"{n}: {m}")


def test_gradient_is_clipped_to_the_bound(tmp_path):
    """With Adam the size of a constant gradient cancels, so the clip is seen in the moments."""

    def steep(network, indices, step):
        return 1e3 * network(torch.tensor([[3.0, 4.0]])).expand(len(indices))

    network = Linear()
    fit(network, steep, SIZE, replace(SHORT, steps=1, clip=0.5), tmp_path)
    moments = checkpoint.load_step(tmp_path)[2]
    # first moment after one step: (1 - 0.9) of the clipped gradient, 0.5 in the direction (0.6, 0.8)
    torch.testing.assert_close(moments["adam.first.weight"], 0.1 * torch.tensor([0.3, 0.4]), rtol=1e-5, atol=0)


@pytest.mark.slow
def test_overfits_one_batch_to_its_optimum(tmp_path):
    """Noise fixed per sample: the best loss is that of a lookup table, zero; a linear map can only reach 0.5."""

    def loss(network, indices, step):
        return denoising(network, indices, 0)

    config = FitConfig(steps=400, batch=SIZE, warm_up=20, learning_rate=5e-3, checkpoint_every=400)
    network = small_unet()
    fit(network, lambda n, i, s: loss(n, torch.arange(SIZE), s), SIZE, config, tmp_path)
    assert float(loss(network, torch.arange(SIZE), 0).mean().detach()) < 0.01


# ------------------------------------------------------------------------------------------------ the same bits


@pytest.fixture(scope="module")
def uninterrupted(tmp_path_factory):
    run = tmp_path_factory.mktemp("whole")
    network = small_unet()
    result = fit(network, denoising, SIZE, SHORT, run, meta={"name": "whole"})
    return run, network, result


def test_a_finished_run_is_left_alone(uninterrupted, tmp_path):
    run, network, result = uninterrupted
    assert result.steps == 24
    assert result.skipped == 0
    assert [line["step"] for line in lines(run)] == [3, 6, 9, 12, 15, 18, 21, 24]
    assert checkpoint.latest(run) == 24
    assert not checkpoint.is_complete(run)  # marking it is the caller's
    meta = checkpoint.load(run)[1]
    assert meta["name"] == "whole"
    assert meta["training"]["fit"] == asdict(SHORT)
    assert meta["training"]["threads"] == torch.get_num_threads()

    def never(*_):
        raise AssertionError("no step is left to do")

    again = small_unet()
    second = fit(again, never, SIZE, SHORT, run)
    assert second.digest == result.digest
    assert all(torch.equal(a, b) for a, b in zip(again.parameters(), network.parameters(), strict=True))
    # the network ends with the averaged weights, not the last ones
    raw = checkpoint.load(run)[0]
    assert torch.equal(raw["average.leave.conv.weight"], network.leave.conv.weight)
    assert not torch.equal(raw["network.leave.conv.weight"], network.leave.conv.weight)


def test_global_random_state_has_no_part_in_it(uninterrupted, tmp_path):
    torch.manual_seed(123)
    before = torch.get_rng_state()
    assert fit(small_unet(), denoising, SIZE, SHORT, tmp_path).digest == uninterrupted[2].digest
    assert torch.equal(before, torch.get_rng_state())


@pytest.mark.parametrize("stop", [1, 7, 13, 23])
def test_stopped_at_any_step_and_started_again(uninterrupted, tmp_path, stop):
    class Stopped(Exception):
        pass

    def loss(network, indices, step):
        if step == stop:
            raise Stopped
        return denoising(network, indices, step)

    with pytest.raises(Stopped):
        fit(small_unet(), loss, SIZE, SHORT, tmp_path)
    with (tmp_path / "history.jsonl").open("a") as file:
        file.write('{"step": 99, "lo')  # torn by the kill
    result = fit(small_unet(), denoising, SIZE, SHORT, tmp_path)
    assert result.digest == uninterrupted[2].digest
    assert result.loss == uninterrupted[2].loss
    assert reproducible(tmp_path) == reproducible(uninterrupted[0])


def test_complex_weights_resume_too(tmp_path):
    def stop(network, indices, step):
        if step == 9:
            raise KeyError(step)
        return denoising(network, indices, step)

    config = replace(SHORT, steps=12)
    whole = fit(small_fno(), denoising, SIZE, config, tmp_path / "whole")
    with pytest.raises(KeyError):
        fit(small_fno(), stop, SIZE, config, tmp_path / "cut")
    assert fit(small_fno(), denoising, SIZE, config, tmp_path / "cut").digest == whole.digest
    stored = checkpoint.load(tmp_path / "cut")[0]
    assert stored["average.blocks.convs.0.weight.tensor"].dtype == torch.complex64


KILLED = """
import os, signal, sys
from pathlib import Path
sys.path.insert(0, {tests!r})
import test_train as t
import torch
torch.set_num_threads({threads})
def loss(network, indices, step):
    if step == {kill}:
        os.kill(os.getpid(), signal.SIGKILL)
    return t.denoising(network, indices, step)
t.fit(t.small_unet(), loss, t.SIZE, t.SHORT, Path({run!r}))
"""


@pytest.mark.fault
@pytest.mark.slow
def test_kill_9_in_a_process_and_resume(uninterrupted, tmp_path):
    places = {"tests": str(Path(__file__).parent), "run": str(tmp_path), "threads": torch.get_num_threads()}
    root = str(Path(__file__).parents[1])
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
    assert fit(small_unet(), denoising, SIZE, SHORT, tmp_path).digest == uninterrupted[2].digest
    assert reproducible(tmp_path) == reproducible(uninterrupted[0])


@pytest.mark.fault
@pytest.mark.parametrize("damage", ["flip", "cut", "zero tail", "missing meta"])
def test_damaged_newest_checkpoint(uninterrupted, tmp_path, caplog, damage):
    def stop(network, indices, step):
        if step == 15:
            raise KeyError(step)
        return denoising(network, indices, step)

    with pytest.raises(KeyError):
        fit(small_unet(), stop, SIZE, SHORT, tmp_path)
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
        return denoising(network, indices, step)

    with caplog.at_level(logging.WARNING):
        result = fit(small_unet(), loss, SIZE, SHORT, tmp_path)
    assert seen[0] == 6
    assert "checkpoint step-00000012 is damaged" in caplog.text
    assert result.digest == uninterrupted[2].digest


def test_sigterm_saves_and_says_how_to_go_on(uninterrupted, tmp_path):
    def loss(network, indices, step):
        if step == 8:
            os.kill(os.getpid(), signal.SIGTERM)
        return denoising(network, indices, step)

    handler = signal.getsignal(signal.SIGTERM)
    with pytest.raises(Interrupted) as caught:
        fit(small_unet(), loss, SIZE, SHORT, tmp_path)
    assert caught.value.message == "training stopped after step 9 of 24; the same command continues"
    assert signal.getsignal(signal.SIGTERM) is handler
    assert checkpoint.latest(tmp_path) == 9
    assert fit(small_unet(), denoising, SIZE, SHORT, tmp_path).digest == uninterrupted[2].digest


def test_runs_outside_of_the_main_thread(uninterrupted, tmp_path):
    threads, out = torch.get_num_threads(), []

    def work():
        torch.set_num_threads(threads)
        out.append(fit(small_unet(), denoising, SIZE, SHORT, tmp_path).digest)

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
    ],
)
def test_another_config_is_refused(uninterrupted, change, line):
    with pytest.raises(MatchError) as caught:
        fit(small_unet(), denoising, SIZE, replace(SHORT, **change), uninterrupted[0])
    assert caught.value.message == line


def test_another_network_or_data_set_is_refused(uninterrupted):
    run = uninterrupted[0]
    with pytest.raises(MatchError, match=r"checkpoint and network differ in 'adam\.first\."):
        fit(Linear(), denoising, SIZE, SHORT, run)
    with pytest.raises(MatchError, match=r"of shape \[\d+(, \d+)*\]; the network has \["):
        fit(UNet(widths=(8, 24), features=16).build(1, 2, 0), denoising, SIZE, SHORT, run)
    with pytest.raises(MatchError, match="run was trained on 10 samples; the data set has 11"):
        fit(small_unet(), denoising, 11, SHORT, run)


# ------------------------------------------------------------------------------------------------ what goes wrong


def squares(network, indices, step):
    """A convex toy: the best weight is (2, 1)."""
    x = torch.tensor([[1.0, 0.0], [0.0, 1.0], [1.0, 1.0], [1.0, -1.0]])[indices % 4]
    return (network(x) - x @ torch.tensor([2.0, 1.0])).square()


@pytest.mark.fault
@pytest.mark.parametrize("where", ["loss", "gradient"])
def test_a_nan_step_leaves_everything_alone(tmp_path, caplog, where):
    """Step 5 is spoilt: afterwards the state is that of a run whose step 5 did not happen, but was counted."""

    class Spoil(torch.autograd.Function):
        @staticmethod
        def forward(ctx, x):
            return x.clone()

        @staticmethod
        def backward(ctx, g):
            return g * float("nan")

    config = replace(SHORT, steps=6, checkpoint_every=1)

    def loss(network, indices, step):
        out = squares(network, indices, step)
        if step != 5:
            return out
        if where == "gradient":
            return Spoil.apply(out)
        return torch.where(indices == indices[2], float("nan"), out)

    network = Linear()
    with caplog.at_level(logging.WARNING):
        result = fit(network, loss, SIZE, config, tmp_path)
    after, before = (checkpoint.load(tmp_path, step)[0] for step in (6, 5))
    assert result.skipped == 1
    assert all(torch.equal(after[k], before[k]) for k in before if k != "watch")
    assert after["watch"].tolist()[:3] == [1.0, 1.0, 5.0]
    samples = Order(SIZE, 4, 1).indices(5).tolist()
    named = str(samples[2]) if where == "loss" else ", ".join(map(str, samples))
    kind = "loss became NaN" if where == "loss" else "gradient became NaN"
    assert caplog.messages == [f"{kind} at step 5 (samples {named}): step skipped"]


@pytest.mark.fault
def test_nan_in_a_row_stops_with_the_samples(tmp_path):
    config = replace(SHORT, max_bad_steps=3)

    def loss(network, indices, step):
        return squares(network, indices, step) * (float("nan") if step >= 13 else 1.0)

    with pytest.raises(NumericalError) as caught:
        fit(Linear(), loss, SIZE, config, tmp_path)
    samples = ", ".join(map(str, Order(SIZE, 4, 1).indices(15).tolist()))
    assert caught.value.message == f"loss became NaN at step 13 (samples {samples})"
    assert caught.value.exit_code == 6
    assert checkpoint.latest(tmp_path) == 12
    assert all(t.isfinite().all() for k, t in checkpoint.load(tmp_path)[0].items() if k != "watch")
    assert max(line["step"] for line in lines(tmp_path)) <= 15


@pytest.mark.fault
def test_divergence_stops_and_keeps_the_last_good_checkpoint(tmp_path):
    config = replace(SHORT, steps=500, learning_rate=1e3, warm_up=0, clip=1e9)
    with pytest.raises(NumericalError, match=r"loss (diverged at step \d+: .* against .* at best|became)") as caught:
        fit(small_unet(), denoising, SIZE, config, tmp_path)
    assert "learning_rate (now 1000)" in caught.value.hint

    # a gentle run that is hit later keeps what it had
    def hit(network, indices, step):
        return squares(network, indices, step) * (1.0 if step < 20 else 1e6)

    with pytest.raises(NumericalError, match="loss diverged at step 20"):
        fit(Linear(), hit, SIZE, SHORT, tmp_path / "late")
    assert checkpoint.latest(tmp_path / "late") == 18


def test_what_counts_as_divergence():
    watch = Watch()
    for loss in (1.0, 1e-9, 1e-9):
        watch.see(loss)
    watch.total, watch.best = 1e-9 * watch.weight, 1e-9
    assert not watch.diverged(10.0)  # far above its best, and still nothing
    watch.total = 0.0901 * watch.weight
    assert watch.diverged(10.0)
    watch.total, watch.best = -5.0 * watch.weight, -5.0  # a log-likelihood may be negative
    assert not watch.diverged(10.0)
    watch.total = 41.0 * watch.weight
    assert watch.diverged(10.0)


def test_out_of_memory_names_the_batch(tmp_path):
    def loss(network, indices, step):
        torch.empty(1 << 60)
        return squares(network, indices, step)

    with pytest.raises(ResourceError) as caught:
        fit(Linear(), loss, SIZE, SHORT, tmp_path)
    assert caught.value.message == "out of memory at batch=4"

    def other(network, indices, step):
        raise RuntimeError("shapes differ")

    with pytest.raises(RuntimeError, match="shapes differ"):
        fit(Linear(), other, SIZE, SHORT, tmp_path)


def test_progress_counts_every_step(tmp_path):
    class Bar:
        def __init__(self):
            self.steps = []

        def bar(self, label, total):
            self.label, self.total = label, total
            return self

        def __enter__(self):
            return self

        def __exit__(self, *_):
            return None

        def advance(self, n=1, rejected=0, note=""):
            self.steps.append((n, note))

    bar = Bar()
    fit(Linear(), squares, SIZE, replace(SHORT, steps=3, checkpoint_every=2), tmp_path, progress=bar)
    assert (bar.label, bar.total) == ("train", 3)
    assert [n for n, _ in bar.steps] == [1, 1, 1]
    assert bar.steps[-1][1].startswith("loss ")
