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


def _stream(seed: int) -> np.random.Generator:
    """Generator whose normals come one after the other, so a longer draw continues a shorter one."""
    return np.random.Generator(np.random.PCG64(seed))


@lru_cache(maxsize=8)
def _cosine_order(grid: int) -> tuple[np.ndarray, np.ndarray]:
    """Modes (k_y, k_x) by shells of max(k_x, k_y): the modes of a coarse grid come first, in the same order."""
    k_y, k_x = (k.ravel() for k in np.indices((grid, grid)))
    order = np.lexsort((k_y, k_x, np.maximum(k_x, k_y)))
    return k_y[order], k_x[order]


def periodic_field(seeds: Sequence[int], grid: int, alpha: float, tau: float) -> Tensor:
    """Zero-mean Gaussian fields on the periodic box (0, 2 pi)^2, unit variance, `(len(seeds), grid, grid)`, float64.

    Covariance proportional to (-laplace + tau^2)^(-alpha); modes below grid / 3 only, the live ones of the 2/3 rule.
    A finer grid adds modes and keeps the others (the variance counts the modes up to 64: it is below 1 on
    coarse grids).
    """
    limit = (grid - 1) // 3
    k_x, k_y = _half_plane(limit)
    scale = _spectrum(k_x, k_y, alpha, tau) / _deviation(alpha, tau)
    fields = torch.empty((len(seeds), grid, grid), dtype=torch.float64)
    for row, seed in zip(fields, seeds, strict=True):
        real, imaginary = _stream(seed).standard_normal(2 * len(k_x)).reshape(-1, 2).T
        half = np.zeros((grid, grid // 2 + 1), dtype=np.complex128)
        half[k_y, k_x] = scale * (real + 1j * imaginary)
        column = k_x == 0
        half[-k_y[column], 0] = half[k_y[column], 0].conj()
        row[:] = torch.from_numpy(scipy.fft.irfft2(half, s=(grid, grid), norm="forward"))
    return fields


def _spectrum(k_x: np.ndarray, k_y: np.ndarray, alpha: float, tau: float) -> np.ndarray:
    return (k_x**2 + k_y**2 + tau**2) ** (-alpha / 2.0)


@lru_cache(maxsize=8)
def _deviation(alpha: float, tau: float) -> float:
    """Standard deviation of the field before scaling; the modes of one half plane stand for both."""
    return float(np.sqrt(4.0 * np.sum(_spectrum(*_half_plane(64), alpha, tau) ** 2)))


@lru_cache(maxsize=8)
def _half_plane(limit: int) -> tuple[np.ndarray, np.ndarray]:
    """Modes (k_x, k_y) of one half plane by shells of max(|k_x|, |k_y|), those of a smaller limit first."""
    k_x, k_y = np.meshgrid(np.arange(limit + 1), np.arange(-limit, limit + 1), indexing="ij")
    half = (k_x > 0) | (k_y > 0)
    k_x, k_y = k_x[half], k_y[half]
    order = np.lexsort((k_y, k_x, np.maximum(k_x, np.abs(k_y))))
    return k_x[order], k_y[order]
