"""Networks: sizes, seeds, the noise level, walls and periods, and gradients."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
import yaml

from pdediff import models
from pdediff.errors import ConfigError
from pdediff.models import FNO, UNet
from pdediff.models.embedding import positions

CONFIGS = sorted((Path(__file__).parents[2] / "configs" / "network").glob("*.yaml"))
SMALL = {"unet": UNet(widths=(8, 16), features=16), "fno": FNO(modes=5, width=8, layers=2, features=16)}


def build(path):
    node = yaml.safe_load(path.read_text())
    kind = node.pop("kind")
    assert kind in models.__all__
    return getattr(models, kind)(**{k: tuple(v) if isinstance(v, list) else v for k, v in node.items()})


def randomised(network, seed=0):
    """All weights random: the output layers start at zero, which would hide everything behind them."""
    draw = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for p in network.parameters():
            p.copy_(torch.randn(p.shape, generator=draw, dtype=p.dtype) * (0.5 / max(1, p[0].numel()) ** 0.5))
    return network


def batch(shape, n=3, seed=1):
    draw = torch.Generator().manual_seed(seed)
    return torch.randn((n, *shape), generator=draw), torch.randn(n, generator=draw)


@pytest.mark.parametrize("path", CONFIGS, ids=lambda p: p.stem)
@pytest.mark.parametrize("space", [(16,), (16, 16)], ids=str)
def test_every_config_starts_at_zero_and_trains_every_weight(path, space):
    network = build(path).build(2, len(space), seed=0)
    x, label = batch((2, *space), n=2)
    assert torch.equal(network(x, label), torch.zeros_like(x))  # F = 0: the preconditioner alone is the denoiser
    randomised(network)(x, label).square().sum().backward()
    dead = [name for name, p in network.named_parameters() if p.grad is None or not p.grad.abs().max() > 0]
    assert dead == []


@pytest.mark.parametrize("kind", SMALL)
@pytest.mark.parametrize("shape", [(1, 5), (2, 33), (1, 7, 5), (3, 16, 10), (2, 9, 8)], ids=str)
@pytest.mark.parametrize("patch", [1, 2])
def test_any_grid(kind, shape, patch):
    config = SMALL[kind] if kind == "fno" else replace(SMALL[kind], patch=patch)
    network = randomised(config.build(shape[0], len(shape) - 1, seed=0))
    x, label = batch(shape)
    y = network(x, label)
    assert y.shape == x.shape
    assert y.isfinite().all()
    # rows are independent: another neighbour changes nothing but the last bits
    torch.testing.assert_close(network(x[:1], label[:1]), y[:1], rtol=1e-4, atol=1e-5)
    assert (y.std(dim=tuple(range(1, y.ndim))) > 0).all()


@pytest.mark.parametrize("kind", SMALL)
@pytest.mark.parametrize("spatial", [1, 2])
def test_noise_label_matters_per_row(kind, spatial):
    network = randomised(SMALL[kind].build(2, spatial, seed=0))
    x, label = batch((2, *(8,) * spatial))
    other = label.clone()
    other[1] += 0.3
    change = (network(x, other) - network(x, label)).abs().flatten(1).amax(1)
    assert change[1] > 1e-4
    assert change[0] == 0
    assert change[2] == 0


@pytest.mark.parametrize("kind", SMALL)
def test_seed_fixes_the_weights_and_global_state_is_untouched(kind):
    torch.manual_seed(5)
    np.random.seed(5)
    before, before_np = torch.get_rng_state(), np.random.get_state()[1].copy()
    first, again, other = (SMALL[kind].build(2, 2, seed).state_dict() for seed in (3, 3, 4))
    assert torch.equal(before, torch.get_rng_state())
    assert np.array_equal(before_np, np.random.get_state()[1])
    torch.manual_seed(99)
    later = SMALL[kind].build(2, 2, 3).state_dict()
    assert all(torch.equal(first[k], again[k]) and torch.equal(first[k], later[k]) for k in first)
    assert any(not torch.equal(first[k], other[k]) for k in first)
    assert all(isinstance(t, torch.Tensor) for t in first.values())  # nothing that would need a pickle


@pytest.mark.parametrize("spatial", [1, 2])
def test_gradients_against_finite_differences(spatial):
    network = randomised(SMALL["unet"].build(1, spatial, seed=0)).double()
    x, label = (t.double() for t in batch((1, *(6,) * spatial), n=2))
    x.requires_grad_()
    assert torch.autograd.gradcheck(lambda v: network(v, label), (x,), atol=1e-6, fast_mode=True)
    for name, p in list(network.named_parameters())[::5]:
        direction = torch.ones_like(p)
        (slope,) = torch.autograd.grad(network(x, label).square().sum(), p)
        values = []
        for step in (1e-5, -1e-5):
            with torch.no_grad():
                p.add_(step * direction)
                values.append(network(x, label).square().sum())
                p.sub_(step * direction)
        # central difference in float64: error about step^2 and 1e-16 / step of the value
        torch.testing.assert_close(
            (values[0] - values[1]) / 2e-5, slope.sum(), rtol=1e-5, atol=1e-6, msg=lambda m, n=name: f"{n}: {m}"
        )


def test_fno_gradients_against_finite_differences():
    network = randomised(SMALL["fno"].build(1, 1, seed=0))
    x, label = batch((1, 8), n=2)
    direction = torch.randn(x.shape, generator=torch.Generator().manual_seed(2))
    value = network(x.requires_grad_(), label).square().sum()
    (slope,) = torch.autograd.grad(value, x)
    with torch.no_grad():
        ends = [network(x + s * direction, label).square().sum() for s in (1e-2, -1e-2)]
    # float32: the ends carry about 1e-6 of the value, over a step of 2e-2
    torch.testing.assert_close(
        (ends[0] - ends[1]) / 2e-2, (slope * direction).sum(), rtol=5e-3, atol=1e-4 * float(value.detach())
    )


def test_periodic_network_commutes_with_shifts():
    config = UNet(widths=(8, 16), features=16, padding="circular")
    network = randomised(config.build(1, 2, seed=0)).double()
    x, label = (t.double() for t in batch((1, 8, 8)))
    # a shift by the coarsest cell, two points, is exact
    torch.testing.assert_close(network(x.roll((2, 4), (2, 3)), label), network(x, label).roll((2, 4), (2, 3)))
    walls = randomised(replace(config, padding=("zero", "circular")).build(1, 2, seed=0)).double()
    torch.testing.assert_close(walls(x.roll(2, 3), label), walls(x, label).roll(2, 3))
    assert (walls(x.roll(2, 2), label) - walls(x, label).roll(2, 2)).abs().max() > 1e-3


def test_positions_are_cell_centres():
    assert positions((4,), (0,), torch.device("cpu"), torch.float64).tolist() == [[-0.75, -0.25, 0.25, 0.75]]
    two = positions((2, 4), (0, 1), torch.device("cpu"), torch.float64)
    assert two[:, 1, 3].tolist() == [0.5, 0.75]
    # on a constant field, a cell out of reach of the walls (six convolutions) knows where it is only if told
    flat, label = torch.zeros(2, 1, 20, 20), torch.tensor([0.1, -0.4])
    middle = [
        randomised(UNet(widths=(8,), features=16, positions=told).build(1, 2, 0))(flat, label)[:, :, 8:12, 8:12]
        for told in (False, True)
    ]
    spread = [float((m - m[:, :, :1, :1]).abs().max().detach()) for m in middle]
    assert spread[0] < 1e-5
    assert spread[1] > 1e-3


def test_jacobian_products_batch():
    """Guidance pushes many cotangents through one pass: vmap over the VJP gives what a loop gives."""
    network = randomised(SMALL["unet"].build(1, 2, seed=0)).double()
    x, label = (t.double() for t in batch((1, 6, 6), n=1))
    _, pull = torch.func.vjp(lambda v: network(v, label), x)
    rows = torch.randn((4, *x.shape), generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    together = torch.func.vmap(pull)(rows)[0]
    torch.testing.assert_close(together, torch.stack([pull(row)[0] for row in rows]))


@pytest.mark.parametrize(
    ("config", "spatial", "line"),
    [
        (UNet(), 3, "UNet works in 1 or 2 space dimensions; the fields have 3"),
        (UNet(widths=(12,)), 2, "network.widths=[12] must be multiples of 8, one for each level"),
        (UNet(widths=()), 2, "network.widths=[] must be multiples of 8, one for each level"),
        (UNet(padding=("zero",)), 2, "network.padding=['zero'] must have one word for each of 2 dimensions"),
        (FNO(), 4, "FNO works in 1, 2 or 3 space dimensions; the fields have 4"),
    ],
)
def test_options_that_do_not_fit(config, spatial, line):
    with pytest.raises(ConfigError) as caught:
        config.build(2, spatial, 0)
    assert caught.value.message == line


def test_fno_on_too_coarse_a_grid():
    with pytest.raises(ValueError, match=r"FNO with modes=5 needs as many cells .*\(8, 4\)"):
        SMALL["fno"].build(1, 2, 0)(torch.zeros(1, 1, 8, 4), torch.zeros(1))
