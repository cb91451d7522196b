"""Parameterisations of the probability-flow ODE and the exact weights of a multistep step.

With x = x0 + sigma eps and D = E[x0 | x], the flow dx/dsigma = (x - D) / sigma is rewritten as

    x = S(sigma) z,    dz = m dkappa,

where m is a combination of x and D that varies slowly. A step integrates the polynomial that interpolates m in
a variable tau(sigma); the four choices differ in S, kappa, m and tau only (DPM-Solver++ of Lu et al. 2022,
UniPC of Zhao et al. 2023, DEIS of Zhang & Chen 2023, EDM of Karras et al. 2022 are all of this form).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar, Literal, Protocol

import numpy as np

from pdediff.samplers.steps import Span

FieldName = Literal["eps", "x0", "v", "F"]

_NODES, _WEIGHTS = np.polynomial.legendre.leggauss(24)


class Parameterisation(Protocol):
    """One parameterisation. Those that inherit from it integrate in tau itself unless they say otherwise."""

    reaches_zero: ClassVar[bool]
    """Whether tau and kappa are finite at sigma = 0, so that a step of any order can end there."""

    def scale(self, sigma: float) -> float:
        """S(sigma)."""
        ...

    def tau(self, sigma: float) -> float:
        """Interpolation variable."""
        ...

    def clock(self, sigma: float) -> float:
        """Variable of the quadrature, in which dkappa and tau are smooth."""
        return self.tau(sigma)

    def along(self, clock: np.ndarray) -> np.ndarray:
        """tau at these values of the quadrature variable."""
        return clock

    def rate(self, clock: np.ndarray) -> np.ndarray:
        """dkappa / dclock."""
        ...

    def model(self, sigma: float) -> tuple[float, float]:
        """(a, b) of m = a x + b D."""
        ...


class Diffusion(Protocol):
    """The noise that a reverse SDE adds in a step."""

    def added(self, start: float, stop: float) -> tuple[float, Span | None]:
        """Variance of the noise of a step from level start to stop, and its stretch of the SDE's Brownian clock."""
        ...


@dataclass(frozen=True)
class NoisePrediction(Parameterisation):
    """Noise prediction: S = 1, kappa = sigma, m = (x - D) / sigma, tau = lambda = -log sigma."""

    reaches_zero: ClassVar[bool] = False

    def scale(self, sigma: float) -> float:
        return 1.0

    def tau(self, sigma: float) -> float:
        return -math.log(sigma)

    def rate(self, clock: np.ndarray) -> np.ndarray:
        return -np.exp(-clock)

    def model(self, sigma: float) -> tuple[float, float]:
        return 1.0 / sigma, -1.0 / sigma


@dataclass(frozen=True)
class DataPrediction(Parameterisation):
    """Data prediction: S = sigma^a, kappa = sigma^-a, m = D, tau = lambda = -log sigma.

    a = 1 is the flow. a = 1 + t^2 is the drift of the reverse SDE whose noise has strength t everywhere
    (SA-Solver, Xue et al. 2023, eq. 11); the noise of a step is then `added`.
    """

    power: float = 1.0
    reaches_zero: ClassVar[bool] = False

    def scale(self, sigma: float) -> float:
        return sigma**self.power

    def tau(self, sigma: float) -> float:
        return -math.log(sigma)

    def rate(self, clock: np.ndarray) -> np.ndarray:
        return self.power * np.exp(self.power * clock)

    def model(self, sigma: float) -> tuple[float, float]:
        return 0.0, 1.0

    def added(self, start: float, stop: float) -> tuple[float, Span | None]:
        """stop^2 (1 - exp(-2 t^2 h)), h = log(start / stop), t^2 = a - 1; the clock of x / S is sigma^(-2 t^2)."""
        strength = self.power - 1.0
        if stop == 0.0 or strength == 0.0:
            return 0.0, None
        variance = -(stop**2) * math.expm1(-2.0 * strength * math.log(start / stop))
        return variance, (start ** (-2.0 * strength), stop ** (-2.0 * strength))


@dataclass(frozen=True)
class VelocityPrediction(Parameterisation):
    """Flow matching: S = s + sigma, kappa = tau = u = sigma / (s + sigma), m = (x - D) / sigma - D / s.

    `s` is the standard deviation of the data; u is the time of the straight-line flow between noise and data
    (Liu et al. 2023) whose data are scaled by s.
    """

    s: float = 1.0
    reaches_zero: ClassVar[bool] = True

    def scale(self, sigma: float) -> float:
        return self.s + sigma

    def tau(self, sigma: float) -> float:
        return sigma / (self.s + sigma)

    def rate(self, clock: np.ndarray) -> np.ndarray:
        return np.ones_like(clock)

    def model(self, sigma: float) -> tuple[float, float]:
        return 1.0 / sigma, -1.0 / sigma - 1.0 / self.s


@dataclass(frozen=True)
class TrigPrediction(Parameterisation):
    """Preconditioned network: S = sqrt(s^2 + sigma^2), tau = phi = atan(sigma / s), kappa = -phi, m = F.

    F is the output of the EDM network, D = c_skip x + c_out F (Karras et al. 2022, eq. 7); it vanishes for data
    N(0, s^2), which every step then integrates exactly.
    """

    s: float = 1.0
    reaches_zero: ClassVar[bool] = True

    def scale(self, sigma: float) -> float:
        return math.hypot(self.s, sigma)

    def tau(self, sigma: float) -> float:
        return math.atan2(sigma, self.s)

    def rate(self, clock: np.ndarray) -> np.ndarray:
        return -np.ones_like(clock)

    def model(self, sigma: float) -> tuple[float, float]:
        total = math.hypot(self.s, sigma)
        return -self.s / (total * sigma), total / (self.s * sigma)


def field(name: FieldName, s: float = 1.0) -> Parameterisation:
    """The parameterisation of this name, for data of standard deviation `s`."""
    made: dict[str, Parameterisation] = {
        "eps": NoisePrediction(),
        "x0": DataPrediction(),
        "v": VelocityPrediction(s),
        "F": TrigPrediction(s),
    }
    return made[name]


def weights(of: Parameterisation, nodes: Sequence[float], start: float, stop: float) -> list[float]:
    """w_j = S(stop) int_start^stop l_j(tau) dkappa, l_j the Lagrange basis on tau at the levels `nodes`.

    24-point Gauss-Legendre in the quadrature variable and float64: exact to rounding, because the integrands are
    entire or analytic in a wide strip of it; no closed form that cancels for small steps is used.
    """
    low, high = of.clock(start), of.clock(stop)
    half = 0.5 * (high - low)
    clock = low + half * (_NODES + 1.0)
    measure = of.scale(stop) * half * _WEIGHTS * of.rate(clock)
    return [float(measure @ values) for values in lagrange([of.tau(sigma) for sigma in nodes], of.along(clock))]


def lagrange(known: Sequence[float], tau: np.ndarray) -> list[np.ndarray]:
    """The Lagrange basis on the nodes `known`, at the points tau."""
    return [
        math.prod(((tau - b) / (a - b) for j, b in enumerate(known) if j != i), start=np.ones_like(tau))
        for i, a in enumerate(known)
    ]
