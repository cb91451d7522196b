"""Priors of suite `samplers`: Gaussian mixtures with a power-law spectrum, whose denoiser and flow are known.

Read by our side and by the processes of the peers, so that every contestant has the same model.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from pdediff.types import Positive, PositiveInt, Seed

SHARES = (0.4, 0.3, 0.2, 0.1)
"""Weights of the components."""

STEEPNESS = 1.5
"""The means of the components are smooth fields: mode k of size k^-1.5, whatever the spectrum around them."""


@dataclass(frozen=True)
class PowerLaw:
    """Four Gaussians in `dimension` independent modes, mode k = 1, 2, ... of standard deviation ~ k^-`decay`.

    `smallest` is that of the last mode, `rms` the root mean square of the data; `seed` draws the means.
    Good values: decay 0.5 for a rough field, 1.5 for a smooth one.
    """

    decay: Positive
    smallest: Positive
    rms: Positive
    dimension: PositiveInt = 64
    seed: Seed = 3


@dataclass(frozen=True, eq=False)
class Mixture:
    """sum_k weights_k N(means_k, diag(variance)), in the frame y = x0 + rho * noise.

    weights (k,), means (k, dimension), variance (dimension,), in float64.
    """

    weights: Tensor
    means: Tensor
    variance: Tensor

    def denoise(self, y: Tensor, rho: float) -> Tensor:
        """E[x0 | y], y (rows, dimension): D = sum_k w_k(y) (m_k + v / (v + rho^2) (y - m_k))."""
        precision = 1.0 / (self.variance + rho**2)
        joint = self.weights.log() + y @ (self.means * precision).T - 0.5 * (self.means**2 @ precision)
        return y * (self.variance * precision) + joint.softmax(1) @ (self.means * (rho**2 * precision))

    def draw(self, rows: int, seed: int, rho: float) -> Tensor:
        """Rows of the marginal at level rho."""
        g = torch.Generator().manual_seed(seed)
        component = torch.multinomial(self.weights, rows, replacement=True, generator=g)
        noise = torch.randn(2, rows, len(self.variance), generator=g, dtype=torch.float64)
        return self.means[component] + self.variance.sqrt() * noise[0] + rho * noise[1]

    def flow(self, y: Tensor, start: float, stop: float, steps: int) -> Tensor:
        """Probability flow dy / dlog rho = y - D(y, rho) by the classical Runge-Kutta method in equal steps."""
        if start == stop:
            return y
        h = math.log(stop / start) / steps
        for i in range(steps):
            level = math.log(start) + i * h
            begin, middle, end = (math.exp(level + part * h) for part in (0.0, 0.5, 1.0))
            k1 = y - self.denoise(y, begin)
            y2 = y + h / 2 * k1
            k2 = y2 - self.denoise(y2, middle)
            y3 = y + h / 2 * k2
            k3 = y3 - self.denoise(y3, middle)
            y4 = y + h * k3
            k4 = y4 - self.denoise(y4, end)
            y = y + h / 6 * (k1 + 2 * k2 + 2 * k3 + k4)
        return y


def mixture(law: PowerLaw) -> Mixture:
    """The prior of this spectrum; the size of its means follows from the root mean square of the data."""
    k = np.arange(1, law.dimension + 1)
    variance = (law.smallest * (k / law.dimension) ** -law.decay) ** 2
    weights = np.array(SHARES)
    means = np.random.default_rng(law.seed).standard_normal((len(weights), law.dimension)) * k**-STEEPNESS
    means *= math.sqrt((law.rms**2 - variance.mean()) / (weights @ means**2).mean())
    return Mixture(*map(torch.from_numpy, (weights, means, variance)))


def problem(settings: Mapping[str, Any]) -> tuple[Mixture, Tensor]:
    """The prior and the start of a workload."""
    return mixture(PowerLaw(**settings["law"])), torch.from_numpy(np.load(settings["start"]))


def outcome(settings: Mapping[str, Any], start: Tensor) -> np.ndarray:
    """What a workload returns: for each number of evaluations those used, the last level and the state there.

    NaN and no evaluations where the method has no such number.
    """
    fields = [("nfe", np.int64), ("end", np.float64), ("state", np.float64, tuple(start.shape))]
    out = np.zeros(len(settings["evaluations"]), dtype=fields)
    out["state"] = np.nan
    return out
