"""Fourier layers: resolution, shifts, odd grids, and the spectral convolution against its definition."""

from __future__ import annotations

import pytest
import torch
from made_networks import CONFIGS, batch, build, float32_only, periodic, randomised, small, smooth

from pdediff import models
from pdediff.models import fourier
from pdediff.models.neuraloperator import EvenSpectralConv

OPERATORS = [path for path in CONFIGS if float32_only(build(path))]


@pytest.mark.parametrize("spatial", [1, 2, 3])
@pytest.mark.parametrize("sizes", [(8, 12), (8, 9), (9, 16), (7, 6)], ids=str)
def test_resampling_is_exact_where_both_grids_resolve_the_field(sizes, spatial):
    coarse, fine = (smooth(2, 2, n, spatial).double() for n in sizes)
    torch.testing.assert_close(fourier.resample(coarse, fine.shape[2:]), fine, rtol=0, atol=1e-6)
    torch.testing.assert_close(fourier.resample(fine, coarse.shape[2:]), coarse, rtol=0, atol=1e-6)


def test_resampling_drops_what_the_coarse_grid_cannot_tell_apart():
    wave = torch.tensor([1.0, -1.0] * 4)[None, None]  # the Nyquist mode of 8 cells
    assert fourier.resample(wave, (12,)).abs().max() < 1e-6
    assert torch.equal(fourier.resample(wave, (8,)), wave)
    high = torch.cos(torch.arange(16) * (2 * torch.pi * 5 / 16))[None, None]
    assert fourier.resample(high, (8,)).abs().max() < 1e-6


def test_walls_get_room():
    x = torch.ones(1, 1, 16, 8)
    y = fourier.extended(x, ("zero", "circular"))
    assert y.shape == (1, 1, 20, 8)
    assert torch.equal(y[:, :, :16], x)
    assert not y[:, :, 16:].any()
    assert fourier.extended(x, ("circular", "circular")) is x
    # an even number of cells, which neuraloperator needs
    assert [fourier.extended(torch.ones(1, 1, n), ("zero",)).shape[-1] for n in (7, 10, 32, 64)] == [10, 14, 40, 80]


@pytest.mark.parametrize("space", [(9,), (8, 9), (7, 8), (6, 7, 8)], ids=str)
def test_spectral_convolution_against_its_definition(space):
    """Mode by mode: a wave goes out as the same wave times its multiplier, higher modes vanish."""
    d, modes = len(space), 5
    layer = fourier.SpectralConvolution(1, 1, modes, d).double()
    weight = torch.view_as_complex(layer.weight.detach())[0, 0]
    at = torch.meshgrid(*(torch.arange(n, dtype=torch.float64) * (2 * torch.pi / n) for n in space), indexing="ij")
    for wave in [(1,) * d, (*(-2,) * (d - 1), 1), (*(2,) * (d - 1), 0), (*(0,) * (d - 1), 2), (0,) * d]:
        phase = sum(k * a for k, a in zip(wave, at, strict=True))
        # the multiplier of a mode and that of its mirror image, which a real field ties together
        factor = weight[wave]
        if wave[-1] == 0:
            factor = (factor + weight[tuple(-k for k in wave)].conj()) / 2
        expected = (factor * torch.exp(1j * phase)).real
        torch.testing.assert_close(layer(torch.cos(phase)[None, None])[0, 0], expected, rtol=0, atol=1e-12)
    high = torch.cos(3 * at[-1])[None, None]
    assert layer(high).abs().max() < 1e-12


@pytest.mark.parametrize("space", [(9, 8), (8, 9), (9, 11), (9, 8, 7)], ids=str)
def test_neuraloperators_layer_is_right_on_odd_grids(space):
    layer = EvenSpectralConv(2, 2, (4,) * len(space))
    x, _ = batch((2, *space), n=2)
    layer.requires_grad_(False)
    along = tuple(range(2, x.ndim))
    for shift in ((1,) * len(space), (2, *(0,) * (len(space) - 1))):
        y = layer(x).roll(shift, along)
        torch.testing.assert_close(layer(x.roll(shift, along)), y, rtol=0, atol=2e-6 * float(y.abs().max()))


@pytest.mark.parametrize("path", OPERATORS, ids=lambda p: p.stem)
@pytest.mark.parametrize("spatial", [1, 2])
def test_operators_agree_on_two_grids(path, spatial):
    """A band-limited input at 32 and 64 cells: what differs is the aliasing of the activations."""
    network = randomised(periodic(small(path)).build(2, spatial, seed=0))
    label = torch.tensor([0.3, -0.2])
    with torch.no_grad():
        coarse, fine = (network(smooth(2, 2, n, spatial, modes=1), label) for n in (32, 64))
        other = network(smooth(2, 2, 32, spatial, modes=1, seed=1), label)
    apart = (coarse - fine[(..., *(slice(None, None, 2),) * spatial)]).abs().max()
    assert apart < 1e-3 * (coarse - other).abs().max()


def test_a_convolution_does_not_agree_on_two_grids():
    """The bound above tells operators from networks whose stencils shrink with the cells."""
    network = randomised(models.DilatedResNet(width=8, blocks=1, padding="circular").build(2, 1, seed=0))
    label = torch.tensor([0.3, -0.2])
    coarse, fine = (network(smooth(2, 2, n, 1, modes=1), label) for n in (32, 64))
    other = network(smooth(2, 2, 32, 1, modes=1, seed=1), label)
    assert (coarse - fine[..., ::2]).abs().max() > 2e-2 * (coarse - other).abs().max()


def test_factors_have_the_share_of_parameters_that_rank_says():
    dense, factorised = (
        sum(p.numel() for name, p in made.build(1, 2, 0).named_parameters() if "convs" in name and "bias" not in name)
        for made in (models.FNO(), models.TFNO(rank=0.1))
    )
    assert factorised == pytest.approx(0.1 * dense, rel=0.1)
