"""Gaussian fields on a box without periodic edges, diagonal in cosines: the exact prior of many elliptic problems."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import lru_cache

import torch
from torch import Tensor

from pdediff.diffusion.covariance import Covariance
from pdediff.diffusion.denoiser import ShapedByMean, broadcast
from pdediff.diffusion.noise import WhiteNoise
from pdediff.types import Field, Levels, normal

Margin = tuple[tuple[int, int], ...]
"""Points at the low and the high end of each axis; () for none."""


@dataclass(frozen=True, eq=False)
class CosineCovariance:
    """Diagonal in the orthonormal discrete cosines (DCT-II): `spectrum` (channel, *space) holds the eigenvalues.

    Cosines have no slope at the edges: fields whose covariance is a function of the Neumann laplacian. `margin` are
    the points at either end of each axis that are known, as values on an edge are: there the covariance is 0, and
    `solve` its pseudo-inverse.
    """

    spectrum: Tensor
    margin: Margin = ()

    @property
    def shape(self) -> tuple[int, ...]:
        grown = self.margin or ((0, 0),) * (self.spectrum.dim() - 1)
        return (self.spectrum.shape[0], *(n + sum(m) for n, m in zip(self.spectrum.shape[1:], grown, strict=True)))

    def _apply(self, multiplier: Tensor, v: Tensor) -> Tensor:
        return padded(from_cosines(multiplier.to(v) * to_cosines(inside(v, self.margin))), self.margin)

    def matvec(self, v: Tensor) -> Tensor:
        return self._apply(self.spectrum, v)

    def sqrt(self, v: Tensor) -> Tensor:
        """Of unit white noise v, a draw."""
        return self._apply(self.spectrum.sqrt(), v)

    def draw(self, seeds: Sequence[int], dtype: torch.dtype = torch.float32) -> Tensor:
        return self.sqrt(normal(seeds, self.shape, dtype=dtype, device=self.spectrum.device))

    def solve(self, v: Tensor) -> Tensor:
        return self._apply(1 / self.spectrum, v)

    def diagonal(self) -> Tensor:
        variance = self.spectrum[None]
        for _ in self.shape[1:]:
            variance = variance.movedim(2, -1) @ _cosines(variance.shape[2]).to(variance).square()
        return padded(variance, self.margin)[0]

    def scaled(self, factor: float) -> CosineCovariance:
        return CosineCovariance(self.spectrum * factor, self.margin)


@dataclass(frozen=True, eq=False)
class CosineFieldPrior(ShapedByMean):
    """N(mean, S) under white noise, S diagonal in cosines: `spectrum` (channel, *space), its eigenvalues >= 0.

    D(x) = m + S (S + sigma^2)^-1 (x - m), error covariance (S^-1 + sigma^-2)^-1, both exact. For several channels the
    fields are independent. Two matrix products an axis: meant for up to some hundred points a side.
    """

    mean: Tensor
    spectrum: Tensor
    noise: WhiteNoise = field(default_factory=WhiteNoise)

    def __call__(self, x: Field, sigma: Levels) -> Field:
        spectrum = self.spectrum.to(x)
        gain = spectrum / (spectrum + broadcast(sigma, x) ** 2)
        return self.mean.to(x) + from_cosines(gain * to_cosines(x - self.mean.to(x)))

    def error_scale(self, denoised: Field, sigma: float) -> None:
        """None: the error of a Gaussian prior does not depend on the field."""
        return

    def error(self, sigma: float) -> Covariance:
        return CosineCovariance(self.spectrum / (1 + self.spectrum / sigma**2))

    def score(self, x: Field, sigma: Levels) -> Field:
        """Gradient of `log_prob` in x: (S + sigma^2)^-1 (m - x)."""
        variance = self.spectrum.to(x) + broadcast(sigma, x) ** 2
        return from_cosines(to_cosines(self.mean.to(x) - x) / variance)

    def log_prob(self, x: Field, sigma: Levels) -> Tensor:
        """Log density of x0 + sigma * eps at x, (batch,)."""
        variance = self.spectrum.to(x) + broadcast(sigma, x) ** 2
        power = to_cosines(x - self.mean.to(x)).square()
        return -0.5 * (power / variance + variance.log() + math.log(2 * math.pi)).flatten(1).sum(1)

    def flow(self, x: Field, sigma: float, sigma_next: float) -> Field:
        """Exact probability-flow solution from level sigma to sigma_next."""
        ratio = ((self.spectrum + sigma_next**2) / (self.spectrum + sigma**2)).sqrt()
        return self.mean.to(x) + from_cosines(ratio.to(x) * to_cosines(x - self.mean.to(x)))


def known_margin(fields: Tensor) -> Margin:
    """The edges of a box outside of which fields (n, channel, *space) are the same for all n; () where there are none.

    Values that a boundary condition gives belong to the fields, and to no harmonic.
    """
    varies = (fields != fields[:1]).any(0).any(0)
    out = []
    for axis in range(varies.dim()):
        others = [a for a in range(varies.dim()) if a != axis]
        where = (varies.any(dim=others) if others else varies).nonzero().flatten()
        if len(where) == 0:
            return ()
        out.append((int(where[0]), varies.shape[axis] - 1 - int(where[-1])))
    return tuple(out) if any(sum(m) for m in out) else ()


def inside(x: Tensor, margin: Margin) -> Tensor:
    """Fields (n, channel, *space) without the margin."""
    for axis, (low, high) in enumerate(margin, start=2):
        x = x.narrow(axis, low, x.shape[axis] - low - high)
    return x


def padded(x: Tensor, margin: Margin) -> Tensor:
    """Fields with zeros in the margin: the transpose of `inside`."""
    return torch.nn.functional.pad(x, [n for pair in reversed(margin) for n in pair]) if margin else x


def to_cosines(v: Tensor) -> Tensor:
    """Coefficients of the orthonormal discrete cosines of fields (batch, channel, *space)."""
    for _ in range(v.dim() - 2):  # each round moves the axis it deals with to the end
        v = v.movedim(2, -1) @ _cosines(v.shape[2]).to(v).T
    return v


def from_cosines(modes: Tensor) -> Tensor:
    """The fields of these coefficients, the inverse and the transpose of `to_cosines`."""
    for _ in range(modes.dim() - 2):
        modes = modes.movedim(2, -1) @ _cosines(modes.shape[2]).to(modes)
    return modes


@lru_cache(maxsize=16)
def _cosines(n: int) -> Tensor:
    """Rows cos(pi k (i + 1/2) / n), normalised."""
    k = torch.arange(n, dtype=torch.float64)
    rows = torch.cos(math.pi / n * k[:, None] * (k + 0.5)) * math.sqrt(2.0 / n)
    rows[0] = math.sqrt(1.0 / n)
    return rows
