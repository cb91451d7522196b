"""Grids of noise levels: n + 1 decreasing numbers for n steps."""

from __future__ import annotations

import math

import numpy as np

from pdediff.errors import ConfigError
from pdediff.samplers.field import FieldName


def uniform_lambda(sigma_max: float, sigma_min: float, n: int) -> list[float]:
    """Equal steps in lambda = -log sigma; good for the data field, and on steep spectra."""
    _check(sigma_max, sigma_min, n, zero=False)
    return _ends(np.exp(np.linspace(math.log(sigma_max), math.log(sigma_min), n + 1)), sigma_max, sigma_min)


def edm_grid(sigma_max: float, sigma_min: float, n: int, rho: float = 7.0) -> list[float]:
    """Equal steps in sigma^(1/rho) (Karras et al. 2022, eq. 5)."""
    _check(sigma_max, sigma_min, n)
    roots = np.linspace(sigma_max ** (1.0 / rho), sigma_min ** (1.0 / rho), n + 1)
    return _ends(roots**rho, sigma_max, sigma_min)


def uniform_u(sigma_max: float, sigma_min: float, n: int, s: float = 1.0) -> list[float]:
    """Equal steps in the flow time u = sigma / (s + sigma); good for rough fields of standard deviation s."""
    _check(sigma_max, sigma_min, n)
    u = np.linspace(sigma_max / (s + sigma_max), sigma_min / (s + sigma_min), n + 1)
    return _ends(s * u / (1.0 - u), sigma_max, sigma_min)


def uniform_phi(sigma_max: float, sigma_min: float, n: int, s: float = 1.0) -> list[float]:
    """Equal steps in the angle phi = atan(sigma / s)."""
    _check(sigma_max, sigma_min, n)
    phi = np.linspace(math.atan2(sigma_max, s), math.atan2(sigma_min, s), n + 1)
    return _ends(s * np.tan(phi), sigma_max, sigma_min)


def blended(sigma_max: float, sigma_min: float, n: int, s: float = 1.0) -> list[float]:
    """Half of the nodes as `uniform_u`, half as `uniform_lambda`: each interval holds an equal share of the mean.

    Never the best and never bad: within about 3x of the better of the two on rough and on steep spectra.
    """
    _check(sigma_max, sigma_min, n, zero=False)
    lambdas = np.linspace(-math.log(sigma_max), -math.log(sigma_min), 4001)
    sigma = np.exp(-lambdas)
    flow = s * sigma / (s + sigma) ** 2
    total = sigma_max / (s + sigma_max) - sigma_min / (s + sigma_min)
    levels = equal_mass(lambdas, flow / total + 1.0 / (lambdas[-1] - lambdas[0]), n)
    return _ends(np.array(levels), sigma_max, sigma_min)


def natural_grid(name: FieldName, n: int, sigma_max: float, sigma_min: float, s: float = 1.0) -> list[float]:
    """The grid on which the field of this name is usually run; sigma_min may be 0 for fields v and F."""
    if name == "v":
        return uniform_u(sigma_max, sigma_min, n, s)
    if name == "F":
        return uniform_phi(sigma_max, sigma_min, n, s)
    return uniform_lambda(sigma_max, sigma_min, n)


def equal_mass(lambdas: np.ndarray, density: np.ndarray, n: int) -> list[float]:
    """n + 1 levels between which the density over increasing lambda = -log sigma has equal mass."""
    steps = 0.5 * (density[1:] + density[:-1]) * np.diff(lambdas)
    mass = np.concatenate([[0.0], np.cumsum(steps)])
    nodes = np.interp(np.linspace(0.0, mass[-1], n + 1), mass, lambdas)
    return [float(level) for level in np.exp(-nodes)]


def _ends(levels: np.ndarray, sigma_max: float, sigma_min: float) -> list[float]:
    # The end points are the caller's numbers, not their rounded images.
    return [float(sigma_max), *(float(level) for level in levels[1:-1]), float(sigma_min)]


def _check(sigma_max: float, sigma_min: float, n: int, *, zero: bool = True) -> None:
    low = 0.0 if zero else math.ulp(0.0)
    if n < 1 or not low <= sigma_min < sigma_max < math.inf:
        kind = ">=" if zero else ">"
        raise ConfigError(
            f"a grid needs n >= 1 and sigma_max > sigma_min {kind} 0, got n={n}, {sigma_max=}, {sigma_min=}"
        )
