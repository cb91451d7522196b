"""Lorenz 1963 and 1996: an independent high-order integration, volumes, symmetry, steady states, budgets, chaos."""

from __future__ import annotations

import math
from functools import cache

import numpy as np
import torch
from scipy.integrate import solve_ivp
from torch import Tensor
from verification import Exact, Order, Row

from pdediff.pdes import PDE, Clock, Lorenz63, Lorenz96, Problem

SMALL: dict[str, tuple[PDE, int]] = {
    "lorenz63": (Lorenz63(rho=(25.0, 35.0), clock=Clock(frames=6, interval=0.05, step=0.0125, warm_up=100)), 8),
    "lorenz96": (Lorenz96(forcing=(6.0, 10.0), clock=Clock(frames=5, interval=0.05, step=0.025, warm_up=50)), 10),
}
STEPS = (0.02, 0.01, 0.005)
INITIAL = ("x_initial", "y_initial", "z_initial")


def three(states: Tensor, rho: float) -> Problem:
    """States `(batch, 3)` of Lorenz63 as a problem."""
    return Problem({}, dict(zip(INITIAL, states.T, strict=True)) | {"rho": torch.full_like(states[:, 0], rho)})


def last_of(fields: dict[str, Tensor]) -> Tensor:
    """The last states of Lorenz63, `(batch, 3)`."""
    return torch.stack([fields[name][:, -1] for name in ("x", "y", "z")], 1)


def _reference_63(t: float, v: np.ndarray, sigma: float, rho: float, beta: float) -> list[float]:
    return [sigma * (v[1] - v[0]), v[0] * (rho - v[2]) - v[1], v[0] * v[1] - beta * v[2]]


def _reference_96(t: float, v: np.ndarray, forcing: float) -> np.ndarray:
    n = len(v)
    return np.array([(v[(i + 1) % n] - v[i - 2]) * v[i - 1] - v[i] + forcing for i in range(n)])


@cache
def _exact_63() -> tuple[Problem, Tensor]:
    """sigma = 9, rho = 30, beta = 2.5, t = 1: no two numbers alike."""
    problem = Lorenz63(9.0, 2.5, (30.0, 30.0)).draw((4,), 1)
    start = [problem.scalars[name].item() for name in INITIAL]
    options = {"method": "DOP853", "rtol": 1e-13, "atol": 1e-13}
    return problem, torch.from_numpy(solve_ivp(_reference_63, (0, 1), start, args=(9.0, 30.0, 2.5), **options).y[:, -1])


def _time_63(h: float) -> float:
    problem, exact = _exact_63()
    found = last_of(Lorenz63(9.0, 2.5, (30.0, 30.0), Clock(2, 1.0, h)).solve(problem))[0]
    return ((found - exact).norm() / exact.norm()).item()


@cache
def _exact_96() -> tuple[Problem, Tensor]:
    problem = Lorenz96().draw((4,), 12)
    start = problem.fields["initial"][0].numpy()
    options = {"method": "DOP853", "rtol": 1e-13, "atol": 1e-13}
    return problem, torch.from_numpy(solve_ivp(_reference_96, (0, 1), start, args=(8.0,), **options).y[:, -1])


def _time_96(h: float) -> float:
    problem, exact = _exact_96()
    x = Lorenz96(clock=Clock(2, 1.0, h)).solve(problem)["x"][0, -1]
    return ((x - exact).norm() / exact.norm()).item()


def _volume(h: float) -> float:
    """log det of the map over a time unit against -(sigma + 1 + beta): volumes shrink at the same rate everywhere."""
    pde = Lorenz63(clock=Clock(2, 1.0, h))

    def flow(state: Tensor) -> Tensor:
        return last_of(pde.solve(three(state[None], 28.0)))[0]

    start = torch.tensor([1.0, -5.0, 20.0], dtype=torch.float64)
    jacobian = torch.autograd.functional.jacobian(flow, start)
    return abs(torch.linalg.slogdet(jacobian).logabsdet.item() + 10.0 + 1.0 + 8.0 / 3.0)


def _mirror() -> float:
    pde = Lorenz63(clock=Clock(40, 0.05, 0.01))
    problem = pde.draw(range(3), 1)
    mirrored = Problem({}, problem.scalars | {name: -problem.scalars[name] for name in ("x_initial", "y_initial")})
    one, other = pde.solve(problem), pde.solve(mirrored)
    signs = {"x": -1.0, "y": -1.0, "z": 1.0}
    return max((one[name] - sign * other[name]).abs().max().item() for name, sign in signs.items())


