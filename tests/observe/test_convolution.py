"""Periodic convolutions: by hand, exact on waves, diagonal in Fourier space, the same on every grid."""

from __future__ import annotations

import math

import pytest
import torch

from pdediff.errors import DataError
from pdediff.observe import Convolution, GaussianBlur, Grid, LowPass, Vorticity, rows_of


def vector(*values: float) -> torch.Tensor:
    return torch.tensor(values, dtype=torch.float64)


def waves(n: int) -> torch.Tensor:
    """cos(2 pi x / L) + 3 cos(2 pi 3 x / L) on a period of L = 2."""
    x = Grid.cells((n,), (2.0,), periodic=True).points(0)
    return ((math.pi * x).cos() + 3 * (3 * math.pi * x).cos())[None, None]


def test_convolution_by_hand():
    """The kernel (1, 2, 0, 0) adds twice the left neighbour."""
    h = Convolution(vector(1, 2, 0, 0))
    assert h(vector(1, 0, 0, 5)[None, None]).flatten().tolist() == pytest.approx([11, 2, 0, 5], abs=1e-13)
    expected = torch.tensor([[1, 0, 0, 2], [2, 1, 0, 0], [0, 2, 1, 0], [0, 0, 2, 1]]).double()
    torch.testing.assert_close(rows_of(h, torch.zeros(1, 4).double())[:, 0], expected, rtol=0, atol=1e-14)


def test_blur_damps_each_wave_by_hand():
    """Width 0.2 takes exp(-(pi 0.2)^2 / 2) = 0.8209 off wave 1 and exp(-(3 pi 0.2)^2 / 2) = 0.1692 off wave 3."""
    x = Grid.cells((16,), (2.0,), periodic=True).points(0)
    one, three = math.exp(-0.5 * (math.pi * 0.2) ** 2), math.exp(-0.5 * (3 * math.pi * 0.2) ** 2)
    assert (round(one, 4), round(three, 4)) == (0.8209, 0.1692)
    expected = one * (math.pi * x).cos() + 3 * three * (3 * math.pi * x).cos()
    torch.testing.assert_close(GaussianBlur(0.2, (2.0,))(waves(16))[0, 0], expected, rtol=0, atol=1e-13)


