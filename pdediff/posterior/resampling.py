"""Choosing ancestors from weights: five schemes of one signature, each unbiased, on the device of the weights.

A scheme takes weights (particles,) that sum to one, the number n of ancestors, and uniforms on [0, 1); it returns the
ancestors (n,), of which particle i has n w_i in the mean.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Literal

import torch
from torch import Tensor

from pdediff.types import Purpose, derive, uniform

Scheme = Callable[[Tensor, int, Tensor], Tensor]
SchemeName = Literal["systematic", "stratified", "residual", "multinomial", "ssp"]


def systematic(weights: Tensor, n: int, u: Tensor) -> Tensor:
    """Points (j + u_0) / n: particle i gets floor or ceil of n w_i copies (Douc et al. 2005, section 2.4)."""
    points = (torch.arange(n, dtype=torch.float64, device=weights.device) + u[:1].to(weights.device)) / n
    return _invert(weights, points)


def stratified(weights: Tensor, n: int, u: Tensor) -> Tensor:
    """Points (j + u_j) / n, one in each stratum (Douc et al. 2005, section 2.3)."""
    points = (torch.arange(n, dtype=torch.float64, device=weights.device) + u[:n].to(weights.device)) / n
    return _invert(weights, points)


def multinomial(weights: Tensor, n: int, u: Tensor) -> Tensor:
    """Independent draws; the scheme of most theorems and the one with the largest variance."""
    return _invert(weights, u[:n].to(weights.device))


def residual(weights: Tensor, n: int, u: Tensor) -> Tensor:
    """floor(n w_i) copies of each, the rest independently from what is left over (Douc et al. 2005, section 2.2)."""
    exact = n * _normalised(weights)
    # A product that is an integer up to rounding is one: otherwise its copy would be left to chance.
    copies = (exact + 1e-9).floor()
    drawn = _invert((exact - copies).clamp(min=0), u[:n].to(weights.device))
    place = torch.arange(n, dtype=torch.float64, device=weights.device)
    return torch.where(place < copies.sum(), _repeated(copies, n), drawn)


def ssp(weights: Tensor, n: int, u: Tensor) -> Tensor:
    """Srinivasan sampling process: floor or ceil of n w_i copies, and consistent in any order of the particles.

    The fractions of n w are paired along a binary tree; a pair (p, q) moves its mass to one side until one of the two
    is 0 or 1, with the probabilities that keep both means (Gerber, Chopin and Whiteley 2019, section 3.3). A tree and
    not a queue, so that a round is one operation on all pairs; any order fixed beforehand has the same properties.
    """
    exact = n * _normalised(weights)
    copies = (exact + 1e-12).floor()
    size = 1 << max(len(weights) - 1, 0).bit_length()
    mass = torch.zeros(size, dtype=torch.float64, device=weights.device)
    mass[: len(weights)] = (exact - copies).clamp(min=0)
    extra, place, used = torch.zeros_like(mass), torch.arange(size, device=weights.device), 0
    while len(place) > 1:
        p, q, half = mass[0::2], mass[1::2], len(place) // 2
        full = p + q > 1
        # The probability that p is raised: to 1 if there is mass for it, to p + q otherwise.
        chance = torch.where(full, (1 - q) / (2 - p - q), p / (p + q).clamp(min=1e-300))
        settled = full == (u[used : used + half].to(chance) < chance)
        extra[torch.where(settled, place[0::2], place[1::2])] = full.double()
        place, mass = torch.where(settled, place[1::2], place[0::2]), torch.where(full, p + q - 1, p + q)
        used += half
    # The copies sum to n: what the last one gets does not hang on the rounding of its own fraction.
    extra[place] = n - copies.sum() - extra.sum()
    return _repeated(copies + extra[: len(weights)], n)


SCHEMES: Mapping[SchemeName, Scheme] = {
    "systematic": systematic,
    "stratified": stratified,
    "residual": residual,
    "multinomial": multinomial,
    "ssp": ssp,
}


def resample(scheme: SchemeName, log_weights: Tensor, n: int, seed: int, step: int) -> Tensor:
    """Ancestors (n,) by the named scheme, with uniforms keyed by the island's seed and the step."""
    u = uniform((derive(seed, Purpose.RESAMPLE, step),), (max(n, len(log_weights)),))[0]
    return SCHEMES[scheme](log_weights.softmax(0), n, u)


def effective_sample_size(log_weights: Tensor) -> float:
    """1 / sum of squared normalised weights, between 1 and the number of particles."""
    return float(torch.exp(-torch.logsumexp(2 * log_weights.log_softmax(0), 0)))


def _normalised(weights: Tensor) -> Tensor:
    return weights.double() / weights.double().sum()


def _invert(weights: Tensor, points: Tensor) -> Tensor:
    """The particle in whose share of [0, 1) each point lies; weights of any sum."""
    edges = weights.double().cumsum(0)
    # Points are scaled and not edges divided: when no weight is left over, there is nothing to divide by.
    return torch.searchsorted(edges, points * edges[-1], right=True).clamp(max=len(weights) - 1)


def _repeated(copies: Tensor, n: int) -> Tensor:
    """Particle i copies_i times, in order; the length is n whatever the copies sum to, so that no device waits."""
    place = torch.arange(n, dtype=torch.float64, device=copies.device)
    return torch.searchsorted(copies.cumsum(0), place, right=True).clamp(max=len(copies) - 1)
