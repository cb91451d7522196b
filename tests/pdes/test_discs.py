"""Discs keep apart, are the same on every grid, and are refused where they have no room."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

from pdediff.errors import ConfigError, NumericalError
from pdediff.pdes.discs import ATTEMPTS, Discs
from pdediff.types import uniform

NUMBERS = uniform(range(200), (ATTEMPTS, 3))


def _apart(placed: Tensor) -> Tensor:
    """Gaps between the rims of all pairs of discs on the torus, `(batch, most, most)`; infinite where there is none."""
    centre, radius = placed[..., :2], placed[..., 2]
    shifts = torch.cartesian_prod(*[torch.tensor([-1.0, 0.0, 1.0])] * 2).double()
    images = centre[:, :, None, None] - centre[:, None, :, None] - shifts
    gaps = images.norm(dim=-1).amin(-1) - radius[:, :, None] - radius[:, None]
    both = (radius[:, :, None] > 0) & (radius[:, None] > 0) & ~torch.eye(placed.shape[1], dtype=torch.bool)
    return torch.where(both, gaps, math.inf)


def test_discs_keep_their_gap_and_number() -> None:
    discs = Discs(radius=(0.05, 0.1), gap=0.04)
    counts = torch.arange(200) % 6
    discs.require_room(5)
    placed = discs.place(counts, 5, NUMBERS)
    radius = placed[..., 2]
    assert torch.equal((radius > 0).sum(1), counts)
    assert 0.05 <= radius[radius > 0].min() < 0.052
    assert 0.098 < radius.max() <= 0.1
    assert 0.04 <= _apart(placed).min() < 0.05
    x, y = placed[..., 0][radius > 0], placed[..., 1][radius > 0]
    assert torch.corrcoef(torch.stack([x, y]))[0, 1].abs() < 0.15
    for place in (x, y):  # uniform on [0, 1)
        assert (place.std() - 12**-0.5).abs() < 0.02


def test_a_disc_does_not_depend_on_how_many_may_follow() -> None:
    discs = Discs()
    few, many = discs.place(torch.full((200,), 2), 2, NUMBERS), discs.place(torch.full((200,), 4), 4, NUMBERS)
    assert torch.equal(few, many[:, :2])


def test_the_mask_is_the_smoothed_disc_and_wraps_around() -> None:
    discs = Discs(edge=0.02)
    placed = torch.tensor([[[0.95, 0.5, 0.1], [0.4, 0.4, 0.0]]], dtype=torch.float64)
    fine, coarse = discs.mask(placed, 256)[0], discs.mask(placed, 64)[0]
    assert torch.equal(fine[::4, ::4], coarse)
    assert abs(float(fine.mean()) - math.pi * 0.1**2) < 0.02 * math.pi * 0.1**2
    # arrays are (y, x): inside at (0.5, 0.97) and across the side at (0.5, 0.03), half at the rim, nothing elsewhere
    assert fine[128, 248] > 0.99
    assert abs(float(fine[128, 8]) - 0.5 * (1 - math.tanh(2 / 0.02 * (0.03125 + 0.05 - 0.1)))) < 1e-12
    assert fine[102, 102] == 0.0
    assert fine.min() >= 0.0
    assert fine.max() <= 1.0


@pytest.mark.parametrize(("most", "radius", "gap"), [(5, (0.1, 0.2), 0.05), (1, (0.4, 0.4), 0.3)])
def test_discs_without_room_are_refused(most: int, radius: tuple[float, float], gap: float) -> None:
    discs = Discs(radius=radius, gap=gap)
    with pytest.raises(ConfigError, match=f"obstacles: {most} discs .* free"):
        discs.require_room(most)


def test_radii_out_of_order_are_refused() -> None:
    with pytest.raises(ConfigError, match=r"radius=\[0.2, 0.1\]"):
        Discs(radius=(0.2, 0.1)).require_room(1)


def test_a_row_without_a_free_place_is_an_error() -> None:
    same = torch.full((1, ATTEMPTS, 3), 0.5, dtype=torch.float64)
    with pytest.raises(NumericalError, match="no room for 2 discs"):
        Discs().place(torch.tensor([2]), 2, same)
