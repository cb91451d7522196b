"""SA-Solver: stochastic Adams predictor and corrector with a noise strength that is on in a window of levels."""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Annotated, ClassVar

import numpy as np
from annotated_types import Interval

from pdediff.errors import ConfigError
from pdediff.samplers.ab_pc import correction
from pdediff.samplers.field import Parameterisation, weights
from pdediff.samplers.grids import uniform_lambda
from pdediff.samplers.plan import STATE, Plan, check_levels
from pdediff.samplers.steps import Eval, Lin, Span
from pdediff.types import NonNegative, Positive


@dataclass(frozen=True)
class WindowedData(Parameterisation):
    """`DataPrediction` whose noise has strength tau for levels in [low, high] and none outside.

    With c(sigma) = min(max(sigma, low), high): S = sigma c^(tau^2), kappa = 1 / S, m = D, and the noise of x / S has
    the clock c^(-2 tau^2), which stands still outside the window (Xue et al. 2023, eq. 11 with piecewise constant tau).
    `rate` jumps at the edges: `exact_weights` integrates it piece by piece.
    """

    tau_noise: float
    low: float
    high: float
    reaches_zero: ClassVar[bool] = False

    def scale(self, sigma: float) -> float:
        return sigma * self._clipped(sigma) ** self.tau_noise**2

    def tau(self, sigma: float) -> float:
        return -math.log(sigma)

    def rate(self, clock: np.ndarray) -> np.ndarray:
        strength = self.tau_noise**2
        sigma = np.exp(-clock)
        inside = (sigma > self.low) & (sigma < self.high)
        return (1.0 + strength * inside) / (sigma * np.clip(sigma, self.low, self.high) ** strength)

    def model(self, sigma: float) -> tuple[float, float]:
        return 0.0, 1.0

    def added(self, start: float, stop: float) -> tuple[float, Span | None]:
        """stop^2 (1 - e^(-2T)), T = int tau^2 dlambda over the part of the step that lies in the window."""
        high, low = self._clipped(start), self._clipped(stop)
        strength = self.tau_noise**2
        if stop == 0.0 or strength == 0.0 or high == low:
            return 0.0, None
        variance = -(stop**2) * math.expm1(-2.0 * strength * math.log(high / low))
        return variance, (high ** (-2.0 * strength), low ** (-2.0 * strength))

    def exact_weights(self, nodes: Sequence[float], start: float, stop: float) -> list[float]:
        """`weights`, summed over the pieces into which the window's edges cut the step."""
        edges = [start, *(edge for edge in (self.high, self.low) if stop < edge < start), stop]
        pieces = [
            np.array(weights(self, nodes, a, b)) * (self.scale(stop) / self.scale(b))
            for a, b in itertools.pairwise(edges)
        ]
        return [float(w) for w in np.sum(pieces, axis=0)]

    def _clipped(self, sigma: float) -> float:
        return min(max(sigma, self.low), self.high)


@dataclass(frozen=True)
class SASolver:
    """SA-Solver (Xue et al. 2023, eq. 11, 14 and 17): multistep predictor and corrector for every reverse SDE.

    All SDEs of this family share the marginals; tau >= 0 is the strength of their noise, here constant for levels in
    [s sigma_low, s sigma_high] and 0 elsewhere. With lambda = -log sigma and T(l) the integral of tau^2 over lambda
    from l to the end t of the step,

        x' = (t / sigma) e^(-T) x + t int e^(-T(l)) (1 + tau^2) e^l P(l) dl + t sqrt(1 - e^(-2T)) z,

    where P interpolates the last `order` evaluations of D; the corrector takes the evaluation at the predicted state
    and `corrector` earlier ones (0 = no corrector), shares z with the predictor and costs no evaluation. The edges
    of the window may lie inside steps: T and the weights are integrated piece by piece.

    tau = 0 is DPM-Solver++ (UniPC with a corrector), order 1 with tau = 1 is DDPM, without a window and a corrector it
    is `DPMSolverPP(order, tau)`. Weak order is 2 at most for tau > 0 and strong order 1: the history shares the noise
    of its steps. A step to sigma = 0 is of order 1.

    Good values: order 3 with a corrector of order 3; tau 0.2 to 1, less for few steps. The paper uses a
    window of about [0.05, 1]. ConfigError if the window is empty.
    """

    source: ClassVar[str] = "Xue et al. 2023 (SA-Solver), eq. 11, 14, 17"

    order: Annotated[int, Interval(ge=1, le=3)] = 3
    corrector: Annotated[int, Interval(ge=0, le=3)] = 3
    tau: NonNegative = 1.0
    sigma_low: NonNegative = 0.0
    sigma_high: Positive | None = None
    s: Positive = 1.0

    @property
    def evaluations(self) -> float:
        """Denoiser evaluations of a step."""
        return 1.0

    def __post_init__(self) -> None:
        if self.sigma_high is not None and self.sigma_high <= self.sigma_low:
            raise ConfigError(f"the window [{self.sigma_low:g}, {self.sigma_high:g}] of the noise is empty")

    @property
    def slope(self) -> int:
        """Promised order of convergence."""
        deterministic = min(self.order, self.corrector) + 1 if self.corrector else self.order
        return deterministic if self.tau == 0.0 else min(deterministic, 2)

    @property
    def field(self) -> WindowedData:
        """Parameterisation and noise."""
        high = math.inf if self.sigma_high is None else self.s * self.sigma_high
        return WindowedData(self.tau, self.s * self.sigma_low, high)

    def integrator(self, steps: int) -> tuple[Parameterisation, int]:
        """Data prediction with the noise of the window, and the order."""
        return self.field, self.order

    def grid(self, steps: int, sigma_max: float, sigma_min: float) -> list[float]:
        """Uniform in log sigma."""
        return uniform_lambda(sigma_max, sigma_min, steps)

    def plan(self, sigmas: Sequence[float]) -> Plan:
        """The compiled steps; `ConfigError` if the levels do not decrease or are too few for the order."""
        levels = check_levels(sigmas, self.order)
        last = len(levels) - 2
        ops: list[Eval | Lin] = [Eval(self._memory(0), STATE, levels[0])]
        for i in range(last + 1):
            predicted = "predicted" if self.corrector and i < last else STATE
            predictor = self._advance(levels, i, _past(i, self.order), predicted)
            ops.append(predictor)
            if i == last:
                break
            ops.append(Eval(self._memory(i + 1), predicted, levels[i + 1]))
            if self.corrector:
                again = self._advance(levels, i, [i + 1, *_past(i, self.corrector)], STATE)
                ops.append(correction(predictor, again))
        return Plan(tuple(ops), levels)

    def _advance(self, levels: Sequence[float], i: int, nodes: Sequence[int], dst: str) -> Lin:
        start, stop = levels[i], levels[i + 1]
        if stop == 0.0:
            return Lin(dst, ((self._memory(i), 1.0),))
        of = self.field
        found = of.exact_weights([levels[j] for j in nodes], start, stop)
        terms = [(self._memory(j), w) for j, w in zip(nodes, found, strict=True)]
        added, span = of.added(start, stop)
        return Lin(dst, ((STATE, of.scale(stop) / of.scale(start)), *terms), added, i, span)

    def _memory(self, node: int) -> str:
        # One slot more than the past: a corrector needs the new evaluation beside the old ones.
        return f"m{node % (max(self.order, self.corrector) + 1)}"


def _past(i: int, count: int) -> list[int]:
    return list(range(i, max(i - count, -1), -1))
