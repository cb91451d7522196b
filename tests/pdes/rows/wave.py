"""Acoustic waves: standing waves, Chebyshev collocation, energy, the layer's echo, free space, reciprocity."""

from __future__ import annotations

import math
from functools import cache

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor
from verification import Exact, Order, Row

from pdediff.pdes import PDE, AcousticWave, Clock, Problem
from pdediff.pdes.acoustics import Acoustics
from pdediff.pdes.shots import Survey

_FEW = Clock(frames=4, interval=0.03, step=0.0025)
SMALL: dict[str, tuple[PDE, int]] = {
    "wave": (AcousticWave(width=0.1, layer=4, clock=_FEW), 16),
    "wave_reflected": (AcousticWave(width=0.1, layer=0, clock=_FEW), 16),
}
FREQUENCY = math.pi * math.sqrt(5.0)
"""Of sin(pi x) sin(2 pi y) at speed 1."""


def _centres(n: int) -> Tensor:
    return (torch.arange(n, dtype=torch.float64) + 0.5) / n


def _standing(n: int, step: float) -> tuple[float, float]:
    """Amplitude of sin(pi x) sin(2 pi y) at time 1 with walls, and the largest distance from that shape."""
    x = _centres(n)
    shape = torch.sin(math.pi * x) * torch.sin(2.0 * math.pi * x)[:, None]
    pde = AcousticWave(low=0.5, high=1.0, layer=0, clock=Clock(frames=2, interval=1.0, step=step * n / 64))
    last = pde.solve(Problem({"speed": torch.ones(1, n, n).double(), "initial": shape[None]}))["pressure"][0, -1]
    amplitude = (last * shape).sum() / shape.square().sum()
    return amplitude.item(), (last - amplitude * shape).abs().max().item()


def _time(step: float) -> float:
    """Against cos(w t) of the differences in space: their symbol is (27 sin(a) - sin(3 a)) / 12 h, a half a phase."""
    n = 16
    squared = sum(((27.0 * math.sin(a) - math.sin(3.0 * a)) * n / 12.0) ** 2 for a in (math.pi / 2 / n, math.pi / n))
    return abs(_standing(n, step)[0] - math.cos(math.sqrt(squared)))


def _space(cell: float) -> float:
    """Against the leapfrog of the exact frequency w: cos(W t) with sin(W step / 2) = w step / 2."""
    step = 1.0 / 256
    return abs(_standing(round(1.0 / cell), step)[0] - math.cos(2.0 * math.asin(0.5 * FREQUENCY * step) / step))


def _shape() -> float:
    return _standing(24, 0.01)[1]


@cache
def _chebyshev() -> tuple[np.ndarray, np.ndarray]:
    """P at time 0.5 with P_tt = c(x)^2 (P_xx - pi^2 P), P = 0 at both ends, as Chebyshev coefficients of [0, 1]."""
    m = 48
    nodes = 0.5 - 0.5 * np.cos(np.pi * np.arange(m + 1) / m)
    weights = np.where(np.isin(np.arange(m + 1), (0, m)), 2.0, 1.0) * (-1.0) ** np.arange(m + 1)
    first = np.outer(weights, 1.0 / weights) / (nodes[:, None] - nodes + np.eye(m + 1))
    first -= np.diag(first.sum(1))
    inner = slice(1, m)
    operator = _speed(nodes[inner])[:, None] ** 2 * ((first @ first)[inner, inner] - np.pi**2 * np.eye(m - 1))
    values, vectors = np.linalg.eig(operator)
    start = np.linalg.solve(vectors, _bump(nodes[inner]))
    last = (vectors @ (np.cos(0.5 * np.sqrt(-values.astype(complex))) * start)).real
    return nodes, np.concatenate([[0.0], last, [0.0]])


def _speed(x: np.ndarray) -> np.ndarray:
    return 1.4 + 0.4 * np.sin(5.0 * x)


def _bump(x: np.ndarray) -> np.ndarray:
    return np.exp(-0.5 * ((x - 0.45) / 0.1) ** 2) * np.sin(np.pi * x)


