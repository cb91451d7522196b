"""Outgoing waves of the Helmholtz equation in a medium: perfectly matched layer, sparse factorisation, derivatives."""

from __future__ import annotations

import math
from functools import lru_cache
from typing import Any

import numpy as np
import scipy.sparse
import scipy.sparse.linalg
import torch
from torch import Tensor

from pdediff.errors import NumericalError

# What a continuous layer would send back at normal incidence, and the power by which its absorption grows: with these
# 12 cells send back 1e-5 of the wave at 10 to 40 cells a wavelength (8 cells 2e-4, 16 cells 4e-6).
REFLECTION, GROWTH = 1e-8, 3
LARGEST_RESIDUAL = 1e-8
_HINT = "the contrast must be finite; take a finer grid"


def radiate(contrast: Tensor, sources: Tensor, wave_number: float, layer: int) -> Tensor:
    """Outgoing u with laplace u + k^2 (1 + q) u = source in the plane, q = 0 outside the unit square.

    `contrast` q `(batch, y, x)`, real, `sources` `(batch, source, y, x)`, complex, both at the cell centres of the
    square; u as the sources. Time factor exp(-i k t): a point source of strength -1 radiates i/4 H0(k r). Five-point
    differences (second order), around the square `layer` cells in which x becomes x + i/k times the integral of the
    absorption (Chew and Weedon 1994). The matrix is symmetric: swapping source and receiver changes nothing.
    One sparse LU per row (SuperLU, on the CPU) serves all its sources and all derivatives of any order, backwards
    and forwards. Raises NumericalError where a factorisation fails or leaves a relative residual above 1e-8.
    """
    return _Radiate.apply(contrast, sources, _Factors(wave_number, layer))  # type: ignore[no-any-return]


class _Factors:
    """Factorisations of the rows of one contrast, made when first asked for."""

    def __init__(self, wave_number: float, layer: int) -> None:
        self.wave_number, self.layer = wave_number, layer
        self._made: list[tuple[scipy.sparse.csc_array, Any]] = []

    def solve(self, contrast: Tensor, sources: Tensor) -> Tensor:
        """u for each source of each row."""
        q, right = contrast.detach().cpu().double().numpy(), sources.detach().cpu().to(torch.complex128).numpy()
        n, layer = q.shape[-1], self.layer
        out = np.empty_like(right)
        if not self._made:
            self._made = [self._factorise(row) for row in q]
        for row, b, (matrix, factor) in zip(out, right, self._made, strict=True):
            padded = np.pad(b, ((0, 0), (layer, layer), (layer, layer))).reshape(len(b), -1).T
            u = factor.solve(padded)
            left, size = np.linalg.norm(matrix @ u - padded, axis=0), np.linalg.norm(padded, axis=0)
            if not (left <= LARGEST_RESIDUAL * size).all():
                worst = float(np.max(left / np.where(size > 0.0, size, 1.0)))
                message = f"factorisation for wave number {self.wave_number:g} leaves a residual of {worst:.2g}"
                raise NumericalError(message, hint=_HINT)
            row[:] = u.T.reshape(len(b), n + 2 * layer, -1)[:, layer : layer + n, layer : layer + n]
        return torch.from_numpy(out).to(sources.device)

    def _factorise(self, q: np.ndarray) -> tuple[scipy.sparse.csc_array, Any]:
        background, diagonal = _background(q.shape[-1], self.layer, self.wave_number)
        matrix = background.copy()
        matrix.data[diagonal] += self.wave_number**2 * np.pad(q, self.layer).ravel()
        # without pivoting: symmetric, and small pivots would show in the residual
        options = {"SymmetricMode": True}
        try:
            factor = scipy.sparse.linalg.splu(
                matrix, permc_spec="MMD_AT_PLUS_A", diag_pivot_thresh=0.0, options=options
            )
        except RuntimeError as error:
            raise NumericalError(f"no factorisation for wave number {self.wave_number:g}", hint=_HINT) from error
        return matrix, factor


