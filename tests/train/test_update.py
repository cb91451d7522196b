"""Closed forms of rate, average, order of the data and Adam."""

import math
from dataclasses import replace

import pytest
import torch
import train_recipe as recipe

from pdediff import checkpoint
from pdediff.train import FitConfig, Optimiser, Order, ema_decay, fit, learning_rate
from pdediff.train.state import State


def test_learning_rate_by_hand():
    config = FitConfig(steps=10, optimiser=Optimiser(learning_rate=1.0, warm_up=3))
    assert [learning_rate(config, s) for s in range(4)] == [0.25, 0.5, 0.75, 1.0]
    # half a cosine over the seven steps after the warm-up
    assert learning_rate(config, 5) == pytest.approx(0.5 + 0.5 * math.cos(2 * math.pi / 7), abs=1e-15)
    assert learning_rate(config, 10) == pytest.approx(0.0, abs=1e-15)
    assert learning_rate(replace(config, optimiser=Optimiser(learning_rate=1.0, warm_up=0)), 5) == pytest.approx(
        0.5, abs=1e-15
    )


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
    network = recipe.Linear()
    slope = torch.tensor([3.0, -0.5])
    config = FitConfig(steps=50, batch=2, ema_half_life=8.0, optimiser=Optimiser(learning_rate=0.1, warm_up=0))
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


@pytest.mark.parametrize("make", [recipe.small_unet, recipe.small_fno])
def test_update_is_adam_of_torch(make):
    """On channels-last and on complex weights, against torch's own unfused AdamW."""
    ours, theirs = make(), make()
    state = State(ours)
    reference = torch.optim.AdamW(theirs.parameters(), lr=1e-2, betas=(0.9, 0.99), weight_decay=0.1, foreach=False)
    for step in range(3):
        for network in (ours, theirs):
            network.zero_grad()
            recipe.denoising(network, torch.arange(4), step).mean().backward()
        state.update(state.gradients(), 1e-2, 0.1, 0.5)
        reference.step()
    for (name, a), b in zip(ours.named_parameters(), theirs.parameters(), strict=True):
        # order of float32 operations; 3 steps of 1e-2
        torch.testing.assert_close(a, b, rtol=1e-4, atol=1e-5, msg=lambda m, n=name: f"{n}: {m}")


def test_gradient_is_clipped_to_the_bound(tmp_path):
    """With Adam the size of a constant gradient cancels, so the clip is seen in the moments."""

    def steep(network, indices, step):
        return 1e3 * network(torch.tensor([[3.0, 4.0]])).expand(len(indices))

    network = recipe.Linear()
    fit(network, steep, recipe.SIZE, replace(recipe.SHORT, steps=1, optimiser=Optimiser(warm_up=2, clip=0.5)), tmp_path)
    moments = checkpoint.load_step(tmp_path)[2]
    # first moment after one step: (1 - 0.9) of the clipped gradient, 0.5 in the direction (0.6, 0.8)
    torch.testing.assert_close(moments["adam.first.weight"], 0.1 * torch.tensor([0.3, 0.4]), rtol=1e-5, atol=0)


@pytest.mark.slow
def test_overfits_one_batch_to_its_optimum(tmp_path):
    """Noise fixed per sample: the best loss is that of a lookup table, zero; a linear map can only reach 0.5."""

    def loss(network, indices, step):
        return recipe.denoising(network, indices, 0)

    config = FitConfig(steps=400, batch=recipe.SIZE, optimiser=Optimiser(learning_rate=5e-3, warm_up=20))
    network = recipe.small_unet()
    fit(network, lambda n, i, s: loss(n, torch.arange(recipe.SIZE), s), recipe.SIZE, config, tmp_path)
    assert float(loss(network, torch.arange(recipe.SIZE), 0).mean().detach()) < 0.01
