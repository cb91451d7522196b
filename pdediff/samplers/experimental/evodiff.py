"""EVODiff: a two-step method whose differences are weighted by inner products of successive denoised states."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from pdediff.diffusion import Denoiser
from pdediff.samplers.experimental.evaluation import Evaluation, ddim, finish, quotient
from pdediff.samplers.plan import check_levels


@dataclass(frozen=True)
class EVODiff:
    """EVODiff (Li et al. 2025) as its authors' code for EDM models has it, in data prediction.

    A step from s to t after a step from p, with m0 = D at s, m1 = D at p, g = 1 - t / s, r = log(p / s) / log(s / t),
    w = (1 - ((t + t_end) / (t_start + t_end))^2) / 2, P(a, b) = <a, b> / <b, b> over the points of a row and channel
    within [-2, 2], and S the logistic function:

        b(a, b) = (1 - w) sqrt(t p / s^2) + w P(a, b),    d1 = m0 - b(m0, m1) m1,
        x~ = (t / s) x + g m0 + g d1 / (2 r~),            r~ = r S(|b(m0, m1)| / 4) within [r / 4, 3 r / 2],
        m = D(x~),    d2 = m - b(m, m0) m0,               B = -eta d1 / r + (1 - eta) r d2,
        x' = (t / s) x + g m0 + g B / (2 zeta),

    eta = S(|P(r d2 + d1 / r, r d2 - d1 / r)| / 2) / 2 and zeta = S(z - 1/2) for up to 20 steps, S(k (1/2 - z)) above,
    z = |P(g (d1 - B) / (2 r~), d1)| / g, k = S(P(m0, d) (2 - (t / s)^2)), d = (m0 - m1) / (1 / t - 1 / s). m is the m0
    of the next step: one evaluation a step. The first step is DDIM; the last one of the code (`own_end`) is

        x' = (1 - sqrt(t s)) DDIM(x) + g (m0 - (1 - sqrt(y) / 2) m1) / 2,    y = t / s if below 1/2, else t / s - 1/2,

    which multiplies the sample by 1 - sqrt(t s), a number with a unit. A step to sigma = 0 takes m0. Quotients 0 / 0,
    which a point mass meets, are 0.

    Measured with an exact score: the error stalls at sigma_min times the size of the sample, which is what the last
    step of the code takes away; without that step (`own_end` false) the method converges, with order 1 and a larger
    error than DPM-Solver++ 2M at every number of steps.

    Good values: none known. `ConfigError` for levels that do not decrease or fewer than two steps; `NumericalError` if
    the result is not finite.
    """

    source: ClassVar[str] = "Li et al. 2025 (EVODiff), authors' code"

    own_end: bool = True

    def __call__(self, denoiser: Denoiser, x: Tensor, sigmas: Sequence[float]) -> Tensor:
        """The state at the last level, from x (batch, channel, *space) at the first."""
        return finish(self._walk, denoiser, x, check_levels(sigmas, 2))

    def _walk(self, evaluate: Evaluation, x: Tensor) -> Tensor:
        levels = evaluate.levels
        m1 = evaluate(x, 0)
        x = ddim(x, m1, levels[0], levels[1])
        m0 = evaluate(x, 1)
        for i in range(1, len(levels) - 2):
            x, m = self._step(evaluate, x, m0, m1, i)
            m0, m1 = m, m0
        s, t = levels[-2:]
        end = ddim(x, m0, s, t)
        if t == 0.0 or not self.own_end:
            return end
        y = t / s if t / s < 0.5 else t / s - 0.5
        return (1.0 - math.sqrt(t * s)) * end + 0.5 * (1.0 - t / s) * (m0 - (1.0 - 0.5 * math.sqrt(y)) * m1)

    def _step(self, evaluate: Evaluation, x: Tensor, m0: Tensor, m1: Tensor, i: int) -> tuple[Tensor, Tensor]:
        """State at level i + 1 and the evaluation that it cost."""
        levels = evaluate.levels
        p, s, t = levels[i - 1 : i + 2]
        gain, r = 1.0 - t / s, math.log(p / s) / math.log(s / t)
        w = 0.5 * (1.0 - ((t + levels[-1]) / (levels[0] + levels[-1])) ** 2)
        base = (1.0 - w) * math.sqrt(t * p) / s
        euler = ddim(x, m0, s, t)

        balance = base + w * _projection(m0, m1)
        d1 = m0 - balance * m1
        half = (0.5 * gain / r) / torch.sigmoid(0.25 * balance.abs()).clamp(0.25, 1.5)
        m = evaluate(euler + half * d1, i + 1)
        d2 = m - (base + w * _projection(m, m0)) * m0

        eta = 0.5 * torch.sigmoid(0.5 * _projection(r * d2 + d1 / r, r * d2 - d1 / r).abs())
        b = -eta / r * d1 + r * (1.0 - eta) * d2
        z = _projection(half * (d1 - b), d1).abs() / gain
        if len(levels) - 1 > 20:
            along = _projection(m0, (m0 - m1) / (1.0 / t - 1.0 / s))
            zeta = torch.sigmoid((0.5 - z) * torch.sigmoid(along * (2.0 - (t / s) ** 2)))
        else:
            zeta = torch.sigmoid(z - 0.5)
        return euler + 0.5 * gain / zeta * b, m


def _projection(a: Tensor, b: Tensor) -> Tensor:
    """<a, b> / <b, b> within [-2, 2] of each row and channel, shaped to multiply them."""
    products = (a * b).flatten(2).sum(2), (b * b).flatten(2).sum(2)
    return quotient(*products).clamp(-2.0, 2.0).reshape(*a.shape[:2], *[1] * (a.dim() - 2))