def _variable_speed(cell: float) -> float:
    """p = P(x, t) sin(pi y) with walls, step proportional to cell^2: fourth order in the cell."""
    n = round(1.0 / cell)
    x = _centres(n)
    rise = torch.sin(math.pi * x)[:, None]
    nodes, values = _chebyshev()
    fit = np.polynomial.Chebyshev.fit(nodes, values, len(nodes) - 1, domain=[0.0, 1.0])
    speed = torch.from_numpy(_speed(x.numpy())).expand(1, n, n)
    problem = Problem({"speed": speed, "initial": (torch.from_numpy(_bump(x.numpy())) * rise)[None]})
    pde = AcousticWave(layer=0, clock=Clock(frames=2, interval=0.5, step=4.0 * cell**2 * n / 64))
    exact = torch.from_numpy(fit(x.numpy())) * rise
    return (pde.solve(problem)["pressure"][0, -1] - exact).abs().max().item()


def _energy() -> float:
    pde = AcousticWave(layer=0)
    energy = pde.invariants(pde.solve(pde.draw((1, 2), 32)))["energy"]
    return (energy / energy[:, :1] - 1.0).abs().max().item()


def _echo(problem: Problem) -> float:
    """The square alone, and inside one of three times its side from whose walls nothing comes back in time."""
    n, pde = problem.fields["speed"].shape[-1], AcousticWave(clock=Clock(frames=25, interval=0.04, step=0.0025))
    small = pde.solve(problem)["pressure"]
    speed = F.pad(problem.fields["speed"][:, None], (n,) * 4, mode="replicate")[:, 0] / 3.0
    steps = math.ceil(pde.clock.interval / (pde.clock.step * 64 / n))
    large = Acoustics(speed, pde.clock.interval / steps, 0, 1.0, torch.float64)
    state, worst = large.start(F.pad(problem.fields["initial"], (n,) * 4)), torch.zeros(())
    for frame in small.unbind(1):
        worst = torch.maximum(worst, (frame - large.pressure(state)[:, n : 2 * n, n : 2 * n]).abs().max())
        state = large.advance(state, steps)
    return (worst / small.abs().max()).item()


def _echo_of_one_speed() -> float:
    problem = AcousticWave().draw((3, 4), 48)
    return _echo(Problem({**problem.fields, "speed": torch.full_like(problem.fields["speed"], 1.5)}))


def _free_space() -> float:
    """p(r, t) = 1 / 2 pi times the integral over b > 0 of wavelet(t - r cosh(b) / c), as in d'Alembert's descent."""
    n, speed = 96, 1.5
    survey = Survey(((24, 24),), ((72, 48),), 4.0, 2.0, Clock(61, 1 / 60, 0.25 / n))
    record = survey.gather(torch.full((1, n, n), speed, dtype=torch.float64))[0, 0, :, 0]
    b = torch.linspace(0.0, 9.0, 20001, dtype=torch.float64)
    delays = math.hypot(48, 24) / n / speed * torch.cosh(b)
    exact = torch.trapezoid(survey.wavelet(torch.from_numpy(survey.clock.times())[:, None] - delays), b) / (2 * math.pi)
    return ((record - exact).abs().max() / exact.abs().max()).item()


def _reciprocity() -> float:
    cells = ((3, 5), (20, 17))
    speed = AcousticWave().draw((1,), 32).fields["speed"]
    records = Survey(cells, cells, 4.0, 2.0, Clock(41, 0.03, 0.0075)).gather(speed)[0]
    return ((records[0, :, 1] - records[1, :, 0]).abs().max() / records[0, :, 1].abs().max()).item()


ROWS: list[Row] = [
    Order("wave2d", "time", "standing wave", 2.0, (1 / 32, 1 / 64, 1 / 128), _time),
    Order("wave2d", "space", "standing wave", 4.0, (1 / 8, 1 / 16, 1 / 32), _space),
    Order("wave2d", "space", "Chebyshev collocation, variable speed", 4.0, (1 / 48, 1 / 64, 1 / 96), _variable_speed),
    Exact("wave2d", "shape of a standing wave", "a sine", 1e-12, _shape),
    Exact("wave2d", "energy drift, walls", "0", 1e-12, _energy),
    Exact("wave2d", "echo of the layer, one speed", "a square three times as wide", 1e-5, _echo_of_one_speed),
    # short waves on a coarse grid are slow, and absorbed less well
    Exact(
        "wave2d",
        "echo of the layer, drawn speed",
        "a square three times as wide",
        1e-4,
        lambda: _echo(AcousticWave().draw((3,), 64)),
    ),
    Exact("wave2d", "record of a shot", "Green's function of free space", 4e-3, _free_space),
    Exact("wave2d", "swap of source and receiver", "reciprocity", 1e-12, _reciprocity),
]
