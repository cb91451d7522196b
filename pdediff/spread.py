"""Spreads items over the workers of a session, and finds the item that kills its worker."""

from __future__ import annotations

import logging
import sys
import time
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any, Generic, TypeVar, cast

from pdediff.errors import ResourceError

if TYPE_CHECKING:
    from distributed import Future

    from pdediff.cluster import Session

Item = TypeVar("Item")
Result = TypeVar("Result")

POLL = 0.2  # seconds between two looks at signals and at the cluster's health

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Failure(Generic[Item]):
    """An item that could not be computed, and why."""

    item: Item
    reason: str


def call(function: Callable[[Item], Result], threads: int, item: Item) -> Result:
    """Run one item on a worker with `threads` torch threads (a worker may be a restarted one)."""
    torch = sys.modules.get("torch")
    if torch is not None and torch.get_num_threads() != threads:
        torch.set_num_threads(threads)
    return function(item)


class Spread(Generic[Item, Result]):
    """One pass over the items: each worker has one item at a time, results are delivered as they come.

    `check` is called between polls and may raise to stop the pass.
    """

    def __init__(
        self,
        session: Session,
        function: Callable[[Item], Result],
        deliver: Callable[[Item, Result], None],
        check: Callable[[], None],
    ) -> None:
        self._session = session
        self._function = function
        self._deliver = deliver
        self._check = check
        self._running: dict[Future, Item] = {}
        self._suspects: list[Item] = []
        self._error: BaseException | None = None
        self._healthy = time.monotonic()

    def run(self, items: Sequence[Item]) -> list[Failure[Item]]:
        """Compute all items; the first error of `function` is raised after the items in flight are in.

        Raises ResourceError when no worker is left or the scheduler is gone.
        """
        waiting = deque(items)
        while self._running or (waiting and self._error is None):
            while waiting and self._error is None and len(self._running) < self._session.size:
                self._submit(waiting.popleft())
            self._collect()
        failures = []
        suspects = deque(self._suspects)
        # Every item that was on a dead worker is innocent until it has killed a worker that it had for itself.
        while suspects and self._error is None:
            failures += self._retry_alone(suspects.popleft())
        if self._error is not None:
            raise self._error
        return failures

    def _retry_alone(self, item: Item) -> list[Failure[Item]]:
        self._suspects.clear()
        log.warning("a worker died; item %r is run again, alone", item)
        self._submit(item)
        while self._running:
            self._collect()
        if not self._suspects:
            return []
        log.warning("item %r killed its worker twice and is given up", item)
        return [Failure(item, "killed its worker twice")]

    def _submit(self, item: Item) -> None:
        # pure=False: each call is a task of its own, so Dask never merges two items that look alike.
        self._running[self._session.client.submit(self._function, item, pure=False)] = item

    def _collect(self) -> None:
        from distributed import wait
        from distributed.client import FuturesCancelledError

        self._check()
        try:
            done = cast(Any, wait(list(self._running), timeout=POLL, return_when="FIRST_COMPLETED")).done
        except TimeoutError:
            self._watch()
            return
        except FuturesCancelledError as error:
            raise ResourceError(
                "the connection to the Dask scheduler was lost", hint="the same command continues"
            ) from error
        for future in done:
            self._finish(future)

    def _finish(self, future: Future) -> None:
        from distributed import KilledWorker

        if future.status == "error":
            item, error = self._running.pop(future), cast(BaseException, future.exception())
            if isinstance(error, KilledWorker):
                self._suspects.append(item)
            elif self._error is None:
                self._error = error
        else:
            try:
                result = future.result(timeout=POLL)
            except TimeoutError:
                return  # its worker died with the result: the scheduler computes it again
            except KilledWorker:
                self._suspects.append(self._running.pop(future))
            else:
                self._deliver(self._running.pop(future), result)
        future.release()

    def _watch(self) -> None:
        workers = self._session.workers()
        if workers:
            self._healthy = time.monotonic()
            if self._session.elastic:
                self._session.size = workers
        elif self._session.patience is not None and time.monotonic() - self._healthy > self._session.patience:
            raise ResourceError(
                f"no worker came back within {self._session.patience:.0f} s", hint="the same command continues"
            )


def spread(
    session: Session,
    function: Callable[[Item], Result],
    items: Sequence[Item],
    threads: int,
    deliver: Callable[[Item, Result], None],
    check: Callable[[], None],
) -> list[Failure[Item]]:
    """Compute `function(item)` of all items on the workers of `session`; see `Spread`."""
    with session.client.as_current():
        return Spread(session, partial(call, function, threads), deliver, check).run(items)
