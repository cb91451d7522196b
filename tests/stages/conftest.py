"""Fixtures of the stage tests: one finished job for all, and copies of it to damage."""

from __future__ import annotations

import shutil
import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parent))

import made_up
import stage_recipe as recipe

from pdediff import pdes
from pdediff.stages.priors import Prior, load_prior


@pytest.fixture(scope="session")
def world(tmp_path_factory: pytest.TempPathFactory) -> recipe.World:
    """A finished job that no test changes."""
    return recipe.make(tmp_path_factory.mktemp("world") / "data")


@pytest.fixture
def copy(world: recipe.World, tmp_path: Path) -> recipe.World:
    """A finished job of the test's own."""
    root = Path(shutil.copytree(world.root, tmp_path / "data"))
    moved = {name: root / path.relative_to(world.root) for name, path in world.recon.items()}
    there = [root / path.relative_to(world.root) for path in (world.data, world.prior, world.report)]
    return recipe.World(root, there[0], there[1], moved, there[2])


@pytest.fixture
def made_up_pde(monkeypatch: pytest.MonkeyPatch) -> None:
    """`kind: MadeUp` among the equations."""
    monkeypatch.setattr(pdes, "MadeUp", made_up.MadeUp, raising=False)
    monkeypatch.setattr(pdes, "__all__", sorted([*pdes.__all__, "MadeUp"]))
    made_up.DEVICES.clear()


@pytest.fixture(scope="session")
def prior(world: recipe.World) -> Prior:
    """The prior of the job."""
    return load_prior(world.prior)
