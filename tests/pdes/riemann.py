"""Exact solutions of Riemann problems, written from the theory and not from the package."""

from __future__ import annotations

import numpy as np
from scipy.optimize import brentq

State = tuple[float, float, float]
"""Density (or depth), velocity and pressure."""


def _curve(p: float, state: State, gamma: float) -> float:
    """Change of velocity across the wave that leads from a state to pressure p (Toro 2009, section 4.2)."""
    density, _, p_0 = state
    c = np.sqrt(gamma * p_0 / density)
    if p <= p_0:
        return 2.0 * c / (gamma - 1.0) * ((p / p_0) ** ((gamma - 1.0) / (2.0 * gamma)) - 1.0)
    a, b = 2.0 / ((gamma + 1.0) * density), (gamma - 1.0) / (gamma + 1.0) * p_0
    return (p - p_0) * np.sqrt(a / (p + b))


def _fan(speed: np.ndarray, state: State, gamma: float) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """State inside a rarefaction that moves to the left, empty behind its tail."""
    density, u, p = state
    c = np.sqrt(gamma * p / density)
    inside = np.maximum(2.0 / (gamma + 1.0) + (gamma - 1.0) / ((gamma + 1.0) * c) * (u - speed), 0.0)
    velocity = 2.0 / (gamma + 1.0) * (c + 0.5 * (gamma - 1.0) * u + speed)
    return density * inside ** (2.0 / (gamma - 1.0)), velocity, p * inside ** (2.0 * gamma / (gamma - 1.0))


def _left_wave(
    speed: np.ndarray, state: State, star: tuple[float, float] | None, gamma: float
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Solution to the left of the contact, at `speed` x / t; `star` holds pressure and velocity there, or vacuum."""
    density, u, p = state
    c = np.sqrt(gamma * p / density)
    fan = _fan(speed, state, gamma)
    if star is None:
        ahead = speed < u - c
        return tuple(np.where(ahead, a, b) for a, b in zip(state, fan, strict=True))  # type: ignore[return-value]
    p_star, u_star = star
    ratio, g = p_star / p, (gamma - 1.0) / (gamma + 1.0)
    if p_star > p:
        shock = u - c * np.sqrt((gamma + 1.0) / (2.0 * gamma) * ratio + (gamma - 1.0) / (2.0 * gamma))
        behind = (density * (ratio + g) / (g * ratio + 1.0), u_star, p_star)
        return tuple(np.where(speed < shock, a, b) for a, b in zip(state, behind, strict=True))  # type: ignore
    behind = (density * ratio ** (1.0 / gamma), u_star, p_star)
    head, tail = u - c, u_star - c * ratio ** ((gamma - 1.0) / (2.0 * gamma))
    parts = zip(state, fan, behind, strict=True)
    return tuple(np.where(speed < head, a, np.where(speed < tail, b, d)) for a, b, d in parts)  # type: ignore


def gas(left: State, right: State, speed: np.ndarray, gamma: float = 1.4) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Density, velocity and pressure of an ideal gas at `speed` = x / t."""
    mirror = (right[0], -right[1], right[2])
    c_left, c_right = (np.sqrt(gamma * s[2] / s[0]) for s in (left, right))
    star_left = star_right = None
    middle = 0.0
    if 2.0 * (c_left + c_right) / (gamma - 1.0) > right[1] - left[1]:
        p = brentq(
            lambda p: _curve(p, left, gamma) + _curve(p, right, gamma) + right[1] - left[1],
            1e-12,
            1e4 * max(left[2], right[2]),
            xtol=1e-16,
            rtol=1e-14,
        )
        middle = 0.5 * (left[1] + right[1] + _curve(p, right, gamma) - _curve(p, left, gamma))
        star_left, star_right = (p, middle), (p, -middle)
    first = _left_wave(speed, left, star_left, gamma)
    density, velocity, p = _left_wave(-speed, mirror, star_right, gamma)
    second = (density, -velocity, p)
    return tuple(np.where(speed < middle, a, b) for a, b in zip(first, second, strict=True))  # type: ignore


def dam(high: float, low: float, speed: np.ndarray, gravity: float = 1.0) -> tuple[np.ndarray, np.ndarray]:
    """Depth and velocity of the dam break of Stoker (1957), of Ritter (1892) where `low` is zero, at x / t."""
    c = np.sqrt(gravity * high)
    fan = ((2.0 * c - speed) ** 2 / (9.0 * gravity), 2.0 / 3.0 * (c + speed))
    still = np.zeros_like(speed)
    if low == 0.0:
        tail, behind = 2.0 * c, (still, still)
    else:

        def mismatch(h: float) -> float:
            return 2.0 * (c - np.sqrt(gravity * h)) - (h - low) * np.sqrt(0.5 * gravity * (1.0 / h + 1.0 / low))

        h = brentq(mismatch, low, high, xtol=1e-15)
        u = 2.0 * (c - np.sqrt(gravity * h))
        bore = h * u / (h - low)
        tail, behind = u - np.sqrt(gravity * h), (np.where(speed < bore, h, low), np.where(speed < bore, u, 0.0))
    ahead = (still + high, still)
    parts = zip(ahead, fan, behind, strict=True)
    return tuple(np.where(speed < -c, a, np.where(speed < tail, b, d)) for a, b, d in parts)  # type: ignore
