"""Fixtures of the store tests; the recipe they write lives in `store_recipe.py`, which is also run as a process."""

from __future__ import annotations

import shutil
import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parent))

import store_recipe as recipe


@pytest.fixture
def empty(tmp_path: Path) -> Path:
    """A store in which nothing is written yet."""
    path = tmp_path / "set-0123456789ab"
    recipe.make(path)
    return path


@pytest.fixture(scope="session")
def original(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A complete store, written once."""
    path = tmp_path_factory.mktemp("original") / "set-0123456789ab"
    recipe.make(path)
    recipe.fill(path)
    return path


@pytest.fixture
def finished(original: Path, tmp_path: Path) -> Path:
    """A complete store of the test's own."""
    return Path(shutil.copytree(original, tmp_path / "done-0123456789ab"))
