"""DPM-Solver: exponential one-step methods with intermediate stages, in lambda = -log sigma."""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Annotated, ClassVar

from annotated_types import Gt, Interval, Le

from pdediff.errors import ConfigError
from pdediff.samplers.field import DataPrediction, NoisePrediction, Parameterisation, weights
from pdediff.samplers.grids import uniform_lambda
from pdediff.samplers.plan import STATE, Plan, check_levels
from pdediff.samplers.runge_kutta import evaluate
from pdediff.samplers.steps import Eval, Lin

Stages = Annotated[int, Interval(ge=1, le=3)]
Ratio = Annotated[float, Gt(0.0), Le(1.0)]


@dataclass(frozen=True)
class Singlestep:
    """What exponential one-step methods share; each names its prediction and its source."""

    prediction: ClassVar[type[NoisePrediction] | type[DataPrediction]]

    stages: Stages = 3
    r1: Ratio | None = None
    r2: Ratio | None = None

    def __post_init__(self) -> None:
        ratios(self.stages, self.r1, self.r2)

    @property
    def evaluations(self) -> float:
        """Stages of a step."""
        return float(self.stages)

    @property
    def order(self) -> int:
        """Steps a grid needs at least."""
        return 1

    @property
    def slope(self) -> int:
        """Promised order of convergence."""
        return self.stages

    def integrator(self, steps: int) -> tuple[Parameterisation, int]:
        """The prediction and the order."""
        return self.prediction(), self.stages

    def grid(self, steps: int, sigma_max: float, sigma_min: float) -> list[float]:
        """Uniform in log sigma."""
        return uniform_lambda(sigma_max, sigma_min, steps)

    def plan(self, sigmas: Sequence[float]) -> Plan:
        """The compiled steps; `ConfigError` if the levels do not decrease."""
        levels = check_levels(sigmas)
        return singlestep(levels, self.prediction(), [ratios(self.stages, self.r1, self.r2)] * (len(levels) - 1))


@dataclass(frozen=True)
class DPMSolver(Singlestep):
    """DPM-Solver-1, -2 and -3 in the noise prediction (Lu et al. 2022, alg. 1 and 2), with exact weights.

    With e = (x - D) / sigma, t the next level, h = log(sigma / t), I(c) = exp(c h) - 1, J(c) = exp(c h) - 1 - c h and
    stages e_i at level t_i = sigma exp(-r_i h),

        stages 1:  x' = x - t I(1) e,                               which is DDIM,
        stages 2:  x' = x - t [I(1) e + J(1) (e_1 - e) / (r1 h)],   x_1 = x - t_1 I(r1) e,
        stages 3:  x' = x - t [I(1) e + J(1) (e_2 - e) / (r2 h)],   x_2 = x - t_2 [I(r2) e + J(r2) (e_1 - e) / (r1 h)]

    for r2 = 2/3; other r2 mix e_1 into x' and correct x_2 such that the order stays 3 (Hochbruck & Ostermann 2005,
    eq. 5.9). The paper writes (e^h - 1) / 2 for J(1) / h at two stages, which differs by O(h^3) in x'. As many
    evaluations a step as stages, order of the same number; the step to sigma = 0 is of order 1.

    Good values: 3 stages; r1, r2 = 1/3, 2/3 (None means these, or r1 = 1/2 for two stages). `ConfigError` for three
    stages with r1 = r2 or r1 = 2/3.
    """

    source: ClassVar[str] = "Lu et al. 2022 (DPM-Solver), alg. 1 and 2"
    prediction: ClassVar[type[NoisePrediction]] = NoisePrediction


