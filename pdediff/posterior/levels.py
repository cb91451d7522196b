"""Noise levels where the denoiser learns something: a grid from its measured error."""

from __future__ import annotations

import math

import numpy as np

from pdediff.diffusion import Denoiser
from pdediff.samplers import equal_mass, uniform_lambda

NODES = 24
"""Levels at which the error is looked up; between them its trace is linear in log sigma."""


def error_grid(prior: Denoiser, sigma_max: float, sigma_min: float, n: int, even: float = 0.3) -> list[float]:
    """n + 1 falling levels: a share `even` of the steps equal in log sigma, the rest in tr C, C the error of D.

    The denoised states of a chain are a martingale: E |D_s - D_t|^2 = tr C_t - tr C_s from level t to s. Where C does
    not fall, at noise far above the data and far below their smallest scale, a step changes nothing that a Gaussian
    kernel does not have exactly; where it falls most, modes are chosen. Good values: even 0.2 to 0.5. Raises
    ConfigError for n < 1 and levels that do not fall.
    """
    plain = uniform_lambda(sigma_max, sigma_min, n)
    lambdas = np.linspace(-math.log(sigma_max), -math.log(sigma_min), NODES)
    traces = [float(prior.error(float(sigma)).diagonal().double().sum()) for sigma in np.exp(-lambdas)]
    # A measured error may rise a little where it should not.
    falls = np.maximum(-np.diff(traces), 0.0)
    if not falls.sum() > 0.0:
        return plain
    fine = np.linspace(lambdas[0], lambdas[-1], 100 * (NODES - 1) + 1)
    width = lambdas[1] - lambdas[0]
    share = np.repeat(falls / falls.sum() / width, 100)
    share = np.append(share, share[-1])
    found = equal_mass(fine, (1.0 - even) * share + even / (fine[-1] - fine[0]), n)
    return [float(sigma_max), *found[1:-1], float(sigma_min)]
