"""Wavelets: hand-worked coefficients, orthonormality, adjoint, filters against their defining equations."""

from __future__ import annotations

import math

import pytest
import torch

from pdediff.errors import DataError
from pdediff.models.wavelets import _FILTERS, Family, Wavelet

FAMILIES: list[Family] = ["haar", "db2", "db3"]
SPACES = [(16,), (16, 8), (8, 8, 16)]


def matrix(wavelet: Wavelet, shape: tuple[int, ...]) -> torch.Tensor:
    """W as a matrix (coefficients, values)."""
    size = math.prod(shape)
    return wavelet(torch.eye(size, dtype=torch.float64).reshape(size, *shape)).flatten(1).T


@pytest.mark.parametrize("space", SPACES)
@pytest.mark.parametrize("levels", [1, 2, 3])
@pytest.mark.parametrize("family", FAMILIES)
def test_the_inverse_is_exact_and_the_adjoint(family: Family, levels: int, space: tuple[int, ...]) -> None:
    wavelet, g = Wavelet(family, levels), torch.Generator().manual_seed(0)
    x = torch.randn(3, 2, *space, generator=g, dtype=torch.float64)
    c = wavelet(x)
    assert c.shape[1:] == wavelet.shape((2, *space))
    assert float((wavelet.inverse(c) - x).abs().max()) < 1e-12
    other = torch.randn(c.shape, generator=g, dtype=torch.float64)
    assert float((wavelet(wavelet.inverse(other)) - other).abs().max()) < 1e-12
    assert float((c * other).sum()) == pytest.approx(float((x * wavelet.inverse(other)).sum()), abs=1e-11)


@pytest.mark.parametrize("family", FAMILIES)
def test_the_map_is_orthonormal(family: Family) -> None:
    w = matrix(Wavelet(family, 2), (2, 8, 4))
    assert float((w @ w.T - torch.eye(len(w), dtype=torch.float64)).abs().max()) < 1e-13


def test_haar_by_hand() -> None:
    x = torch.tensor([[[[1.0, 2.0], [3.0, 8.0]]]])
    # averages first; then details along the last axis, along the first, along both
    assert Wavelet("haar")(x).flatten().tolist() == pytest.approx([7.0, -3.0, -4.0, 2.0])
    line = torch.tensor([[[4.0, 2.0, 5.0, 5.0]]])
    two = Wavelet("haar", 2)(line)
    # coarsest details after the average, then the finer ones, in tiles
    assert two.flatten().tolist() == pytest.approx([8.0, -2.0, math.sqrt(2.0), 0.0])


def test_db2_by_hand() -> None:
    """A unit at the third of four points: a_k takes h_2 at k = 0 and h_0 at k = 1."""
    low = [h / (4 * math.sqrt(2)) for h in (1 + 3**0.5, 3 + 3**0.5, 3 - 3**0.5, 1 - 3**0.5)]
    c = Wavelet("db2")(torch.tensor([[[0.0, 0.0, 1.0, 0.0]]], dtype=torch.float64))
    assert c[0, 0].tolist() == pytest.approx([low[2], low[0]])
    assert c[0, 1].tolist() == pytest.approx([low[1], low[3]])


@pytest.mark.parametrize(("family", "moments"), [("haar", 1), ("db2", 2), ("db3", 3)])
def test_details_do_not_see_polynomials(family: Family, moments: int) -> None:
    """Daubechies' filters are those of their length with the most vanishing moments: it fixes them up to mirror."""
    n = torch.arange(32, dtype=torch.float64)
    for power in range(moments + 1):
        details = Wavelet(family)(((n / 32) ** power)[None, None])[0, 1, :12]  # away from the jump of the period
        assert (float(details.abs().max()) < 1e-13) == (power < moments)
    assert sum(_FILTERS[family]) == pytest.approx(math.sqrt(2.0), abs=1e-14)
    assert len(_FILTERS[family]) == 2 * moments


def test_fields_do_not_mix_and_gradients_pass() -> None:
    wavelet = Wavelet("db2", 2)
    x = torch.zeros(1, 3, 8, 8, dtype=torch.float64)
    x[0, 1] = torch.randn(8, 8, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    c = wavelet(x)
    alone = wavelet(x[:, 1:2])
    assert int((c != 0).flatten(2).any(2).sum()) == alone.shape[1]
    assert float(c.norm()) == pytest.approx(float(alone.norm()), rel=1e-14)
    y = x.clone().requires_grad_()
    (gradient,) = torch.autograd.grad((wavelet(y) * c).sum(), y)
    assert float((gradient - x).abs().max()) < 1e-12


def test_grids_and_channels_that_do_not_divide_are_told() -> None:
    with pytest.raises(DataError, match="2 levels of wavelets need sides that 4 divides; the grid is 8x6"):
        Wavelet("haar", 2)(torch.zeros(1, 1, 8, 6))
    with pytest.raises(DataError, match="come in 16 channels a field, not 8 in all"):
        Wavelet("haar", 2).inverse(torch.zeros(1, 8, 2, 2))
