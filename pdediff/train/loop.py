"""The training loop: the same bits for an uninterrupted run and for one that was killed and started again."""

from __future__ import annotations

import logging
import math
import signal
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, nullcontext
from dataclasses import asdict, dataclass
from pathlib import Path
from types import FrameType
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from pdediff import checkpoint
from pdediff.errors import Interrupted, MatchError, NumericalError, ResourceError
from pdediff.train.history import History
from pdediff.train.schedule import FitConfig, Order, ema_decay, learning_rate
from pdediff.train.state import State

if TYPE_CHECKING:
    from pdediff.progress import Progress

Loss = Callable[[nn.Module, Tensor, int], Tensor]
_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class FitResult:
    """End of a training: `loss` is the smoothed one, `skipped` the steps without a finite loss, `seconds` this call's.

    `digest` is the SHA-256 of the tensors of the last training state.
    """

    steps: int
    loss: float
    skipped: int
    seconds: float
    digest: str


def fit(
    network: nn.Module,
    loss: Loss,
    size: int,
    config: FitConfig,
    run: Path,
    *,
    meta: Mapping[str, object] | None = None,
    progress: Progress | None = None,
) -> FitResult:
    """Train `network` for `config.steps` steps, continuing from what `run` holds; it ends with averaged weights.

    `loss(network, indices, step)` gives the loss `(batch,)` of each sample; it must draw its noise from the step
    alone. `size` is the number of training samples; `meta` travels with every checkpoint. Marking the run as
    complete (`checkpoint.save(…, final=True)`) is the caller's. Raises NumericalError for a NaN or a divergence
    (the last good checkpoint stays), Interrupted after SIGTERM or SIGINT (a checkpoint is saved first),
    ResourceError for memory or disk, MatchError if the run was made by another network or config.
    """
    state = State(network)
    device = state.views[0].device
    start, folder = _resume(state, config, size, run)
    order = Order(size, config.batch, config.seed)
    history = History(run / "history.jsonl", start, config.supervision.log_every)
    half = torch.autocast("cuda", torch.bfloat16) if config.precision == "bf16" and device.type == "cuda" else None
    note = {"fit": asdict(config), "size": size, "threads": torch.get_num_threads(), "torch": torch.__version__}
    began = time.monotonic()
    network.train()

    bar = progress.bar("train", config.steps) if progress is not None else nullcontext()
    with history, bar as shown, _stop_signals() as stopped, _memory(config):
        if shown is not None and start:
            shown.advance(start)
        for step in range(start, config.steps):
            indices = order.indices(step)
            with half or nullcontext():
                losses = loss(network, indices, step)
            value = _step(state, losses, indices, config, step)
            history.add(step, value, state.watch.smoothed, learning_rate(config, step), config.batch)
            done = step + 1
            if done == config.steps or done % config.supervision.checkpoint_every == 0 or stopped():
                folder = checkpoint.save(run, done, state.tensors(), dict(meta or {}) | {"training": note})
            if shown is not None:
                shown.advance(1, note=f"loss {state.watch.smoothed:.4g}")
            if stopped() and done < config.steps:
                told = f"training stopped after step {done} of {config.steps}"
                raise Interrupted(told, context={"signal": stopped()})
    network.load_state_dict(state.averaged())
    network.eval()
    seconds, sha256 = time.monotonic() - began, checkpoint.digest(folder) if folder else ""
    return FitResult(config.steps, state.watch.smoothed, state.watch.skipped, seconds, sha256)


