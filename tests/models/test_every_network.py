"""What each network with a config must do: start at zero, learn, obey its labels, its seed and its symmetries."""

from __future__ import annotations

import hashlib
import json
import subprocess
import sys

import numpy as np
import pytest
import torch
from made_networks import CONFIGS, batch, build, float32_only, periodic, randomised, small, smooth

from pdediff import checkpoint, config, models

every = pytest.mark.parametrize("path", CONFIGS, ids=lambda p: p.stem)
dimensions = pytest.mark.parametrize("spatial", [1, 2, 3])


@every
@dimensions
def test_starts_at_zero_and_trains_every_weight(path, spatial):
    network = build(path).build(2, spatial, seed=0, inputs=3, labels=3)
    x, label = batch((3, *(16,) * spatial), n=2, labels=3)
    assert torch.equal(network(x, label), torch.zeros(2, 2, *(16,) * spatial))  # F = 0: the preconditioner is all
    randomised(network)(x, label).square().sum().backward()
    dead = [name for name, p in network.named_parameters() if p.grad is None or not p.grad.abs().max() > 0]
    assert dead == []
    gradients = [p.grad.clone() for p in network.parameters()]
    network.zero_grad()
    network(x, label).square().sum().backward()
    assert all(torch.equal(p.grad, g) for p, g in zip(network.parameters(), gradients, strict=True))


@every
def test_overfits_one_batch(path):
    """A smooth map that needs the labels; 150 steps of Adam take its error down by a factor of 100."""
    network = periodic(small(path)).build(1, 1, seed=0, inputs=2, labels=2)
    x, (_, label) = smooth(4, 2, 16, 1), batch((1,), n=4, labels=2)
    target = label[:, 1, None, None] * x[:, :1].roll(1, -1) + x[:, 1:] * x[:, :1]
    optimiser = torch.optim.Adam(network.parameters(), 1e-2)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimiser, 150)
    for _ in range(150):
        optimiser.zero_grad()
        loss = (network(x, label) - target).square().mean()
        loss.backward()
        optimiser.step()
        schedule.step()
    # the first loss is that of zero
    assert float(loss.detach()) < 0.01 * float(target.square().mean())


@every
@pytest.mark.parametrize("spatial", [1, 2])
def test_each_label_matters_for_its_own_row(path, spatial):
    network = randomised(small(path).build(2, spatial, seed=0, inputs=3, labels=3))
    x, label = batch((3, *(12,) * spatial), labels=3)
    before = network(x, label)
    for column in range(3):
        other = label.clone()
        other[1, column] += 0.3
        change = (network(x, other) - before).abs().flatten(1).amax(1)
        assert change[1] > 1e-4
        assert change[0] == 0
        assert change[2] == 0
    # each label has weights of its own
    swapped = network(x, label[:, [0, 2, 1]])
    assert (swapped - before).abs().flatten(1).amax(1).min() > 1e-4


@every
def test_one_label_may_be_a_vector(path):
    network = randomised(small(path).build(1, 1, seed=0))
    x, label = batch((1, 16))
    assert torch.equal(network(x, label), network(x, label[:, None]))
    with pytest.raises(ValueError, match=r"network takes labels \(batch, 1\), not \(3, 2\)"):
        network(x, torch.zeros(3, 2))


@every
@pytest.mark.parametrize("shape", [(1, 9), (2, 33), (1, 9, 13), (2, 10, 16), (1, 9, 11, 8)], ids=str)
def test_any_grid(path, shape):
    network = randomised(small(path).build(shape[0], len(shape) - 1, seed=0))
    x, label = batch(shape)
    y = network(x, label)
    assert y.shape == x.shape
    assert y.isfinite().all()
    # rows are independent: another neighbour changes nothing but the last bits
    torch.testing.assert_close(network(x[:1], label[:1]), y[:1], rtol=1e-4, atol=1e-5)
    assert (y.std(dim=tuple(range(1, y.ndim))) > 0).all()


def stride(network_config) -> int:
    """Cells by which a periodic network may be shifted."""
    match network_config:
        case models.UNet():
            return network_config.patch * 2 ** (len(network_config.widths) - 1)
        case models.UNO():
            return 2 ** (len(network_config.widths) - 1)
        case models.ScOT():
            return network_config.patch * 2 ** (len(network_config.depths) - 1) * network_config.window
    return 1


@every
@dimensions
def test_periodic_networks_commute_with_shifts(path, spatial):
    made = periodic(small(path))
    network, step = randomised(made.build(1, spatial, seed=0)), stride(made)
    size = max(2 * step, 10)
    x, label = batch((1, *(size,) * spatial), n=2)
    if not float32_only(made):
        network, x, label = network.double(), x.double(), label.double()
    along, shift = tuple(range(2, 2 + spatial)), (*(0,) * (spatial - 1), step)
    with torch.no_grad():
        y, tolerance = network(x, label), 1e-5 if float32_only(made) else 1e-10
        for by in (shift, shift[::-1]):
            shifted = network(x.roll(by, along), label)
            torch.testing.assert_close(shifted, y.roll(by, along), rtol=0, atol=tolerance * float(y.abs().max()))
    assert (y.roll(shift, along) - y).abs().max() > y.std()


