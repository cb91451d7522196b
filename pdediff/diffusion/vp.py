"""Processes whose signal decays as alpha = exp(-int beta / 2): variance preserving and their relatives.

With B(t) = int_0^t beta all levels are functions of B that neither cancel near t = 0 nor need a root finder.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from functools import cached_property

import numpy as np
import torch
from torch import Tensor

from pdediff.diffusion.processes import Process, Time, real
from pdediff.errors import ConfigError
from pdediff.types import Positive


def _integral(beta_0: float, beta_1: float, t: Time) -> Tensor:
    """B(t) for the linear rate beta_0 + (beta_1 - beta_0) t."""
    t = real(t)
    return beta_0 * t + 0.5 * (beta_1 - beta_0) * t**2


def _inverse_integral(beta_0: float, beta_1: float, integral: Tensor) -> Tensor:
    """t from B(t): of the two forms of the root, the one without a difference of near numbers."""
    return 2.0 * integral / ((beta_0**2 + 2.0 * (beta_1 - beta_0) * integral).sqrt() + beta_0)


@dataclass(frozen=True)
class VPLinear(Process):
    """alpha = exp(-B / 2), sigma^2 = 1 - alpha^2, rate beta from beta_0 to beta_1 (Song et al. 2021, eq. 11 and 29).

    level^2 = e^B - 1. Good values: 0.1 and 20, the limit of the 1000 steps of DDPM.
    """

    beta_0: Positive = 0.1
    beta_1: Positive = 20.0

    @property
    def span(self) -> tuple[float, float]:
        return 1e-3, 1.0

    def alpha(self, t: Time) -> Tensor:
        return (-0.5 * _integral(self.beta_0, self.beta_1, t)).exp()

    def sigma(self, t: Time) -> Tensor:
        return (-torch.expm1(-_integral(self.beta_0, self.beta_1, t))).sqrt()

    def level(self, t: Time) -> Tensor:
        return torch.expm1(_integral(self.beta_0, self.beta_1, t)).sqrt()

    def time(self, level: Time) -> Tensor:
        return _inverse_integral(self.beta_0, self.beta_1, torch.log1p(real(level) ** 2))

    def drift(self, t: Time) -> Tensor:
        return -0.5 * self.diffusion(t)

    def diffusion(self, t: Time) -> Tensor:
        return self.beta_0 + (self.beta_1 - self.beta_0) * real(t)


@dataclass(frozen=True)
class SubVP(Process):
    """alpha as `VPLinear`, sigma = 1 - alpha^2 (Song et al. 2021, eq. 12 and 29).

    level = (1 - alpha^2) / alpha = 2 sinh(B / 2), hence B = 2 asinh(level / 2).
    """

    beta_0: Positive = 0.1
    beta_1: Positive = 20.0

    @property
    def span(self) -> tuple[float, float]:
        return 1e-3, 1.0

    def alpha(self, t: Time) -> Tensor:
        return (-0.5 * _integral(self.beta_0, self.beta_1, t)).exp()

    def sigma(self, t: Time) -> Tensor:
        return -torch.expm1(-_integral(self.beta_0, self.beta_1, t))

    def level(self, t: Time) -> Tensor:
        return 2.0 * (0.5 * _integral(self.beta_0, self.beta_1, t)).sinh()

    def time(self, level: Time) -> Tensor:
        return _inverse_integral(self.beta_0, self.beta_1, 2.0 * (0.5 * real(level)).asinh())

    def drift(self, t: Time) -> Tensor:
        return -0.5 * (self.beta_0 + (self.beta_1 - self.beta_0) * real(t))

    def diffusion(self, t: Time) -> Tensor:
        return 2.0 * self.drift(t) * torch.expm1(-2.0 * _integral(self.beta_0, self.beta_1, t))


@dataclass(frozen=True)
class MeanReverting(Process):
    """dx = theta (mu - x) dt + g dw with g^2 = 2 theta stationary^2, theta linear from theta_0 to theta_1.

    x_t - mu = alpha (x0 - mu) + sigma eps, alpha = exp(-int theta), sigma^2 = stationary^2 (1 - alpha^2) (Luo et al.
    2023, section 3.1). This class holds alpha and sigma; `Affine` adds mu, a coarse solve or a forecast.
    """

    theta_0: Positive = 0.05
    theta_1: Positive = 10.0
    stationary: Positive = 1.0

    @property
    def span(self) -> tuple[float, float]:
        return 1e-3, 1.0

    def alpha(self, t: Time) -> Tensor:
        return (-_integral(self.theta_0, self.theta_1, t)).exp()

    def sigma(self, t: Time) -> Tensor:
        return self.stationary * (-torch.expm1(-2.0 * _integral(self.theta_0, self.theta_1, t))).sqrt()

    def level(self, t: Time) -> Tensor:
        return self.stationary * torch.expm1(2.0 * _integral(self.theta_0, self.theta_1, t)).sqrt()

    def time(self, level: Time) -> Tensor:
        integral = 0.5 * torch.log1p((real(level) / self.stationary) ** 2)
        return _inverse_integral(self.theta_0, self.theta_1, integral)

    def drift(self, t: Time) -> Tensor:
        return -(self.theta_0 + (self.theta_1 - self.theta_0) * real(t))

    def diffusion(self, t: Time) -> Tensor:
        return -2.0 * self.stationary**2 * self.drift(t)


@dataclass(frozen=True)
class VPCosine(Process):
    """alpha = cos(a) / cos(a_0), a = (t + s) / (1 + s) pi / 2, a_0 = a(0) (Nichol & Dhariwal 2021, eq. 17).

    level^2 = sin(a - a_0) sin(a + a_0) / cos(a)^2. The level is infinite at t = 1: the usual end is t = 0.9946, where
    it is 119 (the cut of DPM-Solver, Lu et al. 2022).
    """

    s: Positive = 0.008

    @property
    def span(self) -> tuple[float, float]:
        return 1e-3, 0.9946

    @property
    def _rate(self) -> float:
        return 0.5 * math.pi / (1.0 + self.s)

    @property
    def _start(self) -> float:
        return self._rate * self.s

    def alpha(self, t: Time) -> Tensor:
        return (self._start + self._rate * real(t)).cos() / math.cos(self._start)

    def sigma(self, t: Time) -> Tensor:
        turned = self._rate * real(t)
        return (turned.sin() * (turned + 2.0 * self._start).sin()).sqrt() / math.cos(self._start)

    def level(self, t: Time) -> Tensor:
        return self.sigma(t) / self.alpha(t)

    def time(self, level: Time) -> Tensor:
        # tan(a)^2 - tan(a_0)^2 = level^2 / cos(a_0)^2, and the tangent of a difference.
        before, excess = math.tan(self._start), (real(level) / math.cos(self._start)) ** 2
        after = (excess + before**2).sqrt()
        turned = torch.atan2(excess, (after + before) * (1.0 + after * before))
        return turned / self._rate

    def drift(self, t: Time) -> Tensor:
        return -self._rate * (self._start + self._rate * real(t)).tan()

    def diffusion(self, t: Time) -> Tensor:
        return -2.0 * self.drift(t)


def _linear_betas() -> tuple[float, ...]:
    return tuple(np.linspace(1e-4, 0.02, 1000).tolist())


@dataclass(frozen=True)
class DDPMTable(Process):
    """The discrete process alpha_i^2 = prod_{j <= i} (1 - beta_j), i = 0 .. n - 1 (Ho et al. 2020, eq. 4).

    Time is the step number; between two steps log level is interpolated linearly, as samplers of real time need.
    Good values: the linear table of 1000, levels 0.01 to 157. `ConfigError` unless all betas lie in (0, 1).
    """

    betas: tuple[float, ...] = field(default_factory=_linear_betas)

    def __post_init__(self) -> None:
        if len(self.betas) < 2 or not all(0.0 < beta < 1.0 for beta in self.betas):
            raise ConfigError("a DDPM table needs at least two betas, all between 0 and 1")

    @cached_property
    def _logs(self) -> Tensor:
        """log level at the steps."""
        integral = -torch.log1p(-torch.tensor(self.betas, dtype=torch.float64)).cumsum(0)
        return 0.5 * torch.expm1(integral).log()

    @property
    def span(self) -> tuple[float, float]:
        return 0.0, len(self.betas) - 1.0

    def _slope(self, t: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Last step before t, log level there and its slope up to the next step."""
        logs = self._logs.to(t.device)
        before = t.detach().floor().clamp(0, len(self.betas) - 2).long()
        return before, logs[before], logs[before + 1] - logs[before]

    def level(self, t: Time) -> Tensor:
        t = real(t)
        before, log, slope = self._slope(t)
        return (log + slope * (t - before)).exp()

    def time(self, level: Time) -> Tensor:
        log = real(level).log()
        before = torch.searchsorted(self._logs.to(log.device), log.detach().contiguous()) - 1
        before, start, slope = self._slope(before.double())
        return before + (log - start) / slope

    def alpha(self, t: Time) -> Tensor:
        return (1.0 + self.level(t) ** 2).rsqrt()

    def sigma(self, t: Time) -> Tensor:
        return self.level(t) * self.alpha(t)

    def drift(self, t: Time) -> Tensor:
        return -(self.sigma(t) ** 2) * self._slope(real(t))[2]

    def diffusion(self, t: Time) -> Tensor:
        return -2.0 * self.drift(t)
