"""Small equations that the tests of this room share."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parent))

import verification

from pdediff.pdes import PDE

SMALL = verification.small()


@pytest.fixture(params=list(SMALL))
def small(request: pytest.FixtureRequest) -> tuple[PDE, int]:
    """An equation and a grid on which it takes milliseconds."""
    return SMALL[request.param]


@pytest.fixture(params=[name for name, (pde, _) in SMALL.items() if pde.clock is not None])
def moving(request: pytest.FixtureRequest) -> tuple[PDE, int]:
    """The small equations that have a clock."""
    return SMALL[request.param]
