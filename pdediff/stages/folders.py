"""Where the output of a stage lies: a folder named by what made it."""

from __future__ import annotations

from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from pdediff.store import digest

try:
    VERSION = version("pdediff")
except PackageNotFoundError:  # running from a source tree that is not installed
    VERSION = "0+unknown"


def output_folder(root: Path, kind: str, name: str, identity: dict[str, Any]) -> Path:
    """<root>/<kind>/<name>-<hash of the identity>; same identity, same folder: that is caching, resume and retries."""
    return root / kind / f"{name}-{digest(identity)}"