def test_blur_is_the_convolution_with_a_gaussian():
    """Against the sum over cells of the periodic Gaussian density, whose quadrature is exact to rounding here."""
    grid = Grid.cells((48, 20), (2.0, 1.0), periodic=True)
    squares = 0
    for axis, length in enumerate((2.0, 1.0)):
        images = grid.points(axis)[:, None] + length * torch.arange(-4, 5)
        one = torch.exp(-0.5 * (images / 0.15) ** 2).sum(1) / (0.15 * math.sqrt(2 * math.pi))
        squares = one[:, None] if axis == 0 else squares * one
    x = torch.randn(2, 3, 48, 20, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    direct = Convolution(squares * grid.step[0] * grid.step[1])(x)
    # What 20 points do not resolve of the Gaussian: exp(-(pi 20 0.15)^2 / 2) = 5e-20.
    torch.testing.assert_close(GaussianBlur(0.15, (2.0, 1.0))(x), direct, rtol=0, atol=1e-12)


@pytest.mark.parametrize("h", [GaussianBlur(0.2, (2.0,)), LowPass(0.9, (2.0,))])
def test_a_finer_grid_reads_the_same(h):
    torch.testing.assert_close(h(waves(32))[..., ::2], h(waves(16)), rtol=0, atol=1e-13)


def test_low_pass_by_hand():
    """Of the wavelengths 2 and 2/3, a limit of 2 (inclusive) keeps the first, 0.6 both, 2.1 the mean alone: 0."""
    x = Grid.cells((16,), (2.0,), periodic=True).points(0)
    long = (math.pi * x).cos()
    for limit, expected in ((2.0, long), (0.6, waves(16)[0, 0]), (2.1, 0 * x)):
        torch.testing.assert_close(LowPass(limit, (2.0,))(waves(16))[0, 0], expected, rtol=0, atol=1e-13)


def test_low_pass_is_a_projection_on_a_ball_of_waves():
    h, shape = LowPass(0.4, (1.0, 2.0)), (12, 20)
    x = torch.randn(1, 1, *shape, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    torch.testing.assert_close(h(h(x)), h(x), rtol=0, atol=1e-13)
    # |m| in waves per unit length: (m_y / 1)^2 + (m_x / 2)^2 <= (1 / 0.4)^2.
    m_y, m_x = torch.fft.fftfreq(12, 1 / 12)[:, None], torch.fft.rfftfreq(20, 1 / 20)
    assert torch.equal(h.spectrum(shape).bool(), m_y**2 + (m_x / 2) ** 2 <= 6.25)


@pytest.mark.parametrize("shape", [(6, 5), (5, 6)])
@pytest.mark.parametrize("kind", ["kernel", "blur", "low-pass"])
def test_spectrum_holds_the_eigenvalues(kind, shape):
    """The singular values of the matrix are the magnitudes of the spectrum over all modes."""
    kernel = torch.randn(shape, generator=torch.Generator().manual_seed(2), dtype=torch.float64)
    h = {"kernel": Convolution(kernel), "blur": GaussianBlur(0.1, (1.0, 1.0)), "low-pass": LowPass(0.5, (1.0, 1.0))}[
        kind
    ]
    found = torch.linalg.svdvals(rows_of(h, torch.zeros(1, *shape).double()).flatten(1))
    half = h.spectrum(shape).abs()
    twice = torch.full((half.shape[-1],), 2)
    twice[0] = 1
    if shape[-1] % 2 == 0:
        twice[-1] = 1
    full = half.flatten().repeat_interleave(twice.repeat(shape[0]))
    torch.testing.assert_close(found, full.sort(descending=True).values, rtol=0, atol=1e-12)


def test_spectrum_of_vorticity_maps_modes():
    """Modes of w = sum over channels of spectrum * modes of (u, v), apart from the highest modes of an even grid."""
    h, shape = Vorticity((1.0, 2.0)), (7, 9)
    x = torch.randn(1, 2, *shape, generator=torch.Generator().manual_seed(3), dtype=torch.float64)
    modes = (h.spectrum(shape) * torch.fft.rfft2(x)).sum(1)
    torch.testing.assert_close(torch.fft.rfft2(h(x))[:, 0], modes, rtol=0, atol=1e-11)
    even = h.spectrum((6, 8))
    assert (even[0, 3].abs().max(), even[1, :, 4].abs().max()) == (0, 0)
    assert even[0, 2, 0] == -2j * 2 * math.pi


def test_time_in_front_is_left_alone():
    x = torch.randn(2, 1, 3, 8, 8, generator=torch.Generator().manual_seed(4), dtype=torch.float64)
    h = GaussianBlur(0.1, (1.0, 1.0))
    torch.testing.assert_close(h(x)[:, :, 1], h(x[:, :, 1]), rtol=0, atol=1e-14)


@pytest.mark.parametrize("lengths", [(1.0,), (1.0, 0.0), (1.0, 1.0, 1.0)])
def test_wrong_lengths_are_refused(lengths):
    with pytest.raises(DataError, match="one positive length an axis"):
        GaussianBlur(0.1, lengths).spectrum((4, 4))


def test_a_kernel_of_another_grid_is_refused():
    with pytest.raises(DataError, match=r"kernel has \(4,\) points, the field \(8,\)"):
        Convolution(torch.ones(4))(torch.zeros(1, 1, 8))


@pytest.mark.parametrize("h", [GaussianBlur(0.1, (1.0, 1.0)), Vorticity((1.0, 1.0))])
def test_first_used_in_inference_mode(h):
    """What is kept from a call without gradients serves one with them; both precisions stay apart."""
    x = torch.randn(2, 2, 8, 8, generator=torch.Generator().manual_seed(5), dtype=torch.float64)
    with torch.inference_mode():
        first = h(x)
    at = x.clone().requires_grad_()
    (gradient,) = torch.autograd.grad(h(at).square().sum(), at)
    torch.testing.assert_close(gradient, h.vjp(x, 2 * first.clone()), rtol=1e-12, atol=1e-12)
    torch.testing.assert_close(h(x.float()).double(), first.clone(), rtol=1e-5, atol=1e-4)
    torch.testing.assert_close(h(x), first.clone(), rtol=0, atol=0)
