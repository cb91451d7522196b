"""A second-order scheme for gas in a tube, as a reference on fine grids: nothing of the package."""

from __future__ import annotations

import numpy as np


def muscl(start: tuple[np.ndarray, ...], length: float, time: float, steps: int) -> np.ndarray:
    """Density by finite volumes of second order (van Leer slopes, HLL, Heun): nothing of the package."""
    density, u, p = start
    v = np.stack([density, density * u, p / 0.4 + 0.5 * density * u * u])
    ratio = time / steps * v.shape[1] / length

    def rate(v: np.ndarray) -> np.ndarray:
        w = np.stack([v[0], v[1] / v[0], 0.4 * (v[2] - 0.5 * v[1] ** 2 / v[0])])
        w = np.concatenate([w[:, :1], w[:, :1], w, w[:, -1:], w[:, -1:]], 1)
        a, b = np.diff(w[:, :-1]), np.diff(w[:, 1:])
        slope = np.where(a * b > 0.0, 2.0 * a * b / np.where(a * b > 0.0, a + b, 1.0), 0.0)
        left, right = (w[:, 1:-1] + 0.5 * slope)[:, :-1], (w[:, 1:-1] - 0.5 * slope)[:, 1:]
        flux, state, speeds = [], [], []
        for r, s, q in (left, right):
            energy = q / 0.4 + 0.5 * r * s * s
            state.append(np.stack([r, r * s, energy]))
            flux.append(np.stack([r * s, r * s * s + q, s * (energy + q)]))
            speeds.append((s - np.sqrt(1.4 * q / r), s + np.sqrt(1.4 * q / r)))
        low = np.minimum(np.minimum(speeds[0][0], speeds[1][0]), 0.0)
        high = np.maximum(np.maximum(speeds[0][1], speeds[1][1]), 0.0)
        middle = (high * flux[0] - low * flux[1] + low * high * (state[1] - state[0])) / (high - low)
        return -ratio * np.diff(middle)

    for _ in range(steps):
        first = v + rate(v)
        v = 0.5 * (v + first + rate(first))
    return v[0]


def entropy_waves(n: int) -> tuple[np.ndarray, ...]:
    """A Mach 3 shock about to run into sines of density (Shu and Osher 1989, example 8), on 10 units."""
    x = 10.0 * (np.arange(n) + 0.5) / n - 5.0
    behind = x < -4.0
    density = np.where(behind, 3.857143, 1.0 + 0.2 * np.sin(5.0 * x))
    return density, np.where(behind, 2.629369, 0.0), np.where(behind, 10.333333, 1.0)
