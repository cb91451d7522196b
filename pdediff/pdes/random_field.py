"""Gaussian random fields drawn mode by mode, so that one seed names one field at every resolution."""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache

import numpy as np
import scipy.fft
import torch
from torch import Tensor


def cosine_field(seeds: Sequence[int], grid: int, alpha: float, tau: float) -> Tensor:
    """Zero-mean Gaussian fields on the unit square with Neumann eigenfunctions, `(len(seeds), grid, grid)`, float64.

    Covariance tau^(2 alpha - 2) (-laplace + tau^2)^(-alpha): the field is the sum over k != 0, k_x and k_y < grid,
    of xi_k tau^(alpha - 1) (|pi k|^2 + tau^2)^(-alpha/2) phi_k with phi_k the normalised cosines and xi_k ~ N(0, 1),
    at cell centres. A finer grid adds modes and keeps the others (Li et al. 2021, appendix A.3, Darcy flow).
    """
    k = np.arange(grid)
    squares = np.pi**2 * (k[:, None] ** 2 + k[None, :] ** 2)
    scale = tau ** (alpha - 1.0) * (squares + tau**2) ** (-alpha / 2.0)
    scale[0, 0] = 0.0
    k_y, k_x = _cosine_order(grid)
    fields = np.empty((len(seeds), grid, grid))
    for row, seed in zip(fields, seeds, strict=True):
        xi = np.empty((grid, grid))
        xi[k_y, k_x] = _stream(seed).standard_normal(grid * grid)
        # grid: from the orthonormal discrete cosines to the orthonormal ones of the unit square
        row[:] = np.asarray(scipy.fft.idctn(grid * scale * xi, type=2, norm="ortho"))
    return torch.from_numpy(fields)


@lru_cache(maxsize=8)
def cosine_deviation(alpha: float, tau: float, corner: bool = False) -> float:
    """Standard deviation of `cosine_field`, averaged over the square or in a corner, where it is largest; modes to 256.

    It is bounded on all grids for alpha above 1 only.
    """
    k = np.arange(257)
    power = tau ** (2.0 * alpha - 2.0) * (np.pi**2 * (k[:, None] ** 2 + k**2) + tau**2) ** -alpha
    power[0, 0] = 0.0
    peak = np.where((k > 0) & corner, 2.0, 1.0)  # square of a normalised cosine at 0
    return float(np.sqrt(peak @ power @ peak))


def _stream(seed: int) -> np.random.Generator:
    """Generator whose normals come one after the other, so a longer draw continues a shorter one."""
    return np.random.Generator(np.random.PCG64(seed))


@lru_cache(maxsize=8)
def _cosine_order(grid: int) -> tuple[np.ndarray, np.ndarray]:
    """Modes (k_y, k_x) by shells of max(k_x, k_y): the modes of a coarse grid come first, in the same order."""
    k_y, k_x = (k.ravel() for k in np.indices((grid, grid)))
    order = np.lexsort((k_y, k_x, np.maximum(k_x, k_y)))
    return k_y[order], k_x[order]


def periodic_field(seeds: Sequence[int], grid: int, alpha: float, tau: float, dims: int = 2) -> Tensor:
    """Zero-mean Gaussian fields on the periodic box (0, 2 pi)^dims, unit variance, `(len(seeds), *[grid] * dims)`.

    Covariance proportional to (-laplace + tau^2)^(-alpha), float64; modes below grid / 3 only, the live ones of the 2/3
    rule. A finer grid adds modes and keeps the others (the variance counts the modes up to 64: it is below 1 on
    coarse grids). In a box of side L the same array has the covariance of tau * 2 pi / L.
    """
    modes = _half_space((grid - 1) // 3, dims)
    scale = _spectrum(modes, alpha, tau) / periodic_deviation(alpha, tau, dims)
    fields = torch.empty((len(seeds), *[grid] * dims), dtype=torch.float64)
    flat = modes[-1] == 0
    mirror = tuple(-k[flat] for k in modes[:-1])
    for row, seed in zip(fields, seeds, strict=True):
        real, imaginary = _stream(seed).standard_normal(2 * len(scale)).reshape(-1, 2).T
        half = np.zeros((*[grid] * (dims - 1), grid // 2 + 1), dtype=np.complex128)
        half[modes] = scale * (real + 1j * imaginary)
        if dims > 1:  # the half space k_x >= 0 holds both of a pair of conjugates where k_x = 0
            half[(*mirror, 0)] = half[tuple(k[flat] for k in modes)].conj()
        row[:] = torch.from_numpy(scipy.fft.irfftn(half, s=(grid,) * dims, norm="forward"))
    return fields


@lru_cache(maxsize=8)
def periodic_deviation(alpha: float, tau: float, dims: int) -> float:
    """Standard deviation of the sum of c_k exp(i k x), 0 < max|k_j| <= 64, E|c_k|^2 = 2 (|k|^2 + tau^2)^(-alpha)."""
    # the modes of one half space stand for both
    return float(np.sqrt(4.0 * np.sum(_spectrum(_half_space(64, dims), alpha, tau) ** 2)))


def _spectrum(modes: tuple[np.ndarray, ...], alpha: float, tau: float) -> np.ndarray:
    return (sum(k**2 for k in modes) + tau**2) ** (-alpha / 2.0)


@lru_cache(maxsize=8)
def _half_space(limit: int, dims: int) -> tuple[np.ndarray, ...]:
    """Modes of one half space, in array order, by shells of max |k_j|: those of a smaller limit first."""
    both = np.arange(-limit, limit + 1)
    modes = [k.ravel() for k in np.meshgrid(*[both] * (dims - 1), np.arange(limit + 1), indexing="ij")]
    half = np.zeros(len(modes[0]), dtype=bool)
    for k in modes:  # the last axis that is not zero decides
        half = (k > 0) | ((k == 0) & half)
    modes = [k[half] for k in modes]
    order = np.lexsort((*modes, np.max(np.abs(modes), axis=0)))
    return tuple(k[order] for k in modes)
