"""Chromatographic columns: Laplace transforms of the linear ones, collocation of the others, balances and moments."""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from typing import Any

import numpy as np
import torch
from numpy.polynomial import Chebyshev
from scipy.integrate import solve_ivp
from scipy.linalg import expm
from torch import Tensor
from verification import Exact, Order, Row

from pdediff.pdes import PDE, Chromatography, Clock, Problem
from pdediff.pdes.column import Column

SHORT = Clock(frames=4, interval=0.1, step=0.025)
NARROW: dict[str, Any] = {"peclet": (40.0, 60.0), "clock": SHORT}
SMALL: dict[str, tuple[PDE, int]] = {
    "column": (Chromatography(**NARROW), 16),
    "column_langmuir": (Chromatography(isotherm="langmuir", entrance="dirichlet", **NARROW), 16),
}
# One column for the exact solutions; the feed is t^3, which splines carry exactly until t = 1.
PECLET, AFFINITY, RATE, TIME = 10.0, 1.5, 4.0, 1.0
INJECTION = TIME * 35 / 32


def column(cells: int, step: float, *, initial: Tensor | None = None, **changes: Any) -> tuple[Chromatography, Problem]:
    """An equation with one interval of 1 time unit, and its problem with an empty column."""
    settings = {"peclet": (PECLET,) * 2, "injection": INJECTION, "clock": Clock(2, TIME, step)} | changes
    j = torch.arange(32, dtype=torch.float64)
    inlet = ((j + 1) * (j + 2) * (j + 3) / 32.0**3)[None]
    start = torch.zeros(1, cells, dtype=torch.float64) if initial is None else initial
    numbers = {"peclet": PECLET, "affinity": AFFINITY, "rate": RATE}
    scalars = {name: torch.tensor([value], dtype=torch.float64) for name, value in numbers.items()}
    return Chromatography(**settings), Problem({"inlet": inlet, "initial": start}, scalars)


def _talbot(transform: Callable[[np.ndarray], np.ndarray], t: float, nodes: int = 32) -> np.ndarray:
    """Inverse Laplace transform of a function with its singularities on the negative axis, to about 1e-12.

    The midpoint rule on the contour of Trefethen, Weideman and Schmelzer (2006), section 3. The columns here change by
    3e-9 from 24 to 28 nodes, by 2e-11 to 32 and by 1e-13 to 40.
    """
    theta = np.pi * (2 * np.arange(nodes) + 1) / nodes - np.pi
    cot = 1.0 / np.tan(0.6407 * theta)
    z = nodes / t * (0.5017 * theta * cot - 0.6122 + 0.2645j * theta)
    slope = nodes / t * (0.5017 * cot - 0.5017 * 0.6407 * theta / np.sin(0.6407 * theta) ** 2 + 0.2645j)
    return (np.exp(z * t) * slope * transform(z)).sum(-1).imag / nodes


def _laplace(cells: int, entrance: str) -> tuple[np.ndarray, np.ndarray, float]:
    """Cell means of c and q, and the outlet value, for the feed t^3 at t = 1."""
    faces = np.arange(cells + 1)[:, None] / cells

    def roots(s: np.ndarray) -> tuple[np.ndarray, ...]:
        # c'' / Pe - c' - decay c = 0 with decay = s (1 + k K / (s + k)): exponentials of r_- and r_+
        decay = s * (1.0 + RATE * AFFINITY / (s + RATE))
        root = np.sqrt(1.0 + 4.0 * decay / PECLET)
        low, high = 0.5 * PECLET * (1.0 - root), 0.5 * PECLET * (1.0 + root)
        back = -(low / high) * np.exp(low)  # c' = 0 at the outlet: c = A (e^{low x} + back e^{high (x - 1)})
        robin = 1.0 / PECLET if entrance == "danckwerts" else 0.0
        scale = (1.0 - robin * low) + back * np.exp(-high) * (1.0 - robin * high)
        return low, high, back, 6.0 / (s**4 * TIME**3) / scale

    def means(s: np.ndarray) -> np.ndarray:
        low, high, back, factor = roots(s)
        primitive = np.exp(low * faces) / low + back * np.exp(high * (faces - 1.0)) / high
        return factor * np.diff(primitive, axis=0) * cells

    def end(s: np.ndarray) -> np.ndarray:
        low, _, back, factor = roots(s)
        return factor * (np.exp(low) + back)

    adsorbed = _talbot(lambda s: means(s) * RATE * AFFINITY / (s + RATE), TIME)
    return _talbot(means, TIME), adsorbed, float(_talbot(end, TIME))


