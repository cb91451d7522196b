"""Independent references: the truncated Fourier systems of KS and Kolmogorov flow, by DOP853 at tolerance 1e-13.

Nothing is shared with the integrator that is measured: another time stepper, another form of the transport term.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from scipy.integrate import solve_ivp

TOLERANCE = 1e-13


def reference(
    settings: Mapping[str, Any], initial: np.ndarray, length: np.ndarray | float, span: np.ndarray | float
) -> np.ndarray:
    """States `(batch, *space)` after the time `span`; it and the side `length` of the box are one or `(batch,)`."""
    spans = np.reshape(span, (-1, *[1] * (initial.ndim - 1)))
    if settings["equation"] == "ks":
        return _integrate(*_ks(initial, length), spans)
    return _integrate(*_kolmogorov(initial, settings), spans)


def relative_l2(value: np.ndarray, truth: np.ndarray) -> np.ndarray:
    """|value - truth| / |truth| of each row."""
    axes = tuple(range(1, truth.ndim))
    return np.sqrt(((value - truth) ** 2).sum(axes) / (truth**2).sum(axes))


def _integrate(start: np.ndarray, rate: Any, to_space: Any, spans: np.ndarray) -> np.ndarray:
    """All rows at a time, each with its own unit of time: its span."""
    shape = start.shape

    def flat(_: float, state: np.ndarray) -> np.ndarray:
        return (spans * rate(state.view(complex).reshape(shape))).ravel().view(float)

    scale = float(np.abs(start).max())
    found = solve_ivp(
        flat, (0.0, 1.0), start.ravel().view(float), method="DOP853", rtol=TOLERANCE, atol=TOLERANCE * scale
    )
    return to_space(found.y[:, -1].copy().view(complex).reshape(shape))


def _ks(initial: np.ndarray, length: np.ndarray | float) -> tuple[np.ndarray, Any, Any]:
    """u_t = -u u_x - u_xx - u_xxxx in the advective form, modes |m| < n/3."""
    points = initial.shape[-1]
    m = np.arange(points // 2 + 1)
    live = 3 * m < points
    k = 2.0 * np.pi * m / np.reshape(length, (-1, 1))

    def to_space(v: np.ndarray) -> np.ndarray:
        return np.fft.irfft(v, n=points, axis=-1)

    def rate(v: np.ndarray) -> np.ndarray:
        product = to_space(v) * to_space(1j * k * v)
        return live * ((k**2 - k**4) * v - np.fft.rfft(product, axis=-1))

    return live * np.fft.rfft(initial, axis=-1), rate, to_space


def _kolmogorov(initial: np.ndarray, settings: Mapping[str, Any]) -> tuple[np.ndarray, Any, Any]:
    """w_t = -u . grad w + nu laplace w - drag w - k cos(k y), modes |m| < n/3 of both axes."""
    points = initial.shape[-1]
    k_y = np.fft.fftfreq(points, 1.0 / points)[:, None]
    k_x = np.arange(points // 2 + 1)[None, :]
    live = (3 * np.abs(k_y) < points) & (3 * k_x < points)
    squared = k_x**2 + k_y**2
    inverse = 1.0 / np.where(squared > 0, squared, np.inf)
    y = 2.0 * np.pi * np.arange(points) / points
    wave = settings["forcing"]
    force = np.fft.rfft2(np.broadcast_to(-wave * np.cos(wave * y)[:, None], (points, points)))

    def to_space(v: np.ndarray) -> np.ndarray:
        return np.fft.irfft2(v, s=(points, points), axes=(-2, -1))

    def rate(w: np.ndarray) -> np.ndarray:
        transport = to_space(1j * k_y * inverse * w) * to_space(1j * k_x * w)
        transport += to_space(-1j * k_x * inverse * w) * to_space(1j * k_y * w)
        linear = (settings["viscosity"] * squared + settings["drag"]) * w
        return live * (force - linear - np.fft.rfft2(transport, axes=(-2, -1)))

    return live * np.fft.rfft2(initial, axes=(-2, -1)), rate, to_space
