"""Networks: sizes, seeds, the noise level, walls and periods, and gradients."""

from dataclasses import replace

import pytest
import torch
import torch.nn.functional as F
from made_networks import batch, randomised

from pdediff.errors import ConfigError
from pdediff.models import FNO, TFNO, UNO, DilatedResNet, DyMixOp, ScOT, UNet
from pdediff.models.convolution import Convolution, pad_to_multiple, to_channels, to_space
from pdediff.models.embedding import LabelEmbedding, positions
from pdediff.models.unet import Attention

SMALL = {"unet": UNet(widths=(8, 16), features=16), "fno": FNO(modes=5, width=8, layers=2, features=16)}
EXACT = {  # those that work in double precision
    "unet": UNet(widths=(8, 16), features=16, attention=True),
    "dilated_resnet": DilatedResNet(width=8, blocks=1, dilations=(1, 4), features=16, padding="circular"),
    "scot": ScOT(width=16, features=16, window=2),
    "dymixop": DyMixOp(width=8, layers=2, modes=3, features=16),
}


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


@pytest.mark.parametrize("kind", EXACT)
@pytest.mark.parametrize("spatial", [1, 2])
def test_gradients_against_finite_differences(kind, spatial):
    network = randomised(EXACT[kind].build(1, spatial, seed=0)).double()
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


@pytest.mark.parametrize(
    ("config", "spatial", "line"),
    [
        (UNet(), 4, "UNet works in 1, 2 or 3 space dimensions; the fields have 4"),
        (UNet(widths=(12,)), 2, "network.widths=[12] must be multiples of 8, one for each level"),
        (UNet(widths=()), 2, "network.widths=[] must be multiples of 8, one for each level"),
        (UNet(padding=("zero",)), 2, "network.padding=['zero'] must have one word for each of 2 dimensions"),
        (FNO(), 4, "FNO works in 1, 2 or 3 space dimensions; the fields have 4"),
        (TFNO(padding=("zero",)), 2, "network.padding=['zero'] must have one word for each of 2 dimensions"),
        (UNO(modes=6), 2, "network.modes=6 must be at least 8 for 3 levels"),
        (UNO(widths=()), 2, "network.widths=[] needs an entry for each level"),
        (DilatedResNet(width=12), 1, "network.width=12 must be a multiple of 8"),
        (DyMixOp(width=12), 1, "network.width=12 must be a multiple of 8"),
        (ScOT(width=24), 1, "network.width=24 must be a multiple of 16"),
        (ScOT(depths=()), 1, "network.depths=[] needs a number of blocks for each level"),
    ],
)
def test_options_that_do_not_fit(config, spatial, line):
    with pytest.raises(ConfigError) as caught:
        config.build(2, spatial, 0)
    assert caught.value.message == line


@pytest.mark.parametrize("config", [FNO(), TFNO(), UNO(), DyMixOp()], ids=lambda c: type(c).__name__)
def test_too_coarse_a_grid(config):
    name = type(config).__name__
    with pytest.raises(ValueError, match=name + r" with modes=12 needs as many cells .*\(16, 8\)"):
        config.build(1, 2, 0)(torch.zeros(1, 1, 16, 8), torch.zeros(1))


def test_attention_leaves_the_other_weights_as_they_are():
    plain, more = (UNet(widths=(8, 16), features=16, attention=a).build(1, 2, seed=3) for a in (False, True))
    theirs = more.state_dict()
    assert all(torch.equal(theirs[name], weight) for name, weight in plain.state_dict().items())


def test_attention_over_all_cells():
    layer = randomised(Attention(64))
    x = torch.randn((2, 64, 3, 4), generator=torch.Generator().manual_seed(0))
    cells = F.group_norm(x, 8).flatten(2).transpose(1, 2) * layer.norm.weight + layer.norm.bias
    parts = layer.enter(cells).chunk(3, dim=-1)
    heads = (part.unflatten(-1, (2, 32)).transpose(1, 2) for part in parts)
    mixed = F.scaled_dot_product_attention(*heads).transpose(1, 2).flatten(2)
    torch.testing.assert_close(layer(x), x + layer.leave(mixed).transpose(1, 2).reshape(x.shape), rtol=1e-5, atol=1e-5)
    assert Attention(40).heads == 1


def test_labels_are_embedded_apart_and_added():
    embedding = randomised(LabelEmbedding(5, labels=2, frequencies=3))
    label = torch.tensor([[0.3, -0.7]])
    waves = 2**0.5 * torch.cat(
        [f(label[..., None] * torch.tensor([0.5, 0.5 * 2**2.5, 16.0])) for f in (torch.cos, torch.sin)], -1
    )
    first, second = embedding.layers[0], embedding.layers[2]
    hidden = waves[:, 0] @ first.weight.T + first.bias + waves[:, 1] @ embedding.others[0].weight.T
    torch.testing.assert_close(embedding(label), F.silu(second(F.silu(hidden))))


def test_convolution_with_spacing_around_a_period():
    layer = Convolution(1, 1, ("circular",), dilation=5)
    with torch.no_grad():
        layer.conv.weight.copy_(torch.tensor([[[1.0, 10.0, 100.0]]]))
    line = torch.tensor([[[1.0, 2.0, 3.0]]])
    # cell i gets cells i - 5, i and i + 5, which is i + 1, i and i - 1 on a ring of three
    assert layer(line).detach().tolist() == [[[1 * 2 + 10 * 1 + 100 * 3, 3 + 20 + 100, 1 + 30 + 200]]]
    walls = Convolution(1, 1, ("zero",), dilation=5)
    walls.load_state_dict(layer.state_dict())
    assert walls(line).detach().tolist() == [[[10.0, 20.0, 30.0]]]
    both = Convolution(1, 1, ("circular", "zero"), kernel=7)
    assert both(torch.zeros(1, 1, 2, 9)).shape == (1, 1, 2, 9)


@pytest.mark.parametrize("space", [(6,), (4, 6), (2, 4, 6)], ids=str)
def test_tiles(space):
    x = torch.randn((2, 3, *space), generator=torch.Generator().manual_seed(0))
    tiles = to_channels(x, 2)
    assert tiles.shape == (2, 3 * 2 ** len(space), *(n // 2 for n in space))
    assert torch.equal(to_space(tiles, 2), x)
    if len(space) == 2:
        assert torch.equal(tiles, F.pixel_unshuffle(x, 2))


def test_sizes_that_do_not_divide_are_continued():
    x = torch.tensor([[[1.0, 2.0, 3.0]]])
    assert pad_to_multiple(x, 8, ("circular",)).tolist() == [[[1, 2, 3, 1, 2, 3, 1, 2]]]
    assert pad_to_multiple(x, 4, ("zero",)).tolist() == [[[1, 2, 3, 3]]]


def test_difference_of_a_constant_is_nothing():
    """DyMixOp's difference loses constants: shifting its input by one leaves only the linear part."""
    layer = randomised(DyMixOp(width=8, layers=1, modes=3, features=4, padding="circular").build(1, 1, 0)).layers[0]
    layer.requires_grad_(False)
    for part in (layer.linear.conv, layer.dense[2]):
        part.weight.zero_()
        part.bias.zero_()
    layer.difference.conv.bias.zero_()
    layer.norm.weight.zero_()  # the input of the difference is the constant of the normalisation
    assert layer(torch.randn(2, 8, 9), torch.zeros(2, 4)).abs().max() < 1e-6
