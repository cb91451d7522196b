"""Part `overhead`: what a step costs besides the model, ours and the peers' in turns; and our workloads for it."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from typing import Any

from pdediff.stages.benchmarks.base import Goal, Measurement, Row, Section, Value
from pdediff.stages.benchmarks.contest import Entry, contest
from pdediff.stages.benchmarks.peer_settings import azula_settings, diffusers_settings
from pdediff.types import PositiveInt

Goals = Callable[[str, float], Goal | None]

NOTE = (
    "us: processor time per step, {steps} steps in float32 on {shape}, with a model that returns a tensor made"
    " beforehand; its calls (and setting the time steps, for diffusers) are measured alone and taken off; ratio: over"
    " {first}, ours"
)


@dataclass(frozen=True)
class OverheadRun:
    """`steps` steps of fields `shape`: our samplers `ours`, and the settings of the peers by the name of their row."""

    shape: tuple[PositiveInt, ...] = (4, 1, 64, 64)
    steps: PositiveInt = 20
    ours: tuple[str, ...] = ("default", "ddim", "pc_flow", "dpmpp_2m", "unipc")
    diffusers: tuple[str, ...] = (
        "DDIM",
        "PNDM (PLMS)",
        "DPM++ multistep 2",
        "DPM++ multistep 3",
        "DPM++ singlestep 2",
        "DPM++ singlestep 3",
        "UniPC-2 bh2",
        "UniPC-3 bh2",
        "DEIS-2",
        "DEIS-3",
        "Euler",
        "Heun",
        "LMS",
    )
    azula: tuple[str, ...] = ("azula Euler uniform lambda", "azula vAB3 uniform lambda", "azula xEAB3 uniform lambda")


def overhead(
    run: OverheadRun, ends: Mapping[str, float], ours: Mapping[str, Any], measurement: Measurement, goals: Goals
) -> Section:
    """Microseconds per step of every sampler, measured in turns."""
    common = {**asdict(run), **ends}
    runners = {name: ("pdediff", "sampler_overhead", {"node": ours[name]}) for name in run.ours}
    for peer, known in (("diffusers", diffusers_settings()), ("azula", azula_settings())):
        if peer in measurement.peers:
            runners |= {name: (peer, f"peer_{peer}", known[name]) for name in getattr(run, peer)}
    entries = [
        Entry(measurement.contestant(who, module), f"{name} {what}", {**common, **settings, "what": what})
        for name, (who, module, settings) in runners.items()
        for what in ("steps", "calls")
    ]
    timings = contest(entries, measurement.repeats, measurement.seconds)
    per_step = {
        name: 1e6 * (steps.cpu - calls.cpu) / run.steps
        for name, steps, calls in zip(runners, timings[::2], timings[1::2], strict=True)
    }
    first = run.ours[0]
    rows = []
    for name, us in per_step.items():
        values: dict[str, Value] = {"us": us, "ratio": us / per_step[first]}
        rows.append(Row(name, values, goals("overhead_us", us) if name in run.ours else None))
    shape = "x".join(map(str, run.shape))
    return Section("overhead of a step", NOTE.format(steps=run.steps, shape=shape, first=first), tuple(rows))


def prepare(settings: Mapping[str, Any]) -> Callable[[], Any]:
    """Our workload `what`: "steps", a whole run of the plan of the sampler `node`, or "calls", of the model alone."""
    import torch

    from pdediff import config as configs
    from pdediff.diffusion import WhiteNoise
    from pdediff.samplers import run

    torch.set_num_threads(1)
    g = torch.Generator().manual_seed(0)
    start, output = torch.randn(2, *settings["shape"], generator=g)

    class Instant:
        """A denoiser that returns a tensor made beforehand."""

        shape, dtype, device, noise = tuple(start.shape[1:]), start.dtype, start.device, WhiteNoise()

        def __call__(self, x: torch.Tensor, sigma: torch.Tensor) -> torch.Tensor:
            return output

    denoiser: Any = Instant()
    sampler = configs.build("sampler", settings["node"])
    plan = sampler.plan(sampler.grid(settings["steps"], settings["rho_max"], settings["rho_min"]))
    seeds, sigma = range(len(start)), torch.ones(len(start))

    def calls() -> None:
        for _ in range(plan.nfe):
            denoiser(start, sigma)

    return calls if settings["what"] == "calls" else lambda: run(plan, denoiser, start, seeds)
