"""Time-Shift: DDIM that evaluates at the level which fits the variance of the state; and an estimate of that level."""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from pdediff.diffusion import Denoiser
from pdediff.diffusion.denoiser import broadcast
from pdediff.errors import ConfigError
from pdediff.samplers.bands import band_of
from pdediff.samplers.experimental.evaluation import Evaluation, ddim, finish
from pdediff.samplers.plan import check_levels
from pdediff.types import NonNegative


@dataclass(frozen=True)
class TimeShift:
    """DDIM with the Time-Shift sampler (Li et al. 2024, alg. 3): the network is told another level than the grid's.

    With var(x) the variance over the points of a row, v the `variance` of the data over the points of one field and
    t the next level,

        s = sqrt(var(x) - v) within [sigma e^-window, sigma e^window],    e = (x - D(x, s)) / s,
        x' = x + (t - sigma) e,

    at levels above `cutoff`, s = sigma below it and in the first step. The paper chooses among the integer times of a
    VP process and compares var(x) with 1 - alpha^2, as if the data had no variance; here the assumption is `variance`,
    the frame x0 + sigma eps, and s not rounded.

    Measured with an exact score: the error does not fall with the steps, because the variance of d independent points
    is known to a relative sqrt(2 / d) only: log(s / sigma) scatters by (1 + v / sigma^2) / sqrt(2 d), or to the edge of
    the window. The points of a smooth field count for far fewer.

    Good values: none known; window = 0 is DDIM to the last bit. `noise_level` estimates the level from the modes in
    which the noise is alone. `ConfigError` for levels that do not decrease; `NumericalError` if the result is not
    finite.
    """

    source: ClassVar[str] = "Li et al. 2024 (Time-Shift sampler), alg. 3, and the authors' code"

    window: NonNegative = 0.1
    variance: NonNegative = 1.0
    cutoff: NonNegative = 0.0

    def __call__(self, denoiser: Denoiser, x: Tensor, sigmas: Sequence[float]) -> Tensor:
        """The state at the last level, from x (batch, channel, *space) at the first."""
        return finish(self._walk, denoiser, x, check_levels(sigmas))

    def level(self, x: Tensor, sigma: float) -> Tensor:
        """s of each row, (batch,), float64, for a state at the nominal level sigma; `cutoff` is not looked at."""
        excess = x.flatten(1).var(1).double() - self.variance
        return excess.clamp(min=0.0).sqrt().clamp(sigma * math.exp(-self.window), sigma * math.exp(self.window))

    def _walk(self, evaluate: Evaluation, x: Tensor) -> Tensor:
        for i, (sigma, after) in enumerate(itertools.pairwise(evaluate.levels)):
            shifted = i > 0 and sigma > self.cutoff
            s = self.level(x, sigma) if shifted else torch.full((len(x),), sigma, dtype=torch.float64, device=x.device)
            denoised = evaluate(x, i, s)
            # D~ = x - sigma e; written so that s = sigma leaves D as it is (number / tensor rounds twice in torch).
            ratio = broadcast(torch.full_like(s, sigma) / s, x)
            x = ddim(x, (1.0 - ratio) * x + ratio * denoised, sigma, after)
        return x


def noise_level(x: Tensor, band: int) -> Tensor:
    """Level of white noise in each row of fields (batch, channel, *space), (batch,), from its small scales alone.

    sigma^2 = mean |x_k|^2 over the modes of radial wave number round(|k|) >= band, k in periods per box and the
    transform orthonormal. With m such modes (all channels, k and -k both) and no signal in them m sigma^2 / truth is
    chi-square with m degrees of freedom, so the relative standard error is 1 / sqrt(2 m); a signal of power p a mode
    raises sigma^2 by p.

    Good values: the lowest band in which sigma^2 is at least 100 times the spectrum of the data (0.5 % of the level).
    `ConfigError` if no mode is left.
    """
    high = (band_of(x.shape[2:]) >= band).to(x.device)
    if not bool(high.any()):
        raise ConfigError(f"no mode of a grid {tuple(x.shape[2:])} has wave number {band} or more")
    modes = torch.fft.fftn(x, dim=tuple(range(2, x.dim())), norm="ortho")
    power = modes.real**2 + modes.imag**2
    return power[:, :, high].flatten(1).mean(1).sqrt()
