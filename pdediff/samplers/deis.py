"""DEIS: Adams-Bashforth on the noise prediction, as a polynomial in time, in rho or in log rho."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar, Literal

import numpy as np

from pdediff.errors import ConfigError
from pdediff.samplers.ab_pc import Order, multistep
from pdediff.samplers.field import NoisePrediction, Parameterisation
from pdediff.samplers.grids import edm_grid, uniform_lambda
from pdediff.samplers.plan import Plan, check_levels
from pdediff.types import Positive

Variable = Literal["t", "rho", "logrho"]

BETA_MIN, BETA_MAX = 0.1, 20.0
"""The linear beta(t) of the variance-preserving process (Song et al. 2021, app. C)."""

# rho at which the square root in t(rho) has its branch points, on the imaginary axis.
_BRANCH = math.sqrt(-math.expm1(-(BETA_MIN**2) / (2.0 * (BETA_MAX - BETA_MIN))))


def vp_time(rho: float) -> float:
    """Time at which the linear VP process has sigma / alpha = rho; t = 1 at rho = 151.

    With L = log(1 + rho^2) = integral of beta, t = 2 L / (b0 + sqrt(b0^2 + 2 (b1 - b0) L)) (the stable root).
    """
    return float(_time(np.array(rho)))


def vp_level(t: float) -> float:
    """sigma / alpha of the linear VP process at time t; the inverse of `vp_time`."""
    return math.sqrt(math.expm1(BETA_MIN * t + 0.5 * (BETA_MAX - BETA_MIN) * t * t))


def _time(rho: np.ndarray) -> np.ndarray:
    grown = np.log1p(rho**2)
    return 2.0 * grown / (BETA_MIN + np.sqrt(BETA_MIN**2 + 2.0 * (BETA_MAX - BETA_MIN) * grown))


@dataclass(frozen=True)
class NoiseInTime(Parameterisation):
    """Noise prediction with tau = t of the linear VP process at rho = sigma / s.

    dkappa / dt is singular at t = 0 and t is not smooth in rho near 0: the quadrature variable is asinh(rho / b) with
    +-ib the branch points of t(rho), in which both are analytic for |imaginary part| < pi / 2.
    """

    s: float = 1.0
    reaches_zero: ClassVar[bool] = True

    def scale(self, sigma: float) -> float:
        return 1.0

    def tau(self, sigma: float) -> float:
        return vp_time(sigma / self.s)

    def clock(self, sigma: float) -> float:
        return math.asinh(sigma / (self.s * _BRANCH))

    def along(self, clock: np.ndarray) -> np.ndarray:
        return _time(_BRANCH * np.sinh(clock))

    def rate(self, clock: np.ndarray) -> np.ndarray:
        return self.s * _BRANCH * np.cosh(clock)

    def model(self, sigma: float) -> tuple[float, float]:
        return 1.0 / sigma, -1.0 / sigma


@dataclass(frozen=True)
class NoiseInRho(Parameterisation):
    """Noise prediction with tau = kappa = sigma: polynomials with rational weights (linear multistep of the flow)."""

    reaches_zero: ClassVar[bool] = True

    def scale(self, sigma: float) -> float:
        return 1.0

    def tau(self, sigma: float) -> float:
        return sigma

    def rate(self, clock: np.ndarray) -> np.ndarray:
        return np.ones_like(clock)

    def model(self, sigma: float) -> tuple[float, float]:
        return 1.0 / sigma, -1.0 / sigma


@dataclass(frozen=True)
class DEIS:
    """Exponential-integrator multistep of Zhang & Chen (2023): tAB-DEIS and rhoAB-DEIS.

        x' = x + sum_j C_j e_j,    C_j = int_sigma^sigma' l_j(tau(rho)) drho,    e = (x - D) / sigma,

    l_j the Lagrange basis on tau = t, rho or log rho at the last `order` levels; rho is the linear multistep method
    of Karras et al.'s flow, log rho multistep DPM-Solver (Lu et al. 2022). The weights are exact to rounding (in t: for
    steps of up to a factor of 100 in level). sigma = 0 is reached at full order in t and rho, else by the denoised
    state. The first steps run at lower order; in t, whose grid starts with long ones, that shows below errors of 1e-4.
    Time is that of the linear VP process for data of standard deviation `s`, which the other variables do not need.

    Good values: order 3, t for few steps on rough data, log rho for steep spectra.
    """

    source: ClassVar[str] = "Zhang & Chen 2023 (DEIS), tAB and rhoAB"

    variable: Variable = "t"
    order: Order = 3
    s: Positive = 1.0

    @property
    def evaluations(self) -> float:
        """Denoiser evaluations of a step."""
        return 1.0

    @property
    def slope(self) -> int:
        """Promised order of convergence."""
        return self.order

    def integrator(self, steps: int) -> tuple[Parameterisation, int]:
        """Noise prediction with the chosen variable, and the order."""
        chosen: dict[str, Parameterisation] = {
            "t": NoiseInTime(self.s),
            "rho": NoiseInRho(),
            "logrho": NoisePrediction(),
        }
        return chosen[self.variable], self.order

    def grid(self, steps: int, sigma_max: float, sigma_min: float) -> list[float]:
        """Quadratic in t, equal in rho^(1/7) or uniform in log rho, as the variable; only the last needs sigma_min > 0.

        `ConfigError` unless steps >= 1 and sigma_max > sigma_min >= 0.
        """
        if self.variable == "rho":
            return edm_grid(sigma_max, sigma_min, steps)
        if self.variable == "logrho":
            return uniform_lambda(sigma_max, sigma_min, steps)
        if steps < 1 or not 0.0 <= sigma_min < sigma_max < math.inf:
            raise ConfigError(f"a grid needs n >= 1 and sigma_max > sigma_min >= 0, got {steps=}, {sigma_max=}")
        ends = [math.sqrt(vp_time(sigma / self.s)) for sigma in (sigma_max, sigma_min)]
        inner = [self.s * vp_level(float(root) ** 2) for root in np.linspace(ends[0], ends[1], steps + 1)[1:-1]]
        return [float(sigma_max), *inner, float(sigma_min)]

    def plan(self, sigmas: Sequence[float]) -> Plan:
        """The compiled steps; `ConfigError` if the levels do not decrease or are too few for the order."""
        levels = check_levels(sigmas, self.order)
        return multistep(levels, *self.integrator(len(levels) - 1))
