"""The eight symmetries of the square: they map solutions to solutions, and what is drawn of them is keyed."""

from __future__ import annotations

import itertools

import pytest
import torch
from torch import Tensor

from pdediff.config import build
from pdediff.stages.symmetry import augment, orbit, transformed
from pdediff.types import Purpose, derive

CORNER = torch.tensor([[1.0, 2.0], [3.0, 4.0]])[None, None]


def fields(rows: int, seed: int = 0) -> Tensor:
    return torch.randn(rows, 2, 6, 6, generator=torch.Generator().manual_seed(seed))


@pytest.mark.parametrize("element", range(8))
def test_each_element_maps_solutions_of_darcy_to_solutions(element: int) -> None:
    pde = build("pde", {"kind": "Darcy"})
    assert pde.symmetries == "square"
    found = pde.solve(pde.draw([derive(3, Purpose.PROBLEM, i) for i in range(2)], 16))
    both = torch.stack([found["permeability"], found["pressure"]], 1)
    moved = transformed(both, element)
    problem = pde.draw([0, 0], 16)
    again = pde.solve(type(problem)({"permeability": moved[:, 0]}, problem.scalars))
    scale = float(found["pressure"].abs().max())
    assert float((again["pressure"] - moved[:, 1]).abs().max()) < 1e-9 * scale  # the solver stops at 1e-10


def test_the_elements_are_a_group_of_eight() -> None:
    images = [transformed(CORNER, element) for element in range(8)]
    assert torch.equal(images[0], CORNER)
    assert len({tuple(image.flatten().tolist()) for image in images}) == 8
    for a, b in itertools.product(range(8), repeat=2):
        assert any(torch.equal(transformed(images[a], b), image) for image in images)


def test_all_channels_move_together() -> None:
    x = fields(1)
    doubled = torch.cat([x[:, :1], x[:, :1]], 1)
    for element in range(8):
        moved = transformed(doubled, element)
        assert torch.equal(moved[:, 0], moved[:, 1])


@pytest.mark.parametrize(("limit", "rows"), [(2, 2), (3, 3), (5, 5), (24, 24), (100, 24)])
def test_an_orbit_holds_the_fields_first_and_at_most_the_limit(limit: int, rows: int) -> None:
    x = fields(3)
    found = orbit(x, "square", limit)
    assert len(found) == rows
    whole = torch.cat([transformed(x, element) for element in range(8)])
    assert torch.equal(found, whole[:rows])
    assert found.is_contiguous()


def test_without_symmetries_nothing_is_made_up() -> None:
    x = fields(3)
    assert torch.equal(orbit(x, "none", 100), x)
    assert torch.equal(orbit(x, "none", 2), x[:2])
    assert augment(x, "none", 0, 0) is x


def test_the_mean_of_a_whole_orbit_is_symmetric() -> None:
    mean = orbit(fields(3).double(), "square", 24).mean(0, keepdim=True)
    for element in range(8):
        torch.testing.assert_close(transformed(mean, element), mean, rtol=0, atol=1e-14)


def elements_of(batch: Tensor, found: Tensor) -> list[int]:
    """Which element each row went through; a row that went through none fails."""
    return [
        next(e for e in range(8) if torch.equal(transformed(batch[i : i + 1], e), found[i : i + 1]))
        for i in range(len(batch))
    ]


def test_augmentation_is_a_function_of_seed_and_step() -> None:
    batch = fields(16)
    found = augment(batch, "square", 5, 7)
    augment(batch, "square", 1, 1)
    torch.manual_seed(1)
    assert torch.equal(augment(batch, "square", 5, 7), found)
    chosen = elements_of(batch, found)
    assert chosen[::2] == chosen[1::2]  # eight blocks of two rows
    # the choice does not look at the batch
    assert elements_of(fields(16, 1), augment(fields(16, 1), "square", 5, 7)) == chosen
    assert elements_of(batch, augment(batch, "square", 5, 8)) != chosen
    assert elements_of(batch, augment(batch, "square", 6, 7)) != chosen


def test_augmentation_draws_every_element_alike() -> None:
    batch = fields(8)
    counts = torch.zeros(8)
    for step in range(100):
        for element in elements_of(batch, augment(batch, "square", 0, step)):
            counts[element] += 1
    assert counts.sum() == 800
    assert float((counts - 100).abs().max()) < 5 * (800 * 1 / 8 * 7 / 8) ** 0.5


@pytest.mark.parametrize("rows", [1, 3, 8, 13])
def test_augmentation_keeps_the_size_of_any_batch(rows: int) -> None:
    batch = fields(rows)
    assert len(elements_of(batch, augment(batch, "square", 0, 0))) == rows
