"""SADA: DPM-Solver++ that skips evaluations where the trajectory of a row looks smooth."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from pdediff.diffusion import Denoiser
from pdediff.diffusion.denoiser import broadcast
from pdediff.samplers.experimental.evaluation import Evaluation, finish, inner
from pdediff.samplers.field import DataPrediction, weights
from pdediff.samplers.plan import check_levels
from pdediff.types import Fraction, NonNegativeInt, Positive, PositiveInt


@dataclass(frozen=True, eq=False)
class SADAResult:
    """State at the last level and how often the denoiser saw each row, (batch,)."""

    x: Tensor
    evaluations: Tensor


@dataclass(frozen=True)
class SADA:
    """Stability-guided skipping of evaluations (Jiang et al. 2025, SADA) on DPM-Solver++ 2M, step-wise part.

    With z = x / sqrt(s^2 + sigma^2), the VP state for data of standard deviation s, y = dz / dlog sigma and h the step
    in lambda = -log sigma, a row skips the evaluation at level i + 1 if

        <z_{i+1} - z^, y_i - 2 y_{i-1} + y_{i-2}> <= 0,    z^ = z_i - h (5/8 y_i + 3/4 y_{i-1} - 3/8 y_{i-2}),

    and takes D from the Lagrange polynomial in lambda through its last `points` evaluations instead. No more than
    `max_skips` in a row, only from the fraction `start` of the steps to the fraction `stop`, and never before `points`
    evaluations. Signs and numbers of z^ are those of the authors' code, which decides for the whole batch at once, in
    the time of its VP process (here equal steps in lambda are meant), and before its second half repeats the last noise
    prediction instead of the polynomial; its pruning of tokens is a matter of the network and not here.

    For small steps the sign is that of <z'', z'''>: a row skips where its curvature grows towards the data, not where
    it is small, and in another frame or clock elsewhere (for x itself: nowhere, from 20 steps on).

    Measured with an exact score, at equal evaluations: order 2 is kept. Against DPM-Solver++ 2M without skips 10 steps
    lose, and so do 20 with two skips and 40 with four; the others win by a factor of up to 2.3, but skipping as
    often without looking wins by more, and `Default` is better than all by a factor of 4 and more.

    Good values: none known; max_skips = 0 is DPM-Solver++ 2M. The evaluated rows are gathered, so the denoiser must
    take any subset of rows, and a GPU is waited for in each step. `ConfigError` for levels that do not decrease or
    fewer than two steps; `NumericalError` if the result is not finite.
    """

    source: ClassVar[str] = "Jiang et al. 2025 (SADA), and the authors' code"

    max_skips: NonNegativeInt = 4
    points: PositiveInt = 4
    start: Fraction = 0.2
    stop: Fraction = 0.94
    s: Positive = 1.0

    def __call__(self, denoiser: Denoiser, x: Tensor, sigmas: Sequence[float]) -> SADAResult:
        """The state at the last level, from x (batch, channel, *space) at the first, and what it cost each row."""
        counts = torch.zeros(len(x), dtype=torch.int64, device=x.device)

        def walk(evaluate: Evaluation, x: Tensor) -> Tensor:
            counts.zero_()
            return self._walk(evaluate, x, counts)

        return SADAResult(finish(walk, denoiser, x, check_levels(sigmas, 2)), counts)

    def _walk(self, evaluate: Evaluation, x: Tensor, counts: Tensor) -> Tensor:
        levels = evaluate.levels
        n = len(levels) - 1
        known = _Evaluations(x, self.points)
        skipped = torch.zeros_like(counts)  # in a row
        skip = torch.zeros_like(counts, dtype=torch.bool)
        slopes: list[Tensor] = []
        denoised = x
        for i in range(n):
            before, denoised = denoised, known(evaluate, x, i, skip)
            counts += ~skip
            skipped = (skipped + 1) * skip
            after = _advance(x, denoised, before, levels, i)
            slopes = [self._slope(x, denoised, levels[i]), *slopes[:2]]
            inside = self.start * n <= i + 1 < self.stop * n
            if inside and i + 1 >= max(self.points, 3) and levels[i + 1] > 0.0:
                skip = self.smooth(after, x, slopes, levels[i], levels[i + 1]) & (skipped < self.max_skips)
            else:
                skip = torch.zeros_like(skip)
            x = after
        return x

    def _slope(self, x: Tensor, denoised: Tensor, sigma: float) -> Tensor:
        """dz / dlog sigma."""
        c = math.hypot(self.s, sigma)
        return ((self.s / c) ** 2 * x - denoised) / c

    def smooth(self, after: Tensor, x: Tensor, slopes: Sequence[Tensor], start: float, stop: float) -> Tensor:
        """Rows that may skip the evaluation of `after`, (batch,), from the last three slopes, newest first."""
        y0, y1, y2 = slopes
        z, z_after = x / math.hypot(self.s, start), after / math.hypot(self.s, stop)
        guess = z - math.log(start / stop) * (0.625 * y0 + 0.75 * y1 - 0.375 * y2)
        return (inner(z_after - guess, y0 - 2.0 * y1 + y2) <= 0.0).flatten()


class _Evaluations:
    """The last evaluations of each row, which rows made at different levels."""

    def __init__(self, x: Tensor, points: int) -> None:
        self.values = x.new_zeros(points, *x.shape)
        self.lambdas = torch.zeros(points, len(x), dtype=torch.float64, device=x.device)

    def __call__(self, evaluate: Evaluation, x: Tensor, i: int, skip: Tensor) -> Tensor:
        """D at level i: evaluated, or extrapolated where `skip` says so."""
        now = -math.log(evaluate.levels[i])
        rows, others = (~skip).nonzero()[:, 0], skip.nonzero()[:, 0]
        out = torch.empty_like(x)
        if len(rows) > 0:
            found = evaluate(x[rows], i, rows=rows)
            self.values[:, rows] = torch.cat((self.values[1:, rows], found[None]))
            self.lambdas[:, rows] = torch.cat((self.lambdas[1:, rows], self.lambdas.new_full((1, len(rows)), now)))
            out[rows] = found
        if len(others) > 0:
            basis = _lagrange(self.lambdas[:, others], now)
            known = zip(basis, self.values[:, others], strict=True)
            out[others] = torch.stack([broadcast(c, v) * v for c, v in known]).sum(0)
        return out


def _lagrange(nodes: Tensor, at: float) -> list[Tensor]:
    """Values at one point of the Lagrange basis on nodes (points, rows), which differ from row to row."""
    basis = []
    for a, own in enumerate(nodes):
        factors = [(at - other) / (own - other) for b, other in enumerate(nodes) if b != a]
        basis.append(torch.stack([torch.ones_like(own), *factors]).prod(0))
    return basis


def _advance(x: Tensor, denoised: Tensor, before: Tensor, levels: Sequence[float], i: int) -> Tensor:
    """DPM-Solver++ 2M from level i to i + 1 (order 1 in the first step and to sigma = 0)."""
    start, stop = levels[i], levels[i + 1]
    if stop == 0.0:
        return denoised
    if i == 0:
        (w,) = weights(DataPrediction(), [start], start, stop)
        return (stop / start) * x + w * denoised
    w, w_before = weights(DataPrediction(), [start, levels[i - 1]], start, stop)
    return (stop / start) * x + w * denoised + w_before * before
