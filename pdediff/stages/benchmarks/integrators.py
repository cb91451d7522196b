"""Workloads of our spectral integrator: a whole run of `evolve`, the bare transforms of its scheme, a copy."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import torch
from torch import Tensor

from pdediff.pdes import Clock, KolmogorovFlow, KuramotoSivashinsky, spectral

TRANSFORMS = {"ks": 1, "kolmogorov": 2}
"""Fields that go to the grid and back in one evaluation of the nonlinear term; a step has four evaluations."""

ARRAYS = {"ks": (32, 16), "kolmogorov": (56, 32)}
"""Spectra and fields on the grid that one step reads or writes, were every transform and product one pass.

KS, an evaluation: spectrum -> u -> u u -> spectrum -> times the wave number (4 spectra, 4 fields); Kolmogorov: two
velocities, two products, two fluxes (10 and 8). Four evaluations, and 16 spectra in the stages of ETDRK4.
"""


def prepare(settings: Mapping[str, Any]) -> Callable[[], Any]:
    """The workload `what`: "evolve", "transforms" or "copy", for equation "ks" or "kolmogorov"."""
    torch.set_num_threads(1)
    return {"evolve": _evolve, "transforms": _transforms, "copy": _copy}[settings["what"]](settings)


def clock_of(settings: Mapping[str, Any]) -> Clock:
    """The clock of a workload."""
    return Clock(**{key: settings[key] for key in ("frames", "interval", "step", "warm_up", "precision")})


def equation_of(settings: Mapping[str, Any], clock: Clock) -> tuple[KuramotoSivashinsky | KolmogorovFlow, float]:
    """The equation and the side of its box."""
    if settings["equation"] == "ks":
        return KuramotoSivashinsky(length=settings["length"], spread=0.0, clock=clock), settings["length"]
    keys = ("viscosity", "drag", "forcing")
    return KolmogorovFlow(**{key: settings[key] for key in keys}, clock=clock), 2.0 * math.pi


def bytes_of_a_step(settings: Mapping[str, Any]) -> float:
    """Bytes that one step of one trajectory reads and writes, by the count in `ARRAYS`."""
    spectra, fields = ARRAYS[settings["equation"]]
    points, dims = settings["grid"], TRANSFORMS[settings["equation"]]  # so many dims, too
    size = 8 if settings["precision"] == "float64" else 4
    return size * (spectra * 2 * (points // 3) * points ** (dims - 1) + fields * points**dims)


def _initial(settings: Mapping[str, Any], clock: Clock) -> Tensor:
    """The saved initial states, repeated to fill the batch."""
    rows = np.resize(np.load(settings["initial"]), (settings["batch"], *settings["shape"]))
    return torch.from_numpy(rows).to(settings.get("device", "cpu"), clock.dtype)


def _evolve(settings: Mapping[str, Any]) -> Callable[[], Tensor]:
    """All steps of `batch` rows, warm-up first, frames on the grid; the coefficients are made in each run."""
    clock = clock_of(settings)
    equation, side = equation_of(settings, clock)
    initial = _initial(settings, clock)
    length = torch.tensor([side], dtype=torch.float64, device=initial.device)
    parameters = {"viscosity": torch.ones_like(length)} if settings["equation"] == "ks" else {}

    def run() -> Tensor:
        start = initial
        if clock.warm_up:
            start = spectral.evolve(equation, initial, length, clock, parameters=parameters, warm=True)
        u = spectral.evolve(equation, start, length, clock, parameters=parameters)
        if u.is_cuda:
            torch.cuda.synchronize()
        return u.cpu() if settings.get("fetch") else u

    return run


def _transforms(settings: Mapping[str, Any]) -> Callable[[], None]:
    """The real transforms of `floor_steps` steps and nothing else, whole arrays, forward and back."""
    initial = _initial(settings, clock_of(settings))
    values = torch.stack([initial] * TRANSFORMS[settings["equation"]])
    axes = tuple(range(2, values.ndim))
    spectrum = torch.fft.rfftn(values, dim=axes, norm="forward")
    points = initial.shape[1:]

    def run() -> None:
        for _ in range(4 * settings["floor_steps"]):
            torch.fft.irfftn(spectrum, s=points, dim=axes, norm="forward")
            torch.fft.rfftn(values, dim=axes, norm="forward")

    return run


def _copy(settings: Mapping[str, Any]) -> Callable[[], None]:
    """One copy of `bytes` bytes on the device: the bandwidth that can be reached."""
    source = torch.empty(settings["bytes"], dtype=torch.uint8, device=settings["device"])
    target = torch.empty_like(source)

    def run() -> None:
        target.copy_(source)
        if target.is_cuda:
            torch.cuda.synchronize()

    return run