@every
def test_walls_are_felt(path):
    made = small(path)
    told = type(made)(**{**made.__dict__, "padding": "zero", "positions": True})
    network, step = randomised(told.build(1, 1, seed=0)), stride(made)
    x, label = batch((1, 2 * step if step > 4 else 12))
    y = network(x, label)
    assert (network(x.roll(step, -1), label) - y.roll(step, -1)).abs().max() > 0.1 * y.std()


@every
def test_seed_fixes_the_weights_and_global_state_is_untouched(path):
    torch.manual_seed(5)
    np.random.seed(5)
    before, before_np = torch.get_rng_state(), np.random.get_state()[1].copy()
    first, again, other = (small(path).build(2, 2, seed, labels=2).state_dict() for seed in (3, 3, 4))
    assert torch.equal(before, torch.get_rng_state())
    assert np.array_equal(before_np, np.random.get_state()[1])
    torch.manual_seed(99)
    later = small(path).build(2, 2, 3, labels=2).state_dict()
    assert all(torch.equal(first[k], again[k]) and torch.equal(first[k], later[k]) for k in first)
    assert any(not torch.equal(first[k], other[k]) for k in first)
    assert all(isinstance(t, torch.Tensor) for t in first.values())  # nothing that would need a pickle


@every
def test_jacobian_products_batch(path):
    """Guidance pushes many cotangents through one pass: vmap over the VJP gives what a loop gives."""
    network = randomised(small(path).build(1, 2, seed=0))
    x, label = batch((1, 10, 10), n=1)
    _, pull = torch.func.vjp(lambda v: network(v, label), x)
    rows = torch.randn((3, *x.shape), generator=torch.Generator().manual_seed(0))
    together = torch.func.vmap(pull)(rows)[0]
    torch.testing.assert_close(together, torch.stack([pull(row)[0] for row in rows]), rtol=1e-4, atol=1e-5)


@every
def test_forward_derivatives(path):
    """The network's curvature along a direction: forward mode gives what reverse mode gives."""
    network = randomised(small(path).build(1, 1, seed=0))
    x, label = batch((1, 12), n=2)
    direction, cotangent = batch((1, 12), n=2, seed=2)[0], batch((1, 12), n=2, seed=3)[0]
    _, along = torch.func.jvp(lambda v: network(v, label), (x,), (direction,))
    _, pull = torch.func.vjp(lambda v: network(v, label), x)
    torch.testing.assert_close((along * cotangent).sum(), (pull(cotangent)[0] * direction).sum(), rtol=1e-3, atol=1e-4)


@every
def test_mixed_precision(path):
    """Under autocast the answer is that of float32 to the digits of bfloat16."""
    network = randomised(small(path).build(1, 2, seed=0))
    x, label = batch((1, 12, 12), n=2)
    exact = network(x, label)
    with torch.autocast("cpu", torch.bfloat16):
        y = network(x, label)
    y.float().square().sum().backward()
    assert all(p.grad.isfinite().all() for p in network.parameters())
    assert (y.float() - exact).abs().max() < 0.1 * exact.std()  # 8 bits: 0.4 % a rounding, a few dozen layers


LOAD = """
import hashlib, sys
import torch
from pathlib import Path
from pdediff import checkpoint, config
for run in sorted(Path(sys.argv[1]).iterdir()):
    tensors, meta = checkpoint.load(run)
    network = config.build("network", meta["network"]).build(1, 1, 0, inputs=2, labels=2)
    network.load_state_dict(tensors)
    y = network(torch.linspace(-1, 1, 48).reshape(1, 2, 24), torch.tensor([[0.1, 0.2]]))
    print(run.name, hashlib.sha256(y.detach().numpy().tobytes()).hexdigest())
"""


def test_weights_survive_a_checkpoint_and_a_fresh_process(tmp_path):
    expected = {}
    for path in CONFIGS:
        made = small(path)
        network = randomised(made.build(1, 1, seed=0, inputs=2, labels=2))
        checkpoint.save(tmp_path / path.stem, 1, network.state_dict(), {"network": config.to_dict(made)}, final=True)
        y = network(torch.linspace(-1, 1, 48).reshape(1, 2, 24), torch.tensor([[0.1, 0.2]]))
        expected[path.stem] = hashlib.sha256(y.detach().numpy().tobytes()).hexdigest()
    command = [sys.executable, "-c", LOAD, str(tmp_path)]
    told = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    assert json.dumps(dict(line.split() for line in told.splitlines())) == json.dumps(expected)