class _Radiate(torch.autograd.Function):
    """u = A(q)^-1 b with A symmetric: A du = db - k^2 dq u, and backwards lambda = conj(A^-1 conj(grad))."""

    @staticmethod
    def forward(contrast: Tensor, sources: Tensor, factors: _Factors) -> Tensor:
        return factors.solve(contrast, sources)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Tensor, Tensor, _Factors], output: Tensor) -> None:
        ctx.factors = inputs[2]
        ctx.save_for_backward(inputs[0], output)
        ctx.save_for_forward(inputs[0], output)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, Tensor, None]:
        contrast, u = ctx.saved_tensors
        adjoint = _Radiate.apply(contrast, grad.conj().resolve_conj(), ctx.factors).conj()
        return -(ctx.factors.wave_number**2) * (u.conj() * adjoint).real.sum(1), adjoint, None

    @staticmethod
    def jvp(ctx: Any, d_contrast: Tensor, d_sources: Tensor, _: None) -> Tensor:
        contrast, u = ctx.saved_tensors
        right = d_sources - ctx.factors.wave_number**2 * d_contrast.unsqueeze(1) * u
        return _Radiate.apply(contrast, right, ctx.factors)  # type: ignore[no-any-return]

    @staticmethod
    def vmap(
        info: Any, in_dims: tuple[int | None, ...], contrast: Tensor, sources: Tensor, factors: _Factors
    ) -> tuple[Tensor, int]:
        many, (c_dim, s_dim) = info.batch_size, in_dims[:2]
        sources = sources.movedim(s_dim, 0) if s_dim is not None else sources.expand(many, *sources.shape)
        if c_dim is None:  # one medium: more sources for the same factors
            u = _Radiate.apply(contrast, sources.movedim(0, 1).flatten(1, 2), factors)
            return u.unflatten(1, (many, -1)).movedim(1, 0), 0
        contrast = contrast.movedim(c_dim, 0).flatten(0, 1)
        fresh = _Factors(factors.wave_number, factors.layer)
        return _Radiate.apply(contrast, sources.flatten(0, 1), fresh).unflatten(0, (many, -1)), 0


@lru_cache(maxsize=8)
def _background(n: int, layer: int, wave_number: float) -> tuple[scipy.sparse.csc_array, np.ndarray]:
    """The matrix for q = 0, multiplied by the stretches so that it is symmetric, and where its diagonal is stored."""
    size = n + 2 * layer
    centres = _stretch((np.arange(size) - layer + 0.5) / n, layer / n, wave_number)
    faces = _stretch((np.arange(size + 1) - layer) / n, layer / n, wave_number)
    across = n**2 * centres[:, None] / faces[None, :]
    along = across.T
    diagonal = wave_number**2 * centres[:, None] * centres[None, :]
    diagonal -= across[:, 1:] + across[:, :-1] + along[1:] + along[:-1]
    # u = 0 on the outer edge, half a cell away: twice the coefficient of a face
    diagonal[:, [0, -1]] -= across[:, [0, -1]]
    diagonal[[0, -1]] -= along[[0, -1]]
    side = np.pad(across[:, 1:-1], ((0, 0), (0, 1))).ravel()[:-1]
    ahead = along[1:-1].ravel()
    points = size**2
    bands = np.zeros((5, points), dtype=np.complex128)
    bands[0] = diagonal.ravel()
    bands[1, 1:] = bands[2, :-1] = side
    bands[3, size:] = bands[4, :-size] = ahead
    matrix = scipy.sparse.dia_array((bands, (0, 1, -1, size, -size)), shape=(points, points)).tocsc()
    matrix.sort_indices()
    columns = np.repeat(np.arange(points), np.diff(matrix.indptr))
    return matrix, np.flatnonzero(matrix.indices == columns)


def _stretch(x: np.ndarray, width: float, wave_number: float) -> np.ndarray:
    """1 + i absorption / k; the absorption grows as a power of the depth in the layer around (0, 1)."""
    depth = np.maximum(np.maximum(-x, x - 1.0), 0.0) / width
    largest = -(GROWTH + 1) * math.log(REFLECTION) / (2.0 * width)
    return 1.0 + 1j * largest * depth**GROWTH / wave_number
