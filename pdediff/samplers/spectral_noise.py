"""Reverse SDE whose noise has its own strength in every radial Fourier band."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Annotated, ClassVar

import numpy as np
from annotated_types import Interval, Len

from pdediff.errors import ConfigError
from pdediff.samplers.field import DataPrediction, Parameterisation, weights
from pdediff.samplers.grids import uniform_lambda
from pdediff.samplers.plan import STATE, Plan, check_levels
from pdediff.samplers.steps import Band, Eval, Lin
from pdediff.types import NonNegative, Positive

Shares = Annotated[tuple[NonNegative, ...], Len(1)]
"""A number for each radial wave number 0, 1, ... (periods per box); the last one holds for all larger ones."""


@dataclass(frozen=True)
class TurningData(Parameterisation):
    """`DataPrediction` whose squared noise strength turns from `early` to `late` as the level falls below s.

    tau^2(sigma) = early + (late - early) s^2 / (s^2 + sigma^2). With A its integral over lambda = -log sigma,
    S = sigma e^(-A) = sigma^(1 + early) (sigma / sqrt(s^2 + sigma^2))^(late - early), kappa = 1 / S and m = D.
    """

    early: float
    late: float
    s: float
    reaches_zero: ClassVar[bool] = False

    def scale(self, sigma: float) -> float:
        return float(self._scale(np.array(sigma)))

    def tau(self, sigma: float) -> float:
        return -math.log(sigma)

    def rate(self, clock: np.ndarray) -> np.ndarray:
        sigma = np.exp(-clock)
        return (1.0 + self.strength(sigma)) / self._scale(sigma)

    def model(self, sigma: float) -> tuple[float, float]:
        return 0.0, 1.0

    def strength(self, sigma: np.ndarray) -> np.ndarray:
        """tau^2."""
        return self.early + (self.late - self.early) * self.s**2 / (self.s**2 + sigma**2)

    def variance(self, start: float, stop: float) -> float:
        """stop^2 (1 - e^(-2T)) with T the integral of tau^2 over the step."""
        turned = math.log(math.hypot(self.s, stop) / math.hypot(self.s, start))
        twice = self.late * math.log(start / stop) + (self.late - self.early) * turned
        return -(stop**2) * math.expm1(-2.0 * twice)

    def _scale(self, sigma: np.ndarray) -> np.ndarray:
        return sigma ** (1.0 + self.early) * (sigma / np.hypot(self.s, sigma)) ** (self.late - self.early)


@dataclass(frozen=True)
class SpectralSDE:
    """Reverse SDE with a noise strength for every radial Fourier band (operator-valued tau of SA-Solver).

    In band r the noise has strength tau_r^2(sigma) = tau^2 (early_r + (late_r - early_r) s^2 / (s^2 + sigma^2)): a
    share of white noise's energy that turns from `early` to `late` as the level falls below s. With
    S_r = sigma e^(-A_r), A_r the integral of tau_r^2 over -log sigma, a step takes each band to

        x' = S_r(t) / S_r(sigma) x + S_r(t) int P d(1 / S_r) + t sqrt(1 - e^(-2 T_r)) z,

    P the interpolation of the last `order` evaluations of D (Xue et al. 2023, eq. 11, band by band). Drift and noise
    match, so every choice of shares has the marginals of the prior: noise can be spent on the scales that are being
    made, without bias.

    `matched=False` is colored noise sampling as published (arXiv 2605.30332: shares of noise move from low to high wave
    numbers, the drift stays that of white noise; the shares here are ours). It is biased for shares other than 1: for
    constant shares Q and N(m, v), with P = v + sigma^2, the variance tends to P (1 + (Q - 1) (1 - (P / P0)^(tau^2))),
    P0 that of the start.

    Weak order `order`, to the biased law if not matched; the step to sigma = 0 is of order 1. Total noise is that of
    tau if the shares average 1 over all modes, of which most lie in the last bands.

    Good values: order 2, tau 0.5 to 1, shares from 0.5 to 1.5. `ConfigError` if early and late differ in length.
    """

    source: ClassVar[str] = "Xue et al. 2023 (SA-Solver), eq. 11, by Fourier bands; arXiv 2605.30332"

    early: Shares = (1.5, 1.5, 1.0, 0.5)
    late: Shares = (0.5, 0.5, 1.0, 1.5)
    tau: NonNegative = 1.0
    order: Annotated[int, Interval(ge=1, le=2)] = 2
    matched: bool = True
    s: Positive = 1.0

    @property
    def evaluations(self) -> float:
        """Denoiser evaluations of a step."""
        return 1.0

    def __post_init__(self) -> None:
        if len(self.early) != len(self.late) or not self.early:
            raise ConfigError(
                f"SpectralSDE needs as many early as late shares, got {len(self.early)} and {len(self.late)}",
                hint="one number for each radial wave number 0, 1, ...; the last holds for all larger ones",
            )

    @property
    def slope(self) -> int:
        """Promised weak order."""
        return self.order

    def integrator(self, steps: int) -> tuple[Parameterisation, int]:
        """Data prediction with the noise of white shares, and the order."""
        return DataPrediction(1.0 + self.tau**2), self.order

    def grid(self, steps: int, sigma_max: float, sigma_min: float) -> list[float]:
        """Uniform in log sigma."""
        return uniform_lambda(sigma_max, sigma_min, steps)

    def plan(self, sigmas: Sequence[float]) -> Plan:
        """The compiled steps; `ConfigError` if the levels do not decrease or are too few for the order."""
        levels = check_levels(sigmas, self.order)
        ops: list[Eval | Lin | Band] = []
        for i, stop in enumerate(levels[1:]):
            ops.append(Eval(f"m{i % self.order}", STATE, levels[i]))
            if stop == 0.0:
                ops.append(Lin(STATE, ((f"m{i % self.order}", 1.0),)))
            else:
                ops.append(self._advance(levels, i))
        return Plan(tuple(ops), levels)

    def _advance(self, levels: Sequence[float], i: int) -> Band:
        start, stop = levels[i], levels[i + 1]
        nodes = [j for j in range(i, i - self.order, -1) if j >= 0]
        shared = [TurningData(self.tau**2 * a, self.tau**2 * b, self.s) for a, b in self._shares()]
        white = TurningData(self.tau**2, self.tau**2, self.s)
        drift = shared if self.matched else [white] * len(shared)
        known = {of: weights(of, [levels[j] for j in nodes], start, stop) for of in set(drift)}
        columns = zip(*(known[of] for of in drift), strict=True)
        terms = [(f"m{j % self.order}", tuple(column)) for j, column in zip(nodes, columns, strict=True)]
        kept = tuple(of.scale(stop) / of.scale(start) for of in drift)
        if self.matched:
            variances = tuple(of.variance(start, stop) for of in shared)
        else:
            middle, total = np.array(math.sqrt(start * stop)), white.variance(start, stop)
            shares = [TurningData(a, b, self.s).strength(middle) for a, b in self._shares()]
            variances = tuple(float(share) * total for share in shares)
        return Band(STATE, ((STATE, kept), *terms), variances, i)

    def _shares(self) -> list[tuple[float, float]]:
        return list(zip(self.early, self.late, strict=True))
