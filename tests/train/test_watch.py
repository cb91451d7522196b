"""What goes wrong in training: NaN, divergence, memory; and the progress."""

import logging
from dataclasses import replace

import pytest
import torch
import train_recipe as recipe

from pdediff import checkpoint
from pdediff.errors import NumericalError, ResourceError
from pdediff.train import Optimiser, Order, Supervision, fit
from pdediff.train.state import Watch


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

    config = replace(recipe.SHORT, steps=6, supervision=Supervision(checkpoint_every=1))

    def loss(network, indices, step):
        out = recipe.squares(network, indices, step)
        if step != 5:
            return out
        if where == "gradient":
            return Spoil.apply(out)
        return torch.where(indices == indices[2], float("nan"), out)

    network = recipe.Linear()
    with caplog.at_level(logging.WARNING):
        result = fit(network, loss, recipe.SIZE, config, tmp_path)
    after, before = (checkpoint.load(tmp_path, step)[0] for step in (6, 5))
    assert result.skipped == 1
    assert all(torch.equal(after[k], before[k]) for k in before if k != "watch")
    assert after["watch"].tolist()[:3] == [1.0, 1.0, 5.0]
    samples = Order(recipe.SIZE, 4, 1).indices(5).tolist()
    named = str(samples[2]) if where == "loss" else ", ".join(map(str, samples))
    kind = "loss became NaN" if where == "loss" else "gradient became NaN"
    assert caplog.messages == [f"{kind} at step 5 (samples {named}): step skipped"]


@pytest.mark.fault
def test_nan_in_a_row_stops_with_the_samples(tmp_path):
    config = replace(recipe.SHORT, supervision=replace(recipe.SHORT.supervision, max_bad_steps=3))

    def loss(network, indices, step):
        return recipe.squares(network, indices, step) * (float("nan") if step >= 13 else 1.0)

    with pytest.raises(NumericalError) as caught:
        fit(recipe.Linear(), loss, recipe.SIZE, config, tmp_path)
    samples = ", ".join(map(str, Order(recipe.SIZE, 4, 1).indices(15).tolist()))
    assert caught.value.message == f"loss became NaN at step 13 (samples {samples})"
    assert caught.value.exit_code == 6
    assert checkpoint.latest(tmp_path) == 12
    assert all(t.isfinite().all() for k, t in checkpoint.load(tmp_path)[0].items() if k != "watch")
    assert max(line["step"] for line in recipe.lines(tmp_path)) <= 15


@pytest.mark.fault
def test_divergence_stops_and_keeps_the_last_good_checkpoint(tmp_path):
    config = replace(recipe.SHORT, steps=500, optimiser=Optimiser(learning_rate=1e3, warm_up=0, clip=1e9))
    with pytest.raises(NumericalError, match=r"loss (diverged at step \d+: .* against .* at best|became)") as caught:
        fit(recipe.small_unet(), recipe.denoising, recipe.SIZE, config, tmp_path)
    assert "learning_rate (now 1000)" in caught.value.hint

    # a gentle run that is hit later keeps what it had
    def hit(network, indices, step):
        return recipe.squares(network, indices, step) * (1.0 if step < 20 else 1e6)

    with pytest.raises(NumericalError, match="loss diverged at step 20"):
        fit(recipe.Linear(), hit, recipe.SIZE, recipe.SHORT, tmp_path / "late")
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
        return recipe.squares(network, indices, step)

    with pytest.raises(ResourceError) as caught:
        fit(recipe.Linear(), loss, recipe.SIZE, recipe.SHORT, tmp_path)
    assert caught.value.message == "out of memory at batch=4"

    def other(network, indices, step):
        raise RuntimeError("shapes differ")

    with pytest.raises(RuntimeError, match="shapes differ"):
        fit(recipe.Linear(), other, recipe.SIZE, recipe.SHORT, tmp_path)


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
    fit(
        recipe.Linear(),
        recipe.squares,
        recipe.SIZE,
        replace(recipe.SHORT, steps=3, supervision=Supervision(checkpoint_every=2)),
        tmp_path,
        progress=bar,
    )
    assert (bar.label, bar.total) == ("train", 3)
    assert [n for n, _ in bar.steps] == [1, 1, 1]
    assert bar.steps[-1][1].startswith("loss ")