def _distance(fields: dict[str, Tensor], exact: tuple[np.ndarray, np.ndarray, float]) -> float:
    mobile, adsorbed = (fields[name][0, -1].numpy() for name in ("mobile", "adsorbed"))
    return max(np.abs(mobile - exact[0]).max(), np.abs(adsorbed - exact[1]).max())


def _space(cell: float, entrance: str = "danckwerts") -> float:
    cells = round(1.0 / cell)
    # near the largest stable step: smaller ones change no digit, the error is that of space
    step = cell**2 * PECLET * (0.55 if entrance == "danckwerts" else 0.35)
    pde, problem = column(cells, step, entrance=entrance)
    return _distance(pde.solve(problem), _laplace(cells, entrance))


def _outlet() -> float:
    pde, problem = column(48, 0.0025)
    return abs(pde.solve(problem)["outlet"][0, -1].item() - _laplace(48, "danckwerts")[2])


@cache
def _matrix_exponential(cells: int, rate: float) -> tuple[np.ndarray, np.ndarray, float]:
    """The discrete column carried exactly: probed transport, linear exchange, and t^3 as a chain of four equations."""
    numbers = {"peclet": PECLET, "affinity": AFFINITY, "rate": rate}
    discrete = Column.build(
        {name: torch.tensor([value], dtype=torch.float64) for name, value in numbers.items()},
        cells,
        dirichlet=False,
        capacity=None,
        dtype=torch.float64,
    )
    probes = torch.eye(cells + 1, dtype=torch.float64)
    answers = [discrete.transport(probe[None, :-1], probe[None, -1]).rate[0].numpy() for probe in probes]
    one, n = np.eye(cells), cells
    system = np.zeros((2 * n + 4, 2 * n + 4))
    system[:n, :n] = np.stack(answers[:-1], 1) - rate * AFFINITY * one
    system[:n, n : 2 * n], system[n : 2 * n, :n] = rate * one, rate * AFFINITY * one
    system[n : 2 * n, n : 2 * n] = -rate * one
    system[:n, 2 * n] = answers[-1]
    for i, factor in enumerate((3.0, 2.0, 1.0)):
        system[2 * n + i, 2 * n + i + 1] = factor
    end = expm(TIME * system)[:, -1]
    return end[:n], end[n : 2 * n], 0.0


def _time(h: float) -> float:
    pde, problem = column(12, h)
    return _distance(pde.solve(problem), _matrix_exponential(12, RATE))


def _stiff() -> float:
    """Exchange a thousand times faster than the step is stable for explicitly."""
    pde, problem = column(12, 0.02)
    rate = torch.full((1,), 1e5, dtype=torch.float64)
    return _distance(pde.solve(Problem(problem.fields, problem.scalars | {"rate": rate})), _matrix_exponential(12, 1e5))


def _chebyshev(degree: int) -> tuple[np.ndarray, np.ndarray]:
    """Points on [0, 1] from the inlet on, and the derivative there (Trefethen 2000, chapter 6)."""
    x = np.cos(np.pi * np.arange(degree + 1) / degree)
    c = np.r_[2.0, np.ones(degree - 1), 2.0] * (-1.0) ** np.arange(degree + 1)
    gaps = x[:, None] - x + np.eye(degree + 1)
    d = np.outer(c, 1.0 / c) / gaps
    d -= np.diag(d.sum(1))
    return 0.5 * (1.0 - x), -2.0 * d


@cache
def _collocation(capacity: float, degree: int = 26) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """c and q of a Langmuir column at Chebyshev points, by DOP853 at 1e-11: nothing shared with the package."""
    x, d = _chebyshev(degree)
    inner = slice(1, degree)
    robin = np.eye(degree + 1)[0] - d[0] / PECLET
    ends = np.linalg.inv(np.array([[robin[0], robin[-1]], [d[-1, 0], d[-1, -1]]]))
    second = d @ d / PECLET - d

    def whole(c: np.ndarray, t: float) -> np.ndarray:
        first, last = ends @ np.array([t**3 - robin[inner] @ c, -d[-1, inner] @ c])
        return np.r_[first, c, last]

    def rate(t: float, y: np.ndarray) -> np.ndarray:
        c, q = whole(y[: degree - 1], t), y[degree - 1 :]
        exchange = RATE * (AFFINITY * c * (1.0 - q / capacity) - q)
        return np.r_[(second @ c - exchange)[inner], exchange]

    end = solve_ivp(rate, (0.0, TIME), np.zeros(2 * degree), method="DOP853", rtol=1e-11, atol=1e-13).y[:, -1]
    return x, whole(end[: degree - 1], TIME), end[degree - 1 :]


