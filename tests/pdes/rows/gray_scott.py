"""Gray-Scott patterns: an independent adaptive integrator, the reaction without space, and linear waves."""

from __future__ import annotations

from dataclasses import replace
from functools import cache

import numpy as np
import torch
from scipy.integrate import solve_ivp
from torch import Tensor
from verification import Exact, Order, Row

from pdediff.pdes import PDE, Clock, GrayScott, Problem

PATTERN = GrayScott(regimes=("maze", "bubbles"), spread=0.1, length=0.5, clock=Clock(2, 20.0, 1.0, warm_up=3))
SMALL: dict[str, tuple[PDE, int]] = {"gray_scott": (replace(PATTERN, clock=Clock(3, 20.0, 2.0, warm_up=3)), 32)}
GRIDS = {"gray_scott2d": 64}


@cache
def _reference() -> tuple[Problem, Tensor]:
    """One interval of the truncated system by Dormand and Prince's eighth order, on complex coefficients of its own."""
    case = PATTERN.draw((1,), 24)
    n, top = 24, 7
    feed, kill = (float(case.scalars[name]) for name in ("feed", "kill"))
    m = np.fft.fftfreq(n, 1.0 / n)
    squared = (2.0 * np.pi / PATTERN.length) ** 2 * (m[:, None] ** 2 + m**2)
    keep = (np.abs(m)[:, None] <= top) & (np.abs(m) <= top)

    def rate(_: float, state: np.ndarray) -> np.ndarray:
        a, b = np.fft.fft2(state.reshape(2, n, n)) * keep
        values = np.fft.ifft2(a).real, np.fft.ifft2(b).real
        eaten = np.fft.fft2(values[0] * values[1] ** 2)
        fed = np.zeros((n, n))
        fed[0, 0] = feed * n * n
        a_t = -PATTERN.diffusivity[0] * squared * a - eaten + fed - feed * a
        b_t = -PATTERN.diffusivity[1] * squared * b + eaten - (feed + kill) * b
        return np.fft.ifft2(keep * np.stack([a_t, b_t])).real.ravel()

    start = np.stack([case.fields["initial_a"][0].numpy(), case.fields["initial_b"][0].numpy()])
    end = solve_ivp(rate, (0.0, 20.0), start.ravel(), "DOP853", rtol=1e-11, atol=1e-13).y[:, -1]
    return case, torch.from_numpy(end.reshape(2, n, n))


def _time(h: float) -> float:
    case, exact = _reference()
    fields = replace(PATTERN, clock=Clock(2, 20.0, h)).solve(case)
    found = torch.stack([fields["a"][0, 1], fields["b"][0, 1]])
    return ((found - exact).norm() / exact.norm()).item()


def _problem(a: Tensor, b: Tensor, feed: float, kill: float) -> Problem:
    rates = {name: torch.full((1,), rate, dtype=torch.float64) for name, rate in (("feed", feed), ("kill", kill))}
    return Problem({"initial_a": a[None], "initial_b": b[None]}, rates)


def _well_mixed() -> float:
    """States without space follow the ordinary equation."""
    feed, kill = 0.04, 0.06
    state = torch.tensor([0.6, 0.3], dtype=torch.float64)
    pde = GrayScott(clock=Clock(5, 10.0, 0.2))
    fields = pde.solve(_problem(*state[:, None, None].expand(2, 8, 8), feed, kill))

    def rate(_: float, s: np.ndarray) -> list[float]:
        return [-s[0] * s[1] ** 2 + feed * (1.0 - s[0]), s[0] * s[1] ** 2 - (feed + kill) * s[1]]

    times = pde.clock.times()
    exact = solve_ivp(rate, (0.0, times[-1]), state.numpy(), "DOP853", times, rtol=1e-12, atol=1e-14).y
    found = np.stack([fields["a"][0, :, 3, 5].numpy(), fields["b"][0, :, 3, 5].numpy()])
    return float(np.abs(found - exact).max())


def _without_b() -> float:
    """Where b is absent, a wave of a decays at the rate D_a k^2 + F and its mean returns to 1."""
    n, feed, pde = 16, 0.03, GrayScott(length=2.0, clock=Clock(4, 25.0, 1.0))
    x = torch.arange(n, dtype=torch.float64) / n
    wave = torch.cos(2.0 * torch.pi * (3.0 * x[:, None] + 2.0 * x))
    a = pde.solve(_problem(0.7 + 0.2 * wave, torch.zeros_like(wave), feed, 0.06))["a"][0]
    t = torch.from_numpy(pde.clock.times())[:, None, None]
    k2 = torch.pi**2 * 13.0
    exact = 1.0 - 0.3 * torch.exp(-feed * t) + 0.2 * torch.exp(-(2e-5 * k2 + feed) * t) * wave
    return (a - exact).abs().max().item()


ROWS: list[Row] = [
    Order("gray_scott2d", "time", "Dormand-Prince 8 of the same modes", 4.0, (2.0, 1.0, 0.5), _time),
    Exact("gray_scott2d", "states without space", "the ordinary equation", 1e-8, _well_mixed),
    Exact("gray_scott2d", "waves of a without b", "exp(-(D_a k^2 + F) t)", 1e-13, _without_b),
]
