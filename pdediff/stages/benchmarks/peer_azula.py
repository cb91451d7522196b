"""Workloads of azula: its samplers through their public calls, with the exact denoiser, on its own schedules.

Runs in a process of its own only.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import azula.denoise
import azula.noise
import azula.sample
import numpy as np
import torch
from torch import Tensor

from pdediff.stages.benchmarks.sampler_priors import Mixture, outcome, problem

STAGES = {"HeunSampler": 2}
"""Evaluations of a step, where it is not one."""


class Exact(azula.denoise.Denoiser):
    """The closed-form denoiser of a mixture, which counts its calls."""

    def __init__(self, schedule: azula.noise.Schedule, prior: Mixture) -> None:
        super().__init__()
        self.schedule, self.prior, self.calls = schedule, prior, 0

    def forward(self, x_t: Tensor, t: Tensor, **_: Any) -> azula.denoise.DiracPosterior:
        alpha, sigma = self.schedule(t)
        self.calls += 1
        return azula.denoise.DiracPosterior(self.prior.denoise(x_t / alpha, float(sigma / alpha)))


class Instant(azula.denoise.Denoiser):
    """A denoiser that returns a tensor made beforehand."""

    def __init__(self, schedule: azula.noise.Schedule, output: Tensor) -> None:
        super().__init__()
        self.schedule, self.output = schedule, output

    def forward(self, x_t: Tensor, t: Tensor, **_: Any) -> azula.denoise.DiracPosterior:
        return azula.denoise.DiracPosterior(self.output)


def prepare(settings: Mapping[str, Any]) -> Callable[[], Any]:
    """The workload `what`: "flow", "steps" or "calls"."""
    torch.set_num_threads(1)
    return {"flow": _flow, "steps": _steps, "calls": _calls}[settings["what"]](settings)


def _schedule(settings: Mapping[str, Any]) -> azula.noise.Schedule:
    """The schedule `schedule` from rho_max to rho_min: "VESchedule" (equal steps in log rho) or "RectifiedSchedule"."""
    low, high = settings["rho_min"], settings["rho_max"]
    if settings["schedule"] == "VESchedule":
        return azula.noise.VESchedule(sigma_min=low, sigma_max=high)
    return azula.noise.RectifiedSchedule(alpha_min=1.0 / high, sigma_min=low)


def _sampler(settings: Mapping[str, Any], denoiser: azula.denoise.Denoiser, steps: int) -> Any:
    kind = getattr(azula.sample, settings["sampler"])
    return kind(denoiser, steps=steps, silent=True, dtype=torch.float64, **settings["options"])


def _flow(settings: Mapping[str, Any]) -> Callable[[], np.ndarray]:
    """The states at the end of each number of evaluations, in the frame y."""
    prior, start = problem(settings)
    schedule = _schedule(settings)
    (alpha_start, _), (alpha_end, sigma_end) = (schedule(torch.tensor(t, dtype=torch.float64)) for t in (1.0, 0.0))

    def run() -> np.ndarray:
        out = outcome(settings, start)
        for i, evaluations in enumerate(settings["evaluations"]):
            denoiser = Exact(schedule, prior)
            steps = evaluations // STAGES.get(settings["sampler"], 1)
            x = _sampler(settings, denoiser, steps)(alpha_start * start)
            out[i] = denoiser.calls, float(sigma_end / alpha_end), (x / alpha_end).numpy()
        return out

    return run


def _steps(settings: Mapping[str, Any]) -> Callable[[], Tensor]:
    """A whole run of `steps` steps with a denoiser that returns a tensor made beforehand."""
    denoiser, start = _instant(settings)
    sampler = _sampler(settings, denoiser, settings["steps"])
    return lambda: sampler(start)


def _calls(settings: Mapping[str, Any]) -> Callable[[], None]:
    """The calls of the denoiser alone."""
    denoiser, start = _instant(settings)
    time = torch.tensor(0.5, dtype=torch.float64)

    def run() -> None:
        for _ in range(settings["steps"]):
            denoiser(start, time)

    return run


def _instant(settings: Mapping[str, Any]) -> tuple[Instant, Tensor]:
    g = torch.Generator().manual_seed(0)
    start, output = torch.randn(2, *settings["shape"], generator=g)
    return Instant(_schedule(settings), output), start
