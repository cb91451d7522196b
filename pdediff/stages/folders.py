"""Where the output of a stage lies: a folder named by what made it."""

from __future__ import annotations

from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from pdediff.errors import ConfigError
from pdediff.store import digest

try:
    VERSION = version("pdediff")
except PackageNotFoundError:  # running from a source tree that is not installed
    VERSION = "0+unknown"


def output_folder(root: Path, kind: str, name: str, identity: dict[str, Any]) -> Path:
    """<root>/<kind>/<name>-<hash of the identity>; same identity, same folder: that is caching, resume and retries."""
    return root / kind / f"{name}-{digest(identity)}"


def find(root: Path, kind: str, name: str | Path) -> Path:
    """The folder that a user means by a path, a full folder name, or a name that is unique under the root.

    Raises ConfigError naming what exists.
    """
    given = Path(name)
    for candidate in (given, root / kind / given):
        if candidate.is_dir():
            return candidate
    folders = sorted(p for p in (root / kind).glob("*") if p.is_dir())
    named = [p for p in folders if p.name.rpartition("-")[0] == str(name)]
    if len(named) == 1:
        return named[0]
    shown = ", ".join(p.name for p in (named or folders)[:6]) or "nothing"
    problem = "means more than one" if named else "is not there"
    raise ConfigError(f"{kind}: {str(name)!r} {problem}; there is {shown} in {root / kind}", hint="`pdediff ls`")
