"""Where the work runs: device, threads, Dask cluster, and the driver of distributed work.

A stage asks a `Runtime` to map a function over its items; the bits of the results do not depend on the cluster,
on the number of workers or on what died in between.
"""

from __future__ import annotations

import importlib.util
import signal
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from types import FrameType
from typing import Literal, TypeVar

from pdediff.cluster import Session, Slurm, open_session
from pdediff.environment import set_environment
from pdediff.errors import ConfigError, Interrupted
from pdediff.progress import Progress, SilentProgress
from pdediff.spread import Failure, spread
from pdediff.types import PositiveInt

__all__ = ["Device", "Failure", "Runtime", "Slurm", "resolve_device", "set_environment"]

Device = Literal["auto", "cpu", "cuda"]
Item = TypeVar("Item")
Result = TypeVar("Result")


def resolve_device(choice: Device = "auto") -> Literal["cpu", "cuda"]:
    """The torch device of this process; call it where the work runs, since a worker may see other GPUs.

    Raises ConfigError where a GPU is asked for and none can be used.
    """
    if choice == "cpu":
        return "cpu"
    import torch

    if torch.cuda.is_available():
        return "cuda"
    if choice == "auto":
        return "cpu"
    if torch.version.cuda is None:
        raise ConfigError("device=cuda: this torch is built for the CPU only", hint="install pdediff[gpu]")
    raise ConfigError("device=cuda: no GPU is visible here", hint="device=auto falls back to the CPU")


@dataclass(frozen=True)
class Runtime:
    """Device, threads and workers of a stage.

    `cluster`: inline (this process), local (worker processes here), gpu (one worker per GPU here), slurm (one job
    per worker), address (a scheduler that runs already, workers with one task thread each). `threads` are the
    numeric threads of each worker, `memory` the limit of each ("auto" or such as "4GiB").
    Good values: local with as many workers as cores and one thread; inline for a few small items.

    Raises ConfigError where the machine or the installation cannot give what is asked for.
    """

    cluster: Literal["inline", "local", "address", "gpu", "slurm"] = "local"
    workers: PositiveInt = 2
    address: str | None = None
    device: Device = "auto"
    threads: PositiveInt = 1
    memory: str = "auto"
    slurm: Slurm = field(default_factory=Slurm)
    progress: Progress = field(default_factory=SilentProgress, compare=False)
    _sessions: list[Session] = field(default_factory=list, init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        if self.workers < 1 or self.threads < 1:
            raise ConfigError(f"workers={self.workers} and threads={self.threads} have to be at least 1")
        if (self.cluster == "address") != (self.address is not None):
            raise ConfigError(
                f"cluster={self.cluster} with address={self.address}: the address belongs to cluster=address",
                hint="cluster=address address=tcp://127.0.0.1:8786",
            )
        if self.cluster == "slurm" and importlib.util.find_spec("dask_jobqueue") is None:
            raise ConfigError("cluster=slurm needs dask-jobqueue", hint="install pdediff[slurm]")
        if self.cluster == "gpu" and self.device == "cpu":
            raise ConfigError("cluster=gpu contradicts device=cpu", hint="cluster=local runs on the CPU")
        if self.cluster == "gpu" or (self.device == "cuda" and self.cluster in ("inline", "local")):
            resolve_device("cuda")

    @property
    def torch_device(self) -> Literal["cpu", "cuda"]:
        """The device for work in this process, such as training."""
        return resolve_device(self.device)

    @property
    def lanes(self) -> int:
        """Items that are computed at a time; inside `open` the number of workers that there are."""
        if self.cluster == "inline":
            return 1
        return self._sessions[0].size if self._sessions else self.workers

    @contextmanager
    def open(self) -> Iterator[Runtime]:
        """Start the cluster once for several maps (a map outside starts and ends its own)."""
        if self.cluster == "inline" or self._sessions:
            yield self
            return
        with open_session(self) as session:
            self._sessions.append(session)
            try:
                yield self
            finally:
                self._sessions.clear()

    def map(
        self,
        function: Callable[[Item], Result],
        items: Sequence[Item],
        *,
        label: str,
        on_result: Callable[[Item, Result], None],
        size: Callable[[Item], int] | None = None,
        rejected: Callable[[Result], int] | None = None,
    ) -> list[Failure[Item]]:
        """Compute `function(item)` of every item and give each result to `on_result` here, in order of completion.

        `function` is a module-level function (or a partial of one) and its result small: receipts, not fields.
        `size` counts the units of an item and `rejected` those of a result that were refused, for the bar.
        Returns the items that killed their worker twice; all others were delivered. The first exception of
        `function` is raised after the items in flight were collected. Raises Interrupted on SIGINT and SIGTERM,
        ResourceError when the workers or the scheduler are lost.
        """
        items = list(items)
        units = size or _one
        failures: list[Failure[Item]] = []
        with (
            _Signals(immediate=self.cluster == "inline") as signals,
            self.progress.bar(label, sum(units(item) for item in items)) as bar,
        ):

            def deliver(item: Item, result: Result) -> None:
                with signals.postponed():
                    on_result(item, result)
                    bar.advance(units(item), rejected=rejected(result) if rejected else 0)

            if self.cluster == "inline":
                self._inline(function, items, deliver, signals.check)
            elif items:
                with self.open():
                    failures = spread(self._sessions[0], function, items, self.threads, deliver, signals.check)
            for failure in failures:
                bar.advance(units(failure.item), rejected=units(failure.item), note=failure.reason)
        return failures

    def _inline(
        self,
        function: Callable[[Item], Result],
        items: Sequence[Item],
        deliver: Callable[[Item, Result], None],
        check: Callable[[], None],
    ) -> None:
        import torch

        before = torch.get_num_threads()
        torch.set_num_threads(self.threads)
        try:
            for item in items:
                check()
                deliver(item, function(item))
        finally:
            torch.set_num_threads(before)


def _one(item: object) -> int:
    return 1


class _Signals:
    """SIGINT and SIGTERM as Interrupted: at once where `immediate`, else at the next check; never in a delivery."""

    def __init__(self, immediate: bool) -> None:
        self._immediate = immediate
        self._received: int | None = None
        self._before: dict[int, signal._HANDLER] = {}

    def __enter__(self) -> _Signals:
        if threading.current_thread() is threading.main_thread():  # elsewhere Python allows no handlers
            for number in (signal.SIGINT, signal.SIGTERM):
                self._before[number] = signal.signal(number, self._handle)
        return self

    def __exit__(self, *exception: object) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)
        if exception[0] is None:
            self.check()  # it came while the cluster closed

    def _handle(self, number: int, frame: FrameType | None) -> None:
        first = self._received is None
        self._received = number
        if self._immediate and first:
            self.check()

    def check(self) -> None:
        """Raise Interrupted if a signal has come."""
        if self._received is not None:
            name = signal.Signals(self._received).name
            raise Interrupted(
                f"stopped by {name}", hint="the same command continues", context={"signal": self._received}
            )

    @contextmanager
    def postponed(self) -> Iterator[None]:
        """A delivery writes receipts: a signal waits until it is through."""
        before, self._immediate = self._immediate, False
        try:
            yield
        finally:
            self._immediate = before
        self.check()