def _cell_means(x: np.ndarray, values: np.ndarray, cells: int) -> np.ndarray:
    """Means of the interpolant, by its integral in Chebyshev polynomials."""
    primitive = Chebyshev.fit(x, values, len(x) - 1, domain=[0.0, 1.0]).integ()
    return cells * np.diff(primitive(np.arange(cells + 1) / cells))


def _langmuir_space(cell: float, capacity: float = 0.5) -> float:
    cells = round(1.0 / cell)
    pde, problem = column(cells, cell**2 * PECLET * 0.55, isotherm="langmuir", capacity=capacity)
    x, c, q = _collocation(capacity)
    return _distance(pde.solve(problem), (_cell_means(x, c, cells), _cell_means(x, q, cells), 0.0))


def _balance(isotherm: str, entrance: str = "danckwerts") -> float:
    clock = Clock(31, 0.06, 0.003 if entrance == "danckwerts" else 0.002)
    pde = Chromatography(isotherm=isotherm, entrance=entrance, clock=clock)
    balance = pde.invariants(pde.solve(pde.draw(range(4), 64)))["balance"]
    return (balance - balance[:, :1]).abs().max().item()


def _saturated() -> float:
    """A column fed with concentration 1 until nothing changes holds 1 + K / (1 + K / capacity)."""
    clock = Clock(2, 20.0, 0.02)
    pde, problem = column(16, 0.02, isotherm="langmuir", capacity=0.5, injection=24.0, clock=clock)
    fields = pde.solve(Problem(problem.fields | {"inlet": torch.ones(1, 32, dtype=torch.float64)}, problem.scalars))
    held = (fields["fed"] - fields["collected"])[0, -1].item()
    return abs(held - (1.0 + AFFINITY / (1.0 + AFFINITY / 0.5)))


@cache
def _moments() -> tuple[float, float]:
    """Errors of the delay 1 + K and of the added variance of a pulse (van der Laan 1958: closed ends)."""
    clock = Clock(241, 0.1, 0.02)
    pde, problem = column(16, 0.02, injection=3.5, clock=clock)
    inlet = torch.zeros(1, 32, dtype=torch.float64)
    inlet[0, 4] = 1.0
    t, spacing = clock.times(), 3.5 / 35
    out = pde.solve(Problem(problem.fields | {"inlet": inlet}, problem.scalars))["outlet"][0].numpy()
    mean = (t * out).sum() / out.sum()
    variance = ((t - mean) ** 2 * out).sum() / out.sum()
    spread = (1.0 + AFFINITY) ** 2 * 2.0 * (PECLET - 1.0 + np.exp(-PECLET)) / PECLET**2 + 2.0 * AFFINITY / RATE
    # a cubic B-spline has its mean at its centre, and the variance of four uniform numbers
    return abs(mean - 6.0 * spacing - 1.0 - AFFINITY), abs((variance - spacing**2 / 3.0) / spread - 1.0)


CELLS = (1 / 32, 1 / 48, 1 / 64)
ROWS: list[Row] = [
    Order("chromatography1d", "space", "Laplace transform, Danckwerts inlet", 5.0, CELLS, _space),
    # the slope of the closure at the inlet is of one order less
    Order(
        "chromatography1d",
        "space",
        "Laplace transform, Dirichlet inlet",
        4.0,
        (1 / 24, 1 / 32, 1 / 40),
        lambda cell: _space(cell, "dirichlet"),
    ),
    Exact("chromatography1d", "outlet curve, 48 cells", "Laplace transform", 1e-6, _outlet),
    Order("chromatography1d", "time", "matrix exponential of the cells", 4.0, (0.02, 0.01, 0.005), _time),
    Exact("chromatography1d", "exchange at rate 1e5, step 0.02", "matrix exponential", 1e-4, _stiff),
    Exact("chromatography1d", "delay of a pulse", "1 + K", 1e-7, lambda: _moments()[0]),
    Exact(
        "chromatography1d", "spread of a pulse, 16 cells", "variance (van der Laan 1958)", 1e-4, lambda: _moments()[1]
    ),
    Exact("chromatography1d", "solute made or lost", "0", 1e-12, lambda: _balance("linear")),
    Exact(
        "chromatography1d",
        "solute made or lost, Dirichlet inlet",
        "0",
        1e-12,
        lambda: _balance("linear", "dirichlet"),
    ),
    # the mean of a product of means is kept to fourth order
    Order("chromatography1d_langmuir", "space", "Chebyshev collocation, DOP853", 4.0, CELLS, _langmuir_space),
    Exact("chromatography1d_langmuir", "solute made or lost", "0", 1e-12, lambda: _balance("langmuir")),
    Exact("chromatography1d_langmuir", "held by a saturated column", "1 + K / (1 + K / capacity)", 1e-8, _saturated),
]
