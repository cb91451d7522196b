"""Workloads of diffusers: its schedulers through their public calls, fed with the exact model.

Runs in a process of its own only. The model gets the scheduler's own noise level, not the integer time step that a
network would get, and the scheduler starts from the exact state at its own first level: both are in its favour.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import diffusers
import numpy as np
import torch
from torch import Tensor

from pdediff.stages.benchmarks.sampler_priors import Mixture, outcome, problem

BETAS = {"num_train_timesteps": 1000, "beta_start": 1e-4, "beta_end": 0.02, "beta_schedule": "linear"}
"""The linear table of DDPM: rho from 157.4 to 0.0100."""

BY_TABLE = ("DDIMScheduler", "PNDMScheduler")
"""Schedulers that keep no levels of their own: theirs is the table's at the time step."""

EXPLODING = ("EulerDiscreteScheduler", "HeunDiscreteScheduler", "LMSDiscreteScheduler")
"""Schedulers whose state is y = x0 + rho noise; that of the others is y / sqrt(1 + rho^2)."""


def prepare(settings: Mapping[str, Any]) -> Callable[[], Any]:
    """The workload `what`: "flow", "steps" or "calls"."""
    torch.set_num_threads(1)
    diffusers.utils.logging.set_verbosity_error()
    return {"flow": _flow, "steps": _steps, "calls": _calls}[settings["what"]](settings)


def _made(settings: Mapping[str, Any]) -> Any:
    return getattr(diffusers, settings["scheduler"])(**BETAS, **settings["options"])


def _within(settings: Mapping[str, Any], evaluations: int) -> Any:
    """The scheduler with the most steps that call the model at most so often; None where there is none."""
    for steps in range(evaluations, settings.get("least", 1) - 1, -1):
        scheduler = _made(settings)
        scheduler.set_timesteps(steps)
        if len(scheduler.timesteps) <= evaluations:
            return scheduler
    return None


def _flow(settings: Mapping[str, Any]) -> Callable[[], np.ndarray]:
    """The states at the end of each number of evaluations, in the frame y."""
    prior, start = problem(settings)

    def run() -> np.ndarray:
        out = outcome(settings, start)
        for i, evaluations in enumerate(settings["evaluations"]):
            scheduler = _within(settings, evaluations)
            if scheduler is not None:
                out[i] = _sampled(scheduler, settings, prior, start)
        return out

    return run


def _sampled(scheduler: Any, settings: Mapping[str, Any], prior: Mixture, start: Tensor) -> tuple[int, float, Any]:
    """Evaluations, last level and state there."""
    levels, end = _levels(scheduler, settings["scheduler"])
    y = prior.flow(start, settings["rho_max"], levels[0], 100)
    exploding = settings["scheduler"] in EXPLODING
    x = y if exploding else y / (1.0 + levels[0] ** 2) ** 0.5
    for t, rho in zip(scheduler.timesteps, levels, strict=True):
        y = scheduler.scale_model_input(x, t) * (1.0 + rho**2) ** 0.5
        eps = (y - prior.denoise(y, rho)) / rho
        x = scheduler.step(eps, t, x).prev_sample
    return len(levels), end, (x if exploding else x * (1.0 + end**2) ** 0.5).numpy()


def _levels(scheduler: Any, name: str) -> tuple[list[float], float]:
    """Levels at which the model is called, and the level where the scheduler claims to end."""
    times = scheduler.timesteps
    if name not in BY_TABLE:
        *levels, end = scheduler.sigmas.double().tolist()
        return levels[: len(times)], end
    table = scheduler.alphas_cumprod.double()
    rho = ((1.0 - table) / table).sqrt()
    end = 0.0 if float(scheduler.final_alpha_cumprod) == 1.0 else float(rho[0])
    return rho[times.long()].tolist(), end


def _steps(settings: Mapping[str, Any]) -> Callable[[], Any]:
    """Setting the time steps, then `steps` scheduler steps with a model that returns a tensor made beforehand."""
    scheduler, start, made = _instant(settings)

    def run() -> Any:
        scheduler.set_timesteps(settings["steps"])
        x = start
        for t in scheduler.timesteps[: settings["steps"]]:
            x = scheduler.step(made(scheduler.scale_model_input(x, t), t), t, x).prev_sample
        return x

    return run


def _calls(settings: Mapping[str, Any]) -> Callable[[], None]:
    """What `_steps` does besides stepping: setting the time steps and calling the model."""
    scheduler, start, made = _instant(settings)

    def run() -> None:
        scheduler.set_timesteps(settings["steps"])
        for t in scheduler.timesteps[: settings["steps"]]:
            made(start, t)

    return run


def _instant(settings: Mapping[str, Any]) -> tuple[Any, Tensor, Callable[[Tensor, Any], Tensor]]:
    g = torch.Generator().manual_seed(0)
    start, output = torch.randn(2, *settings["shape"], generator=g)
    return _made(settings), start, lambda x, t: output
