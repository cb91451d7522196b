"""A private Prefect server for one run: on loopback, without UI, and gone with the process that started it.

Prefect's own temporary server outlives a parent that is killed. This one watches a pipe that closes with its parent.
Run as a module it is that server: `python -m pdediff.flows.server PORT`.
"""

from __future__ import annotations

import atexit
import os
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache

_PRIVATE = {"PREFECT_UI_ENABLED": "0", "PREFECT__SERVER_EPHEMERAL": "1", "PREFECT__SERVER_FINAL": "1"}
START_TIMEOUT = 180.0
"""Seconds; a first start creates the data base and took 15 to 31 s on two busy cores."""


@contextmanager
def local_server() -> Iterator[str]:
    """API address for flows of this process: the user's where one is set, else that of a private server.

    The private one starts at the first call and ends with the process: at its exit Prefect still sends events, and
    would wait for a server that is gone. Raises ResourceError when it does not start.
    """
    from prefect.settings import PREFECT_API_URL, temporary_settings

    configured = PREFECT_API_URL.value()
    if configured:
        yield configured
        return
    with temporary_settings({PREFECT_API_URL: _private()}):
        yield PREFECT_API_URL.value()


@cache
def _private() -> str:
    from prefect.settings import get_current_settings

    port = _free_port()
    url = f"http://127.0.0.1:{port}/api"
    process = subprocess.Popen(
        [sys.executable, "-m", "pdediff.flows.server", str(port)],
        stdin=subprocess.PIPE,
        stdout=subprocess.DEVNULL,
        env={**os.environ, **get_current_settings().to_environment_variables(exclude_unset=True), **_PRIVATE},
        start_new_session=True,  # Ctrl-C is for the run: it still reports its last state here
    )
    atexit.register(_stop, process)
    _wait(process, url)
    return url


def _stop(process: subprocess.Popen[bytes]) -> None:
    process.kill()  # nothing in its data base is of use after the run
    process.wait()
    if process.stdin is not None:
        process.stdin.close()


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def _wait(process: subprocess.Popen[bytes], url: str) -> None:
    import httpx

    from pdediff.errors import ResourceError

    end = time.monotonic() + START_TIMEOUT
    while time.monotonic() < end and process.poll() is None:
        try:
            if httpx.get(f"{url}/health", timeout=5).status_code == 200:
                return
        except httpx.TransportError:
            time.sleep(0.1)
    raise ResourceError("the private Prefect server did not start", hint="set PREFECT_API_URL to a running one")


def _serve(port: int) -> None:
    import uvicorn

    threading.Thread(target=_leave_with_parent, daemon=True).start()
    uvicorn.run(
        "prefect.server.api.server:create_app",
        factory=True,
        host="127.0.0.1",
        port=port,
        log_level="error",
        lifespan="on",
    )


def _leave_with_parent() -> None:
    sys.stdin.buffer.read()  # returns when the other end is closed, by the parent or by its death
    os._exit(0)


if __name__ == "__main__":
    _serve(int(sys.argv[1]))