def _step(state: State, losses: Tensor, indices: Tensor, config: FitConfig, step: int) -> float:
    """One update from the losses of a batch; a step that is not finite leaves weights, average and moments alone."""
    mean = losses.float().mean()
    state.clear()
    mean.backward()
    gradients = state.gradients()
    norm = torch.linalg.vector_norm(torch.stack(torch._foreach_norm(gradients)))  # pyright: ignore[reportPrivateImportUsage]
    value, length = torch.stack((mean.detach(), norm)).tolist()  # the only wait for the device
    watch, optimiser, supervision = state.watch, config.optimiser, config.supervision
    if not (math.isfinite(value) and math.isfinite(length)):
        watch.miss(step)
        where = indices[~losses.detach().isfinite().cpu()].tolist() or indices.tolist()
        what = "loss" if not math.isfinite(value) else "gradient"
        line = f"{what} became {_kind(value if what == 'loss' else length)} at step {watch.bad_since}"
        line += f" (samples {', '.join(map(str, where[:8]))}{', …' if len(where) > 8 else ''})"
        if watch.bad_in_row >= supervision.max_bad_steps:
            raise NumericalError(line, hint=f"{watch.bad_in_row} steps in a row; check these samples, or train slower")
        _log.warning("%s: step skipped", line)
        return value
    if length > optimiser.clip:
        torch._foreach_mul_(gradients, optimiser.clip / length)  # pyright: ignore[reportPrivateImportUsage]
    watch.see(value)
    if watch.diverged(supervision.divergence):
        raise NumericalError(
            f"loss diverged at step {step}: {watch.smoothed:.4g} against {watch.best:.4g} at best",
            hint=f"lower learning_rate (now {optimiser.learning_rate:g}); the last checkpoint is kept",
        )
    state.update(gradients, learning_rate(config, step), optimiser.weight_decay, ema_decay(config, step))
    return value


def _kind(value: float) -> str:
    return "NaN" if math.isnan(value) else "infinite"


def _resume(state: State, config: FitConfig, size: int, run: Path) -> tuple[int, Path | None]:
    """Step to start at and the checkpoint it came from; the state is as it was there."""
    found = checkpoint.load_step(run)
    if found is None:
        return 0, None
    folder, step, tensors, meta = found
    note = meta.get("training")
    if not isinstance(note, Mapping) or not isinstance(note.get("fit"), Mapping):
        raise MatchError(f"checkpoint of step {step} in {run} is not one of a training")
    now = _fixed(asdict(config))
    for name, then in _fixed(note["fit"]).items():
        if now.get(name, then) != then:
            raise MatchError(f"run was trained with {name}={then}, config says {now[name]}", hint="start a new run")
    if note.get("size") != size:
        raise MatchError(f"run was trained on {note.get('size')} samples; the data set has {size}")
    if note.get("threads") != torch.get_num_threads():
        _log.warning(
            "run had %s threads, now %d: the weights will differ in their last bits",
            note.get("threads"),
            torch.get_num_threads(),
        )
    state.restore(tensors)
    return step, folder


def _fixed(fit: Mapping[str, Any]) -> dict[str, Any]:
    """The options that decide the weights, by their plain names: they cannot change on an existing run."""
    plain = {name: value for name, value in fit.items() if name not in ("optimiser", "supervision")}
    return plain | dict(fit.get("optimiser", {}))


@contextmanager
def _stop_signals() -> Iterator[Callable[[], int | None]]:
    """Ask politely: SIGTERM and SIGINT are seen at the end of a step. Only the main thread can receive signals."""
    seen: list[int] = []

    def note(number: int, frame: FrameType | None) -> None:
        seen.append(number)

    if threading.current_thread() is not threading.main_thread():
        yield lambda: None
        return
    before = {number: signal.signal(number, note) for number in (signal.SIGTERM, signal.SIGINT)}
    try:
        yield lambda: seen[0] if seen else None
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


@contextmanager
def _memory(config: FitConfig) -> Iterator[None]:
    try:
        yield
    except (RuntimeError, MemoryError) as error:
        full = isinstance(error, MemoryError | torch.OutOfMemoryError) or "can't allocate memory" in str(error)
        if not full:
            raise
        raise ResourceError(f"out of memory at batch={config.batch}", hint="use a smaller batch") from error