def _steady() -> float:
    """The two states of steady convection, (+-sqrt(beta (rho - 1)), the same, rho - 1); errors grow like e^{0.09 t}."""
    side = math.sqrt(8.0 / 3.0 * 27.0)
    states = torch.tensor([[side, side, 27.0], [-side, -side, 27.0], [0.0, 0.0, 0.0]], dtype=torch.float64)
    fields = Lorenz63(clock=Clock(20, 0.1, 0.01)).solve(three(states, 28.0))
    return max((fields[name] - states[:, i : i + 1]).abs().max().item() for i, name in enumerate("xyz"))


def _leading_exponent() -> float:
    """Mean growth of small differences over 64 trajectories of 80 time units, against 0.9056 (Sprott 2003)."""
    gap = 1e-7
    pde = Lorenz63(clock=Clock(2, 0.5, 0.01, warm_up=20))
    drawn = pde.draw(range(64), 1)
    state = torch.stack([drawn.scalars[name] for name in INITIAL], 1)
    other = state + gap / math.sqrt(3.0)
    growth = []
    for _ in range(160):
        state, other = last_of(pde.solve(three(torch.cat([state, other]), 28.0))).chunk(2)
        distance = (other - state).norm(dim=1, keepdim=True)
        growth.append(torch.log(distance / gap).mean().item())
        other = state + (gap / distance) * (other - state)
    return abs(float(np.mean(growth[20:])) / 0.5 - 0.9056)


def _ring_energy() -> float:
    """Transport moves energy and makes none: sum x x' = -sum x^2 + F sum x."""
    pde = Lorenz96()
    x = pde.draw(range(4), 40).fields["initial"].T
    rate = (x * pde.tendency(x, torch.tensor(8.0))).sum(0)
    expected = (8.0 * x - x.square()).sum(0)
    return ((rate - expected) / expected).abs().max().item()


def _energy_budget() -> float:
    """(energy)' = F mean - 2 energy over an interval: the integral by Boole's rule on five frames."""
    pde = Lorenz96(clock=Clock(5, 0.005, 0.00125))
    found = pde.invariants(pde.solve(pde.draw(range(4), 40)))
    energy, mean = found["energy"], found["mean"]
    weights = torch.tensor([7.0, 32.0, 12.0, 32.0, 7.0], dtype=torch.float64) / 90.0
    supplied = 0.02 * ((8.0 * mean - 2.0 * energy) * weights).sum(1)
    return (energy[:, -1] - energy[:, 0] - supplied).abs().max().item()


def _rest() -> float:
    """x_i = F for all i is steady; unstable, so not for long."""
    initial = torch.full((1, 40), 8.0, dtype=torch.float64)
    forcing = torch.full((1,), 8.0, dtype=torch.float64)
    x = Lorenz96(clock=Clock(5, 0.05, 0.0125)).solve(Problem({"initial": initial}, {"forcing": forcing}))["x"]
    return (x - 8.0).abs().max().item()


def _turned() -> float:
    pde = Lorenz96(clock=Clock(10, 0.05, 0.0125))
    problem = pde.draw((3,), 40)
    turned = Problem({"initial": problem.fields["initial"].roll(7, -1)}, problem.scalars)
    return (pde.solve(turned)["x"] - pde.solve(problem)["x"].roll(7, -1)).abs().max().item()


ROWS: list[Row] = [
    # errors begin with a small coefficient of h^4: the order is 4.7 at 0.005 and 4.27 at 0.00125
    Order("lorenz63", "time", "DOP853 at 1e-13", 4.0, (0.0025, 0.00125, 0.000625), _time_63),
    # the volume of the map is one number of the same fourth-order scheme
    Order("lorenz63", "volume of the map", "exp(-(sigma + 1 + beta) t)", 4.0, STEPS, _volume),
    Exact("lorenz63", "mirrored trajectories", "(x, y, z) to (-x, -y, z)", 0.0, _mirror),
    Exact("lorenz63", "steady states", "sqrt(beta (rho - 1)), rho - 1", 1e-12, _steady),
    Exact("lorenz63", "leading Lyapunov exponent", "0.9056 (Sprott 2003)", 0.02, _leading_exponent),
    Order("lorenz96", "time", "DOP853 at 1e-13", 4.0, STEPS, _time_96),
    Exact("lorenz96", "energy made by transport", "0", 1e-12, _ring_energy),
    Exact("lorenz96", "energy budget of an interval", "F mean - 2 energy, Boole's rule", 1e-9, _energy_budget),
    Exact("lorenz96", "state of rest", "x = F", 1e-12, _rest),
    Exact("lorenz96", "turned ring", "the turned trajectory", 0.0, _turned),
]
