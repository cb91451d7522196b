"""Adaptive DPM-Solver: each row chooses its own noise levels; state-dependent, therefore not a plan."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import ClassVar, Literal

import numpy as np
import torch
from torch import Tensor

from pdediff.diffusion import Denoiser
from pdediff.errors import ConfigError, NumericalError
from pdediff.types import Fraction, NonNegative, Positive, PositiveInt

_NODES, _WEIGHTS = np.polynomial.legendre.leggauss(24)

_SHRINK, _GROW = 0.1, 10.0
"""Least and largest ratio of a step to the one before: an estimate of 0 or infinity says no more than that."""

_LEAST = 1e-9
"""A row whose step in lambda falls below has no finite error, or a tolerance below rounding."""


@dataclass(frozen=True)
class AdaptiveDPMSolver:
    """DPM-Solver-12 or -23 with error control (Lu et al. 2022, app. C): two solutions of one step, compared.

    `low` of order `order` - 1 and `high` of order `order` share their evaluations. With t the next level,

        E = rms((high - low) / (S' max(atol, rtol |low| / S', rtol |previous low| / S))),  S = sqrt(s^2 + sigma^2),

    the step is accepted if E <= 1, `high` is the new state, and h <- safety h E^(-1/order), h = log(sigma / t). Every
    row has its own level, step and verdict, so that it does not depend on its batch; rows that have arrived wait for
    the others. E is of size h^order and so is the error of all steps: it is proportional to the tolerance. `s` is the
    standard deviation of the data, S, S' those of the noised states; x / S is the variance-preserving frame of the
    paper. `order` evaluations a try, and one wait for a GPU; no gradients.

    Good values: order 3; the tolerances of the paper for an error of 2 % of s, rtol = 1e-3, atol = rtol / 6 for 0.05 %.
    """

    source: ClassVar[str] = "Lu et al. 2022 (DPM-Solver), app. C"

    order: Literal[2, 3] = 3
    rtol: NonNegative = 0.05
    atol: Positive = 0.0078
    s: Positive = 1.0
    first: Positive = 0.05
    safety: Fraction = 0.9
    max_steps: PositiveInt = 10_000

    @torch.no_grad()
    def __call__(self, denoiser: Denoiser, x: Tensor, sigma_max: float, sigma_min: float) -> tuple[Tensor, Tensor]:
        """Rows x (batch, channel, *space) taken from sigma_max to sigma_min, and the evaluations of each, (batch,).

        The state stays in x.dtype, its levels are float64; the denoiser is called in its own dtype. `ConfigError`
        unless sigma_max > sigma_min > 0; `NumericalError` if a row needs more than `max_steps` tries, or its steps
        shrink to nothing.
        """
        if not 0.0 < sigma_min < sigma_max < math.inf:
            raise ConfigError(f"adaptive steps need sigma_max > sigma_min > 0, got {sigma_max=}, {sigma_min=}")
        last = -math.log(sigma_min)
        levels = torch.full((x.shape[0],), -math.log(sigma_max), dtype=torch.float64, device=x.device)
        h = torch.full_like(levels, self.first)
        tries = torch.zeros_like(levels, dtype=torch.int64)
        error, state, before = torch.zeros_like(h), x, x
        for _ in range(self.max_steps):
            left = last - levels
            whole = h >= left * (1.0 - 1e-9)  # not to leave a step of the size of rounding
            step = _Step(denoiser, state, levels, torch.where(whole, left, h))
            low, high = (step.pair_12 if self.order == 2 else step.pair_23)()
            error = self._error(low, high, before, step)
            tries += left > 0.0
            accepted = (left > 0.0) & (error <= 1.0)
            moved = step.as_column(accepted)
            state, before = torch.where(moved, high, state), torch.where(moved, low, before)
            levels = torch.where(accepted, torch.where(whole, last, levels + step.h), levels)
            h = step.h * (self.safety * error ** (-1.0 / self.order)).nan_to_num(_SHRINK).clamp(_SHRINK, _GROW)
            waiting = levels < last
            some, lost = torch.stack([waiting.any(), (waiting & (h < _LEAST)).any()]).tolist()
            if not some:
                return state, self.order * tries
            if lost:
                break
        raise self._stuck(levels < last, levels, error, int(tries.max()))

    def _error(self, low: Tensor, high: Tensor, before: Tensor, step: _Step) -> Tensor:
        """E of each row, (batch,) in float64; `before` is the last accepted low, at the level the step starts from."""
        s = torch.full_like(step.h, self.s)
        here, there = (step.as_column(torch.hypot(step.level(c), s)) for c in (0.0, 1.0))
        size = torch.maximum(low.abs(), before.abs() * (there / here))
        allowed = torch.maximum(self.atol * there, self.rtol * size)
        return ((high - low) / allowed).flatten(1).double().square().mean(1).sqrt()

    def _stuck(self, waiting: Tensor, levels: Tensor, error: Tensor, tries: int) -> NumericalError:
        rows = waiting.nonzero()[:, 0].tolist()
        row = min(rows, key=lambda i: float(levels[i]))
        sigma = math.exp(-float(levels[row]))
        return NumericalError(
            f"{len(rows)} rows have not arrived after {tries} adaptive steps (max_steps={self.max_steps}); row {row} is"
            f" at noise level sigma={sigma:g} with {float(error[row]):.3g} times the error allowed",
            hint="larger rtol and atol, a larger max_steps, or float64 if the tolerance is near rounding",
            context={"rows": rows[:16], "sigma": sigma},
        )


class _Step:
    """One try of each row: from its level over h in lambda, in the noise prediction e = (x - D) / sigma."""

    def __init__(self, denoiser: Denoiser, x: Tensor, lambdas: Tensor, h: Tensor) -> None:
        self.denoiser, self.x, self.lambdas, self.h = denoiser, x, lambdas, h
        self.e = self._slope(x, 0.0)

    def pair_12(self) -> tuple[Tensor, Tensor]:
        """Order 1 and order 2 with r1 = 1/2."""
        bent = self._slope(self._at(1 / 2), 1 / 2) - self.e
        low = self._at(1.0)
        return low, low - self._bend(1.0, 1 / 2) * bent

    def pair_23(self) -> tuple[Tensor, Tensor]:
        """Order 2 with r1 = 1/3 and order 3 with r1, r2 = 1/3, 2/3."""
        first = self._slope(self._at(1 / 3), 1 / 3) - self.e
        second = self._slope(self._at(2 / 3) - self._bend(2 / 3, 1 / 3) * first, 2 / 3) - self.e
        plain = self._at(1.0)
        return plain - self._bend(1.0, 1 / 3) * first, plain - self._bend(1.0, 2 / 3) * second

    def level(self, c: float) -> Tensor:
        """Noise levels at c of the step, (batch,)."""
        return torch.exp(-self.lambdas - c * self.h)

    def as_column(self, rows: Tensor) -> Tensor:
        """(batch,) against the state, in its dtype unless it is a mask."""
        column = rows.reshape(-1, *[1] * (self.x.dim() - 1))
        return column if rows.dtype == torch.bool else column.to(self.x.dtype)

    def _slope(self, x: Tensor, c: float) -> Tensor:
        sigma = self.level(c)
        denoised = self.denoiser(x.to(self.denoiser.dtype), sigma.to(self.denoiser.dtype)).to(x.dtype)
        if denoised.shape != x.shape:
            raise ConfigError(f"the denoiser returned shape {tuple(denoised.shape)} for a state of {tuple(x.shape)}")
        return (x - denoised) / self.as_column(sigma)

    def _at(self, c: float) -> Tensor:
        """x - sigma_c (exp(c h) - 1) e."""
        return self.x - self.as_column(self.level(c) * torch.expm1(c * self.h)) * self.e

    def _bend(self, c: float, r: float) -> Tensor:
        """sigma_c (exp(c h) - 1 - c h) / (r h) as an integral of positive numbers, which does not cancel at h = 0."""
        nodes = torch.as_tensor(0.5 * (_NODES + 1.0), device=self.h.device)
        weights = torch.as_tensor(0.5 * _WEIGHTS, device=self.h.device)
        ch = c * self.h[:, None]
        total = (torch.exp(ch * (1.0 - nodes)) * nodes * weights).sum(1) * c * c * self.h
        return self.as_column(self.level(c) * total / r)