def fast_plan(of: Parameterisation, evaluations: int, sigma_max: float, sigma_min: float) -> Plan:
    """DPM-Solver-fast: third-order steps, uniform in log sigma, for a given number of evaluations.

    The last steps are of order 2 and 1, so that any number is met (Lu et al. 2022); `of` is
    the noise or the data prediction. `ConfigError` for no evaluation.
    """
    if evaluations < 1:
        raise ConfigError(f"a fast plan needs at least one evaluation, got {evaluations}")
    threes, rest = divmod(evaluations, 3)
    stages = [3] * (threes - 1) + [2, 1] if rest == 0 else [3] * threes + [rest]
    levels = check_levels(uniform_lambda(sigma_max, sigma_min, len(stages)))
    return singlestep(levels, of, [ratios(n) for n in stages])


def ratios(stages: int, r1: float | None = None, r2: float | None = None) -> tuple[float, ...]:
    """Where the stages after the first lie in a step, as shares of h; `ConfigError` if no method has these."""
    first = (1 / 2 if stages == 2 else 1 / 3) if r1 is None else r1
    second = 2 / 3 if r2 is None else r2
    if stages == 3 and (first == second or first == 2 / 3):
        raise ConfigError(f"three stages need r1 != r2 and r1 != 2/3, got r1={first:g}, r2={second:g}")
    return (first, second)[: stages - 1]


def singlestep(levels: Sequence[float], of: Parameterisation, steps: Sequence[tuple[float, ...]]) -> Plan:
    """Plan of exponential one-step methods along checked levels; each step tells the `ratios` of its stages."""
    ops: list[Eval | Lin] = []
    for (start, stop), at in zip(itertools.pairwise(levels), steps, strict=True):
        ops += [Eval(STATE, STATE, start)] if stop == 0.0 else _step(of, start, stop, at)
    return Plan(tuple(ops), tuple(levels))


def _step(of: Parameterisation, start: float, stop: float, at: tuple[float, ...]) -> list[Eval | Lin]:
    h = math.log(start / stop)
    nodes = [stop if r == 1.0 else start * math.exp(-r * h) for r in at]
    ops = evaluate(of, start, STATE, "m0")
    inner, outer = _slopes(of, start, stop, nodes, at)
    for i, (level, slopes) in enumerate(zip(nodes, inner, strict=True), start=1):
        ops += [_advance(of, "stage", start, level, slopes), *evaluate(of, level, "stage", f"m{i}")]
    return [*ops, _advance(of, STATE, start, stop, outer)]


def _slopes(
    of: Parameterisation, start: float, stop: float, nodes: Sequence[float], at: tuple[float, ...]
) -> tuple[list[tuple[float, ...]], tuple[float, ...]]:
    """Weights of m_i - m_0, i = 1, ...: for each stage, and for the step."""

    def bend(to: float) -> float:
        """J over h: the integral of (lambda - lambda_0) / h dkappa, times S."""
        return weights(of, [start, stop], start, to)[1]

    if not at:
        return [], ()
    if len(at) == 1:
        return [()], (bend(stop) / at[0],)
    r1, r2 = at
    # Order 3: b1 r1 + b2 r2 = 1/2, b1 r1^2 + b2 r2^2 = 1/3, and the errors of the stages, b-weighted, cancel.
    b1 = (1 / 2 * r2 - 1 / 3) / (r1 * (r2 - r1))
    b2 = (1 / 3 - 1 / 2 * r1) / (r2 * (r2 - r1))
    first, second = nodes
    bent = bend(second) + b1 / b2 * bend(first)
    return [(), (bent / r1,)], (2.0 * b1 * bend(stop), 2.0 * b2 * bend(stop))


def _advance(of: Parameterisation, dst: str, start: float, stop: float, slopes: tuple[float, ...]) -> Lin:
    """dst <- S(stop) / S(start) x + I m_0 + sum_i slopes_i (m_i - m_0)."""
    (first,) = weights(of, [start], start, stop)
    terms = [(f"m{i}", w) for i, w in enumerate(slopes, start=1) if w != 0.0]
    return Lin(dst, ((STATE, of.scale(stop) / of.scale(start)), ("m0", first - sum(slopes)), *terms))
