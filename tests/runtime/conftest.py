"""Two workers for the tests of a file."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from pdediff.runtime import Runtime

sys.path.insert(0, str(Path(__file__).parent))


@pytest.fixture(scope="module")
def two() -> Iterator[Runtime]:
    with Runtime(cluster="local", workers=2).open() as runtime:
        yield runtime
