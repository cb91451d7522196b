"""One writer per store: a kernel lock that dies with its process and names its owner."""

from __future__ import annotations

import errno
import fcntl
import json
import logging
import os
import socket
import time
from datetime import datetime
from pathlib import Path
from types import TracebackType
from typing import Self

from pdediff.errors import LockedError, ResourceError
from pdediff.store.files import disk

LOCK = ".lock"
log = logging.getLogger(__name__)


class Lock:
    """Holds `flock` on `<path>/.lock` between enter and exit; raises LockedError at once when another run has it.

    The kernel frees it when the owner dies, so a lock left by a dead process is taken without a question.
    Needs a file system that honours flock between the machines that write (local disks, Lustre with `-o flock`, NFSv4).
    """

    def __init__(self, path: Path, run: str) -> None:
        self.path = path
        self.run = run
        self._handle = -1

    @property
    def free(self) -> bool:
        """Whether this object does not hold the lock."""
        return self._handle < 0

    def __enter__(self) -> Self:
        with disk(self.path / LOCK):
            handle = os.open(self.path / LOCK, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW, 0o644)
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            os.close(handle)
            if error.errno in (errno.EWOULDBLOCK, errno.EACCES):
                raise LockedError(self._refusal(), context={"owner": owner(self.path)}) from None
            raise ResourceError(f"cannot lock {self.path}: {error.strerror}", hint="use a local disk") from error
        if left := owner(self.path):
            log.info("taking over the lock of %s left by run %s (pid %s)", self.path, left["run"], left["pid"])
        now = datetime.now().astimezone().isoformat(timespec="seconds")
        mine = {"run": self.run, "pid": os.getpid(), "host": socket.gethostname(), "start": now}
        os.ftruncate(handle, 0)
        os.pwrite(handle, json.dumps(mine).encode(), 0)
        self._handle = handle
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        os.ftruncate(self._handle, 0)  # an owner line that stays means a run that was killed
        os.close(self._handle)
        self._handle = -1

    def _refusal(self) -> str:
        for _ in range(20):  # the owner writes its line a moment after it gets the lock
            if who := owner(self.path):
                since = datetime.fromisoformat(str(who["start"])).strftime("%H:%M")
                return (
                    f"{self.path} is being written by run {who['run']} "
                    f"(pid {who['pid']} on {who['host']}, since {since})"
                )
            time.sleep(0.01)
        return f"{self.path} is being written by another run"


def owner(path: Path) -> dict[str, object] | None:
    """What the lock file says of its owner (run, pid, host, start), who may be dead; None when nobody signed."""
    try:
        who = json.loads((path / LOCK).read_text())
    except (OSError, ValueError):
        return None
    return who if isinstance(who, dict) and {"run", "pid", "host", "start"} <= who.keys() else None


def is_writing(path: Path) -> bool:
    """Whether the signed owner is alive, as far as this host can tell; never touches the lock itself."""
    who = owner(path)
    if who is None:
        return False
    if who["host"] != socket.gethostname():
        return True
    try:
        os.kill(int(str(who["pid"])), 0)
    except ProcessLookupError:
        return False
    except (PermissionError, ValueError, OverflowError):
        return True
    return True
