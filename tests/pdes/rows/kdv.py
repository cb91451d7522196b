"""Korteweg-de Vries: one soliton, two that pass through each other, three invariants."""

from __future__ import annotations

import math
from functools import cache

import torch
from torch import Tensor
from verification import Exact, Order, Row

from pdediff.pdes import PDE, Clock, KortewegDeVries, Problem

SMALL: dict[str, tuple[PDE, int]] = {"kdv": (KortewegDeVries(length=30.0, clock=Clock(4, 0.4, 0.05, warm_up=2)), 32)}


def soliton(t: float, points: int = 256, length: float = 40.0) -> Tensor:
    """3 c sech^2(sqrt(c) (x - c t) / 2) with c = 1 and its images: they overlap by exp(-length)."""
    x = torch.arange(points, dtype=torch.float64) * length / points - 0.5 * length - t
    return sum((3.0 / torch.cosh(0.5 * (x + image * length)) ** 2 for image in (-1, 0, 1)), torch.zeros(points))


def _carried(start: Tensor, length: float, time: float, h: float) -> dict[str, Tensor]:
    pde = KortewegDeVries(length=length, clock=Clock(2, time, h))
    scalars = {"domain_length": torch.tensor([length], dtype=torch.float64)}
    return pde.solve(Problem({"initial": start[None]}, scalars))


def _one(h: float) -> float:
    exact = soliton(1.0)
    return ((_carried(soliton(0.0), 40.0, 1.0, h)["u"][0, 1] - exact).norm() / exact.norm()).item()


def _two_solitons(x: Tensor, t: float) -> Tensor:
    """12 (log F)_xx with F = 1 + e^a + e^b + ((p - q) / (p + q))^2 e^(a + b), a = p x - p^3 t (Hirota 1971).

    (log F)_xx = F_xx / F - (F_x / F)^2 is a variance: of the slopes 0, p, q, p + q with the terms of F as weights.
    """
    p, q = 1.2, 0.8
    a, b = p * x - p**3 * t, q * x - q**3 * t
    terms = torch.stack([torch.zeros_like(a), a, b, a + b + 2.0 * math.log((p - q) / (p + q))])
    slopes = torch.tensor([0.0, p, q, p + q], dtype=torch.float64)[:, None]
    weights = torch.softmax(terms, 0)
    mean = (weights * slopes).sum(0)
    return 12.0 * (weights * (slopes - mean).square()).sum(0)


@cache
def _met() -> tuple[Tensor, Tensor]:
    """Points, and the state after a meeting."""
    x = torch.arange(512, dtype=torch.float64) * 120.0 / 512 - 60.0
    return x, _carried(_two_solitons(x, -20.0), 120.0, 40.0, 0.01)["u"][0, 1]


def _two() -> float:
    x, u = _met()
    exact = _two_solitons(x, 20.0)
    return ((u - exact).norm() / exact.norm()).item()


def _phase() -> float:
    """The fast one, at -20 p^2 before, is thrown 2 log((p + q) / (p - q)) / p = 2.68 forward; off by how much."""
    fine = 8192
    u = torch.fft.irfft(torch.fft.rfft(_met()[1], norm="forward"), n=fine, norm="forward")
    i = int(u.argmax())
    before, top, after = u[i - 1], u[i], u[i + 1]
    crest = 120.0 / fine * (i + 0.5 * (before - after) / (before - 2.0 * top + after)) - 60.0
    return abs(float(crest) - 20.0 * 1.2**2 - 2.0 * math.log(5.0) / 1.2)


def _drift(name: str) -> float:
    pde = KortewegDeVries()
    value = pde.invariants(pde.solve(pde.draw(range(2), 256)))[name]
    return (value - value[:, :1]).abs().max().item()


ROWS: list[Row] = [
    # at 0.1 the error of the soliton is above its asymptote: 32, 14, 19, 16 times less by each halving
    Order("kdv1d", "time", "one soliton", 4.0, (0.1, 0.05, 0.025, 0.0125, 0.00625), _one),
    *(
        Exact("kdv1d", f"error at step {h:g}", "one soliton", bound, lambda h=h: _one(h))
        for h, bound in ((0.1, 8.4e-5), (0.05, 2.61e-6), (0.025, 1.82e-7), (0.0125, 1e-8))
    ),
    Exact("kdv1d", "error after the meeting", "two solitons", 1e-5, _two),
    Exact("kdv1d", "phase shift of the fast one", "two solitons", 1e-5, _phase),
    Exact("kdv1d", "drift of the mass", "0", 1e-15, lambda: _drift("mass")),
    Exact("kdv1d", "drift of the momentum", "0", 1e-4, lambda: _drift("momentum")),
    Exact("kdv1d", "drift of the Hamiltonian", "0", 1e-4, lambda: _drift("hamiltonian")),
]
