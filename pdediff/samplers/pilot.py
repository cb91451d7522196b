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
    levels = uniform_lambda(sigma_max, sigma_min, evaluations)
    survey = Survey([sampler.integrator(n)], max(1, evaluations // 60), basis)
    x = gaussian_start(denoiser, sigma_max, seeds)
    x = run(DPMSolverPP(order=2).plan(levels), denoiser, x, seeds, observe=survey)
    return survey.grids(x, n, sigma_max, sigma_min, objective)[0]


@dataclass
class Survey:
    """Observer of one fine run that finds where each of several integrators, (field, predictor order), errs.

    Differences reach over `stride` evaluations of the run; the states are kept once for all integrators.
    """

    integrators: Sequence[tuple[Parameterisation, int]]
    stride: int
    basis: Basis = "fourier"
    lambdas: list[list[float]] = field(init=False)
    squares: list[list[np.ndarray]] = field(init=False)
    stds: list[list[np.ndarray]] = field(init=False)
    history: deque[tuple[float, Tensor, Tensor, np.ndarray]] = field(init=False)

    def __post_init__(self) -> None:
        longest = max(order for _, order in self.integrators)
        self.lambdas, self.squares, self.stds = ([[] for _ in self.integrators] for _ in range(3))
        self.history = deque(maxlen=longest * self.stride + 1)

    def __call__(self, index: int, sigma: float, x: Tensor, denoised: Tensor) -> None:
        """Take in one evaluation of the run, as `run` observes it."""
        # float64: a p-th difference of float32 numbers keeps too few digits.
        state = x.to(torch.float64, copy=True)
        modes = modes_of(state, self.basis)
        self.history.append((sigma, state, denoised.to(torch.float64, copy=True), _rms(modes - modes.mean(0))))
        for i, (of, order) in enumerate(self.integrators):
            reach = order * self.stride
            if len(self.history) > reach:
                nodes = list(self.history)[len(self.history) - 1 - reach :: self.stride]
                self.lambdas[i].append(-0.5 * (math.log(nodes[0][0]) + math.log(nodes[-1][0])))
                self.squares[i].append(_rms(modes_of(_difference(of, order, nodes), self.basis)) ** 2)
                self.stds[i].append(nodes[-1][3])

    def grids(
        self, final: Tensor, n: int, sigma_max: float, sigma_min: float, objective: Objective = "rms"
    ) -> list[list[float]]:
        """n + 1 levels for each integrator, as `pilot_grid` explains; `final` is the end of the run."""
        modes = modes_of(final.double(), self.basis)
        std = _rms(modes - modes.mean(0))
        full = np.linspace(-math.log(sigma_max), -math.log(sigma_min), 241)
        out = []
        for i, (_, order) in enumerate(self.integrators):
            local = self._local_error(i, std if objective == "rms" else np.ones_like(std))
            density = _smooth(np.interp(full, np.array(self.lambdas[i]), local ** (1.0 / (order + 1))))
            found = equal_mass(full, np.maximum(density, _FLOOR * density.mean()), n)
            out.append([float(sigma_max), *found[1:-1], float(sigma_min)])
        return out

    def _local_error(self, i: int, weight: np.ndarray) -> np.ndarray:
        """The g of `pilot_grid` at the levels of integrator i."""
        (of, order), out = self.integrators[i], []
        for middle, square, std in zip(self.lambdas[i], self.squares[i], self.stds[i], strict=True):
            step = 1e-4
            after, before = of.tau(math.exp(-middle - step)), of.tau(math.exp(-middle + step))
            slope = (after - before) / (2.0 * step)
            sigma = math.exp(-middle)
            rate = abs(float(of.rate(np.array([of.tau(sigma)]))[0]) * slope) * of.scale(sigma)
            relative = weight / np.maximum(std, 1e-12 * std.max())
            out.append(rate * abs(slope) ** order * math.sqrt(float((square * relative**2).mean())))
        return np.array(out)


def _difference(of: Parameterisation, order: int, nodes: Sequence[tuple[float, Tensor, Tensor, np.ndarray]]) -> Tensor:
    """d^p m / dtau^p by the divided difference over p + 1 evaluations."""
    taus = [of.tau(sigma) for sigma, *_ in nodes]
    out = torch.zeros_like(nodes[0][1])
    for i, (sigma, x, denoised, _) in enumerate(nodes):
        share = math.factorial(order) / math.prod(taus[i] - tau for j, tau in enumerate(taus) if j != i)
        c_x, c_denoised = of.model(sigma)
        out.add_(x, alpha=share * c_x).add_(denoised, alpha=share * c_denoised)
    return out


def modes_of(x: Tensor, basis: Basis) -> Tensor:
    """Orthonormal modes (batch, modes): Fourier modes of the field or its points."""
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
