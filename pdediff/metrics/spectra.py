"""Radial power spectra of periodic and bounded fields, and how far those of draws are from the truth's."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

import numpy as np

from pdediff.metrics.arrays import Draws, Grid, PerDraw, Vector
from pdediff.metrics.weights import normalise

Boundary = Literal["periodic", "bounded"]
METHOD = {"periodic": "Fourier transform", "bounded": "cosine transform (no window, no periodic jump)"}
_FLOOR = 1e-10  # share of the truth's power below which single-precision noise, not the field, is compared


def radial_spectrum(
    fields: Grid, lengths: Sequence[float], boundary: Boundary = "bounded"
) -> tuple[Vector, np.ndarray]:
    """Wavenumber (cycles per unit length) and power in each shell, over the last `len(lengths)` axes.

    The powers of all shells, corners beyond the Nyquist wavenumber included, sum to mean(field^2). Periodic fields
    use the discrete Fourier transform; bounded ones the cosine transform DCT-II, whose modes p are half waves of
    wavenumber p / (2 L) and which needs no window, because its even extension has no jump at the edge (Denis et al.
    2002). Power is in (field units)^2; `lengths` are the sides of the domain in array order.
    """
    from scipy.fft import dctn, fftn

    fields, dims = np.asarray(fields, dtype=np.float64), len(lengths)
    if dims < 1 or fields.ndim < dims:
        raise ValueError(f"lengths must name 1 to {fields.ndim} space axes of the field; got {tuple(lengths)}")
    sides, axes = fields.shape[-dims:], tuple(range(-dims, 0))
    cells = float(np.prod(sides))
    if boundary == "periodic":
        power = np.square(np.abs(np.asarray(fftn(fields, axes=axes))) / cells)
        modes = [np.abs(np.fft.fftfreq(n, 1.0 / n)) / length for n, length in zip(sides, lengths, strict=True)]
    else:
        power = np.square(np.asarray(dctn(fields, type=2, norm="ortho", axes=axes))) / cells
        modes = [np.arange(n) / (2.0 * length) for n, length in zip(sides, lengths, strict=True)]
    width = (1.0 if boundary == "periodic" else 0.5) / max(lengths)
    radius = np.sqrt(sum(np.square(k) for k in np.meshgrid(*modes, indexing="ij")))
    shell = np.rint(radius / width).astype(int).reshape(-1)
    flat = power.reshape(-1, shell.size)
    summed = np.stack([np.bincount(shell, weights=row) for row in flat])
    return width * np.arange(summed.shape[1]), summed.reshape(*fields.shape[:-dims], -1)


def nyquist(sides: Sequence[int], lengths: Sequence[float]) -> float:
    """Largest wavenumber that every axis resolves, cycles per unit length."""
    return min(n / (2.0 * length) for n, length in zip(sides, lengths, strict=True))


def mean_spectrum(
    draws: Draws,
    lengths: Sequence[float],
    boundary: Boundary = "bounded",
    log_weights: PerDraw | None = None,
) -> tuple[Vector, Vector]:
    """Weighted mean spectrum of single draws, averaged over any axis (time) before the space axes; up to Nyquist."""
    draws = np.asarray(draws)
    wavenumber, power = radial_spectrum(draws, lengths, boundary)
    power = power.reshape(len(draws), -1, power.shape[-1]).mean(axis=1)
    weights = normalise(log_weights, len(draws))
    kept = wavenumber <= nyquist(draws.shape[-len(lengths) :], lengths) * (1.0 + 1e-9)
    return wavenumber[kept], (weights @ power)[kept]


def spectral_error(power: Vector, truth: Vector) -> float:
    """Mean over shells of |log10(power / truth)|, in decades, the mean of the field (shell 0) left out.

    Both are raised to 1e-10 of the truth's total, below which rounding rather than the field would be compared.
    """
    floor = _FLOOR * float(np.sum(truth)) + np.finfo(float).tiny
    ratio = np.maximum(power[1:], floor) / np.maximum(truth[1:], floor)
    return float(np.mean(np.abs(np.log10(ratio))))
