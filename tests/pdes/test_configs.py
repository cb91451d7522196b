"""Every config of configs/pde writes out its equation in full, and solves its problems."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from verification import CONFIGS, grids

from pdediff.config import build, to_dict
from pdediff.pdes import PDE, check
from pdediff.types import Purpose, derive_many

SEEDS = derive_many(5, Purpose.PROBLEM, range(2))
GRIDS = grids()


def node_of(path: Path) -> dict[str, Any]:
    """The config as data."""
    return yaml.safe_load(path.read_text())


def shortened(pde: Any) -> Any:
    """The same equation with few frames."""
    if pde.clock is None:
        return pde
    few = {"frames": min(pde.clock.frames, 3), "warm_up": min(pde.clock.warm_up, 2)}
    return replace(pde, clock=replace(pde.clock, **few))


@pytest.mark.parametrize("path", CONFIGS, ids=lambda p: p.stem)
def test_config_writes_out_every_argument(path: Path) -> None:
    node = node_of(path)
    pde = build("pde", node)
    assert isinstance(pde, PDE)
    assert to_dict(pde) == node


@pytest.mark.parametrize("path", CONFIGS, ids=lambda p: p.stem)
def test_config_solves_its_problems(path: Path) -> None:
    pde, grid = shortened(build("pde", node_of(path))), GRIDS.get(path.stem, 32)
    fields = pde.solve(pde.draw(SEEDS, grid))
    coordinates = pde.coordinates(grid)
    for variable in pde.variables():
        assert fields[variable.name].shape == (2, *(len(coordinates[d]) for d in variable.dims))
    assert check(pde, fields) == [None, None]
    assert check(pde, {name: value.float() for name, value in fields.items()}) == [None, None]
    assert torch.isfinite(pde.residual(fields)).all()
    assert all(len(value) == 2 for value in pde.invariants(fields).values())


@pytest.mark.parametrize("path", CONFIGS, ids=lambda p: p.stem)
def test_levels_change_arguments_of_the_class(path: Path) -> None:
    pde = build("pde", node_of(path))
    for changes in pde.levels.values():
        level = build("pde", to_dict(pde) | to_dict(changes))
        assert isinstance(level, PDE)
        assert set(changes) <= set(to_dict(pde))
