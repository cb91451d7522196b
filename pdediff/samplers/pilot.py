"""Pilot grid: one fine run on a few noises, then levels that share the local error equally."""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Literal

import numpy as np
import torch
from torch import Tensor

from pdediff.diffusion import Denoiser
from pdediff.errors import ConfigError
from pdediff.samplers.dpm_solver_pp import DPMSolverPP
from pdediff.samplers.field import Parameterisation
from pdediff.samplers.grids import equal_mass, uniform_lambda
from pdediff.samplers.plan import Sampler
from pdediff.samplers.runner import run
from pdediff.samplers.sample import gaussian_start

Objective = Literal["rms", "spectral"]
Basis = Literal["fourier", "point"]

# Share of the mean density that every stretch of levels keeps: the pilot sees its own noises only.
_FLOOR = 0.2


def pilot_grid(
    denoiser: Denoiser,
    sampler: Sampler,
    n: int,
    sigma_max: float,
    sigma_min: float,
    objective: Objective = "rms",
    seeds: Sequence[int] = tuple(range(64)),
    *,
    evaluations: int = 120,
    basis: Basis = "fourier",
) -> list[float]:
    """n + 1 levels for `sampler` on this prior; costs `evaluations` calls on len(seeds) rows, once.

    Good values: the defaults; 60 evaluations of 64 rows, or 240 of 8, lost next to nothing against 240 of 64.

    With m the model output of the sampler's field and p its predictor order, the local error of a step of length h
    in lambda = -log sigma is about h^(p+1) g, where for each mode k

        g_k = |d^p m_k / dtau^p| |dkappa / dlambda| S |dtau / dlambda|^p / std_k(sigma),

    relative to the standard deviation of the mode at that level. Levels lie at equal mass of g^(1/(p+1)), g the root
    mean square over rows and modes; objective "rms" weights modes by their final standard deviation, "spectral"
    counts the relative error of every mode alike. Modes are Fourier modes of the field or its points.

    The result is plain data: the caller stores it with the prior, keyed by sampler, n and objective.
    """
    if evaluations < 24 or not seeds or sigma_min <= 0.0:
        raise ConfigError(f"a pilot needs 24 evaluations, a seed and sigma_min > 0, got {evaluations=}, {sigma_min=}")
    of, order = sampler.integrator(n)
    levels = uniform_lambda(sigma_max, sigma_min, evaluations)
    recorder = _Recorder(of, order, max(1, evaluations // 60), basis)
    x = gaussian_start(denoiser, sigma_max, seeds)
    x = run(DPMSolverPP(order=2).plan(levels), denoiser, x, seeds, observe=recorder)
    final = _rms(_modes(x, basis) - _modes(x, basis).mean(0))
    lambdas, local = recorder.local_error(final if objective == "rms" else np.ones_like(final))
    full = -np.log(np.array(levels))
    density = _smooth(np.interp(full, lambdas, local ** (1.0 / (order + 1))))
    found = equal_mass(full, np.maximum(density, _FLOOR * density.mean()), n)
    return [float(sigma_max), *found[1:-1], float(sigma_min)]


@dataclass
class _Recorder:
    """Collects the mean square of d^p m / dtau^p of every mode along the pilot run."""

    of: Parameterisation
    order: int
    stride: int
    basis: Basis
    lambdas: list[float] = field(default_factory=list)
    squares: list[np.ndarray] = field(default_factory=list)
    stds: list[np.ndarray] = field(default_factory=list)
    history: deque[tuple[float, float, Tensor]] = field(default_factory=deque)

    def __call__(self, index: int, sigma: float, x: Tensor, denoised: Tensor) -> None:
        c_x, c_denoised = self.of.model(sigma)
        # float64: a p-th difference of float32 numbers keeps too few digits.
        m = c_x * x.double() + c_denoised * denoised.double()
        self.history.append((sigma, self.of.tau(sigma), m))
        if len(self.history) <= self.order * self.stride:
            return
        nodes = list(self.history)[:: self.stride]
        self.history.popleft()
        taus = [tau for _, tau, _ in nodes]
        difference = torch.zeros_like(m)
        for i, (_, tau, value) in enumerate(nodes):
            difference += value * (
                math.factorial(self.order) / math.prod(tau - t for j, t in enumerate(taus) if j != i)
            )
        self.lambdas.append(-0.5 * (math.log(nodes[0][0]) + math.log(nodes[-1][0])))
        self.squares.append(_rms(_modes(difference, self.basis)) ** 2)
        modes = _modes(x.double(), self.basis)
        self.stds.append(_rms(modes - modes.mean(0)))

    def local_error(self, weight: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """lambda of the records and the g of `pilot_grid` there, (levels,)."""
        out = []
        for middle, square, std in zip(self.lambdas, self.squares, self.stds, strict=True):
            step = 1e-4
            after, before = self.of.tau(math.exp(-middle - step)), self.of.tau(math.exp(-middle + step))
            slope = (after - before) / (2.0 * step)
            sigma = math.exp(-middle)
            rate = abs(float(self.of.rate(np.array([self.of.tau(sigma)]))[0]) * slope) * self.of.scale(sigma)
            relative = weight / np.maximum(std, 1e-12 * std.max())
            out.append(rate * abs(slope) ** self.order * math.sqrt(float((square * relative**2).mean())))
        return np.array(self.lambdas), np.array(out)


def _modes(x: Tensor, basis: Basis) -> Tensor:
    if basis == "point":
        return x.flatten(1)
    return torch.fft.fftn(x, dim=tuple(range(2, x.dim())), norm="ortho").flatten(1)


def _rms(modes: Tensor) -> np.ndarray:
    return (modes.abs().double() ** 2).mean(0).sqrt().cpu().numpy()


def _smooth(values: np.ndarray) -> np.ndarray:
    width = max(1, len(values) // 40)
    offsets = np.arange(-3 * width, 3 * width + 1)
    kernel = np.exp(-0.5 * (offsets / width) ** 2)
    padded = np.pad(values, 3 * width, mode="edge")
    return np.convolve(padded, kernel / kernel.sum(), mode="valid")
