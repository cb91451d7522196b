"""Attention in windows against the same attention written over all pairs of cells."""

from __future__ import annotations

import math

import pytest
import torch
import torch.nn.functional as F
from made_networks import randomised

from pdediff.models.windows import HEAD, LARGEST_BIAS, Axis, WindowAttention, cut, from_windows, to_windows


def window_of(cell: int, n: int, window: int, shift: int, periodic: bool) -> int:
    """Number of the window of a cell, from the definition."""
    return (cell - shift) % n // window if periodic else (cell - shift) // window


def over_all_pairs(layer: WindowAttention, x: torch.Tensor, axes: list[Axis]) -> torch.Tensor:
    """What the layer should give for `x (batch, *space, channel)`: cells of other windows get no weight."""
    space = x.shape[1:-1]
    cells = [tuple(c) for c in torch.cartesian_prod(*(torch.arange(n) for n in space)).reshape(-1, len(space)).tolist()]
    windows = [
        tuple(window_of(c, a.cells, a.window, a.shift, a.periodic) for c, a in zip(cell, axes, strict=True))
        for cell in cells
    ]
    together = torch.tensor([[a == b for b in windows] for a in windows])
    apart = torch.tensor([[[i - j for i, j in zip(a, b, strict=True)] for b in cells] for a in cells], dtype=x.dtype)
    for k, axis in enumerate(axes):
        if axis.periodic:  # the shorter way around; half way around, the negative one
            half = axis.cells // 2
            apart[..., k] = torch.remainder(apart[..., k] + half, axis.cells) - half
    spaced = apart.sign() * torch.log2(1 + (8 * apart / layer.window).abs()) / 3
    bias = LARGEST_BIAS * torch.sigmoid(layer.bias(spaced)).movedim(-1, 0)
    query, key, value = layer.enter(x.flatten(1, -2)).unflatten(-1, (3, layer.heads, HEAD)).permute(2, 0, 3, 1, 4)
    scores = torch.einsum("bhic,bhjc->bhij", F.normalize(query, dim=-1), F.normalize(key, dim=-1))
    scores = scores * layer.log_scale.clamp(max=math.log(100)).exp() + bias
    weights = scores.masked_fill(~together, -torch.inf).softmax(-1)
    out = layer.leave(torch.einsum("bhij,bhjc->bihc", weights, value).flatten(-2))
    return out.unflatten(1, space)


@pytest.mark.parametrize("padding", ["circular", "zero"])
@pytest.mark.parametrize("shifted", [False, True])
@pytest.mark.parametrize("space", [(8,), (10,), (3,), (4,), (8, 4), (5, 6), (4, 3, 5)], ids=str)
def test_windows_against_all_pairs(space, shifted, padding):
    words = (padding,) * len(space)
    layer = randomised(WindowAttention(2 * HEAD, 4, words, shifted=shifted)).double()
    x = torch.randn((2, *space, 2 * HEAD), generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    axes = cut(space, 4, shifted, words)
    torch.testing.assert_close(layer(x), over_all_pairs(layer, x, axes), rtol=1e-10, atol=1e-12)


def test_windows_are_cut_and_put_together():
    axes = cut((4, 6), 2, False, ("zero", "zero"))
    x = torch.arange(24.0).reshape(1, 4, 6, 1)
    cells = to_windows(x, axes)
    assert cells[0, 0, :, 0].tolist() == [0, 1, 6, 7]
    assert cells[0, 4, :, 0].tolist() == [14, 15, 20, 21]
    assert torch.equal(from_windows(cells, axes), x)


def test_an_axis_that_fits_in_a_window_is_one():
    assert cut((3, 4, 5), 4, True, ("zero", "circular", "zero")) == [
        Axis(3, 3, 0, False),
        Axis(4, 4, 0, True),
        Axis(5, 4, 2, False),
    ]
    assert Axis(5, 4, 2, False).fill == 3
    assert Axis(5, 4, 2, False).regions(torch.device("cpu")).tolist() == [0, 0, 0, 2, 2, 2, 1, 1]
    assert Axis(5, 4, 2, True).regions(torch.device("cpu")).tolist() == [0, 0, 0, 0, 0, 2, 2, 2]
    assert Axis(4, 4, 0, True).distances(torch.device("cpu"))[0].tolist() == [0, -1, -2, 1]
