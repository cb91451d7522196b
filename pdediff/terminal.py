"""How a command ends: two-line errors on stderr, exit codes, signals, and a file with the traceback of a bug."""

from __future__ import annotations

import errno
import re
import shlex
import signal
import sys
import tempfile
import threading
import traceback
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from types import FrameType

from pdediff.errors import ConfigError, Interrupted, PdediffError, ResourceError

WIDTH = 160
"""No line of an error is longer."""

_DEEP = re.compile(r"(?<![^\s'\"(=])(?:~|\.)?/?(?:[^\s/'\",;:()]+/){2,}(?=[^\s/'\",;:()])")
"""The folders of a path of three parts or more."""

_RESOURCES = {
    errno.ENOSPC: "disk full",
    errno.EDQUOT: "disk quota used up",
    errno.EACCES: "no permission",
    errno.EPERM: "no permission",
    errno.EROFS: "read-only file system",
    errno.ENOTDIR: "not a folder",
    errno.ENAMETOOLONG: "name too long",
    errno.ENOMEM: "out of memory",
    errno.EMFILE: "too many open files",
}
_EXTRAS = {
    "arviz_base": "diag",
    "arviz_plots": "diag",
    "arviz_stats": "diag",
    "cf_xarray": "viz",
    "dask_cuda": "gpu",
    "dask_jobqueue": "slurm",
    "ipykernel": "notebook",
    "nbclient": "notebook",
    "s3fs": "s3",
}


def guard(action: Callable[[], object], argv: Sequence[str], *, debug: bool = False) -> int:
    """Run a command; its exit code. Errors become lines on stderr, a traceback only with `debug`."""
    try:
        with _signals():
            action()
    except KeyboardInterrupt:
        return _interrupted(Interrupted("stopped by SIGINT", context={"signal": signal.SIGINT}), argv)
    except BrokenPipeError:
        return 0  # the reader of our output has gone: `pdediff ls | head`
    except Exception as error:
        return _report(error, argv, debug)
    return 0


def translate(error: Exception) -> PdediffError | None:
    """The error a user can act on behind an exception of Python or torch; None for a bug."""
    if isinstance(error, PdediffError):
        return error
    if isinstance(error, OSError) and error.errno in _RESOURCES:
        where = f": {error.filename}" if error.filename else ""
        return ResourceError(f"{_RESOURCES[error.errno]}{where}", hint="what was finished is kept; run it again after")
    if isinstance(error, MemoryError) or type(error).__name__ == "OutOfMemoryError":
        return ResourceError("out of memory", hint="try fewer workers, or a smaller tile (the bits of results change)")
    if isinstance(error, ModuleNotFoundError):
        extra = _EXTRAS.get((error.name or "").partition(".")[0])
        if extra:
            return ConfigError(f"{error.name} is not installed", hint=f'pip install "pdediff[{extra}]"')
    return None


def say(line: str) -> None:
    """One line on stderr, at most `WIDTH` long: the folders of long paths are left out first, then the end."""
    line = " ".join(line.splitlines())
    while len(line) > WIDTH and (deep := _DEEP.search(line)):
        line = f"{line[: deep.start()]}.../{line[deep.end() :]}"
    sys.stderr.write((line if len(line) <= WIDTH else f"{line[: WIDTH - 3]}...") + "\n")
    sys.stderr.flush()


def _report(error: Exception, argv: Sequence[str], debug: bool) -> int:
    known = translate(error)
    if debug:
        traceback.print_exception(error, file=sys.stderr)
    if isinstance(known, Interrupted):
        return _interrupted(known, argv)
    if known is not None:
        for line in known.lines():
            say(line)
        return known.exit_code
    say(f"error[bug]: {type(error).__name__}: {error}")
    with tempfile.NamedTemporaryFile("w", prefix="pdediff-", suffix=".txt", delete=False) as file:
        file.write(f"pdediff {shlex.join(argv)}\n")
        traceback.print_exception(error, file=file)
    say(f"  hint: this is a bug; the full traceback is in {Path(file.name)}, please report it")
    return 1


def _interrupted(error: Interrupted, argv: Sequence[str]) -> int:
    number = int(error.context.get("signal", signal.SIGINT))  # type: ignore[call-overload]
    line, command = f"error[{error.code}]: {error.message}", f"resume with: pdediff {shlex.join(argv)}"
    if len(line) + len(command) + 2 <= WIDTH:
        say(f"{line}; {command}")
    else:
        say(line)
        sys.stderr.write(f"  hint: {command}\n")  # never cut: it is to be copied
    return 128 + number


@contextmanager
def _signals() -> Iterator[None]:
    """SIGINT and SIGTERM as `Interrupted`, so that locks are released and workers ended on the way out."""
    if threading.current_thread() is not threading.main_thread():  # elsewhere Python allows no handlers
        yield
        return

    def stop(number: int, frame: FrameType | None) -> None:
        signal.signal(number, signal.SIG_IGN)  # the second press must not break the way out
        raise Interrupted(f"stopped by {signal.Signals(number).name}", context={"signal": number})

    before = {number: signal.signal(number, stop) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
