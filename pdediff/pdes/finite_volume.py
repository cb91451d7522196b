"""Finite volumes for -div(a grad u) = f on the unit square, u = 0 on its edge: two solvers, one adjoint."""

from __future__ import annotations

import math
from functools import lru_cache
from typing import Any

import numpy as np
import scipy.sparse
import scipy.sparse.linalg
import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from pdediff.errors import NumericalError

# Rows whose neighbouring cells differ by at most this factor count as smooth: see `_scaling`.
SMOOTH_RATIO = 2.5
# For other rows the iterations grow like the square root of the contrast; above this one factorisation is faster.
ROUGH_CONTRAST = 10.0
MAX_ITERATIONS = 60
# Rows per tile are chosen so that the vectors of the iteration stay in the cache.
TILE_POINTS = 65536


def apply(a: Tensor, u: Tensor) -> Tensor:
    """-div(a grad u) at cell centres, `(batch, y, x)`, scaled by 1/h^2.

    Harmonic means of a on inner faces; on the edge u = 0 half a cell away, so the face carries 2 a u / h.
    Second order for smooth a, and fluxes are exact where a jumps on cell faces.
    """
    return _matvec(*_stencil(a), u)


def outflow(a: Tensor, u: Tensor) -> Tensor:
    """Total flux through the edge, `(batch,)`; equals the sum of f h^2 for a solution."""
    edge = (a * u)[..., 0, :] + (a * u)[..., -1, :] + (a * u)[..., :, 0] + (a * u)[..., :, -1]
    return 2.0 * edge.sum(-1)


def solve(a: Tensor, f: Tensor) -> Tensor:
    """u with -div(a grad u) = f, `(batch, y, x)`, float64; differentiable once in a and f by the discrete adjoint.

    Each row takes its solver from its own values, so its bits do not depend on its neighbours.
    Raises NumericalError where a is not positive and finite.
    """
    bad = ~(torch.isfinite(a) & (a > 0)).flatten(1).all(1)
    if bad.any():
        rows = bad.nonzero().flatten().tolist()
        raise NumericalError(
            f"permeability must be positive and finite, rows {rows[:5]} are not", hint="check the field or its bounds"
        )
    return _Solve.apply(a, f)


class _Solve(torch.autograd.Function):
    """A(a) u = f with lambda = A^-1 grad, grad_f = lambda, grad_a = -lambda^T (dA/da) u (A is symmetric)."""

    @staticmethod
    def forward(ctx: Any, a: Tensor, f: Tensor) -> Tensor:
        u = _solve_rows(a, f)
        ctx.save_for_backward(a, u)
        return u

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, Tensor | None]:
        a, u = ctx.saved_tensors
        adjoint = _solve_rows(a, grad)
        grad_a = None
        if ctx.needs_input_grad[0]:
            with torch.enable_grad():
                a = a.detach().requires_grad_()
                (grad_a,) = torch.autograd.grad(apply(a, u), a, -adjoint)
        return grad_a, adjoint if ctx.needs_input_grad[1] else None


def _solve_rows(a: Tensor, f: Tensor) -> Tensor:
    u = torch.empty_like(f)
    iterative = is_smooth(a) | (a.flatten(1).amax(1) <= ROUGH_CONTRAST * a.flatten(1).amin(1))
    rows = iterative.nonzero().flatten()
    for tile in rows.split(max(1, TILE_POINTS // a[0].numel())):
        u[tile], iterative[tile] = solve_iterative(a[tile], f[tile])
    if not iterative.all():
        u[~iterative] = solve_direct(a[~iterative], f[~iterative])
    return u


def is_smooth(a: Tensor) -> Tensor:
    """Whether neighbouring cells of each row differ by at most SMOOTH_RATIO, `(batch,)`."""
    log = a.log()
    steps = [log.diff(dim=-1).abs().flatten(1).amax(1), log.diff(dim=-2).abs().flatten(1).amax(1)]
    return torch.maximum(*steps) <= math.log(SMOOTH_RATIO)


def solve_direct(a: Tensor, f: Tensor) -> Tensor:
    """Sparse LU of each row in float64 (SuperLU on the CPU): for any contrast."""
    n = a.shape[-1]
    diagonal, west, north = (t.detach().cpu().double().numpy() for t in _stencil(a))
    right = f.detach().cpu().double().numpy().reshape(len(f), -1)
    u = np.empty_like(right)
    for i in range(len(right)):
        # entries between x neighbours; no face leads from the end of one grid row to the start of the next
        side = np.pad(west[i], ((0, 0), (0, 1))).ravel()[:-1]
        bands = np.zeros((5, n * n))
        bands[0] = diagonal[i].ravel()
        bands[1, 1:] = bands[2, :-1] = -side
        bands[3, n:] = bands[4, :-n] = -north[i].ravel()
        matrix = scipy.sparse.dia_array((bands, (0, 1, -1, n, -n)), shape=(n * n, n * n)).tocsc()
        factor = scipy.sparse.linalg.splu(
            matrix, permc_spec="MMD_AT_PLUS_A", diag_pivot_thresh=0.0, options={"SymmetricMode": True}
        )
        u[i] = factor.solve(right[i])
    return torch.from_numpy(u).reshape(f.shape).to(f)


def solve_iterative(a: Tensor, f: Tensor, rtol: float = 1e-10) -> tuple[Tensor, Tensor]:
    """Preconditioned conjugate gradients on the batch: u and, `(batch,)`, whether |f - A u| <= rtol |f| was reached.

    Preconditioner S T S with T the exact inverse for a = 1 (sine transforms) and S a diagonal (`_scaling`).
    The iteration count does not depend on the grid. A row that has converged is frozen, so that it does not depend
    on how long its neighbours take.
    """
    stencil, scaling = _stencil(a), _scaling(a)
    u, r = torch.zeros_like(f), f.clone()
    target = rtol**2 * _dot(f, f)
    active = _dot(r, r) > target
    z = scaling * _inverse_laplacian(scaling * r)
    p, rho = z, _dot(r, z)
    for _ in range(MAX_ITERATIONS):
        if not active.any():
            break
        q = _matvec(*stencil, p)
        step = torch.where(active, rho / _dot(p, q), 0.0)
        u.addcmul_(step, p)
        r.addcmul_(step, q, value=-1.0)
        active = active & (_dot(r, r) > target)
        z = scaling * _inverse_laplacian(scaling * r)
        rho, before = _dot(r, z), rho
        p = torch.addcmul(z, torch.where(active, rho / before, 0.0), p)
    return u, ~active.flatten()


def _scaling(a: Tensor) -> Tensor:
    """Diagonal S of the preconditioner: the operator's own for smooth rows, 1 elsewhere.

    With v = sqrt(a) u the equation for smooth a is -laplace v + q v = f / sqrt(a), which T inverts up to q: 18
    iterations at contrast 150. Where a jumps q is singular, and the bound sqrt(contrast) of T alone is better.
    """
    diagonal = _stencil(a)[0]
    scaling = torch.sqrt(_stencil(torch.ones_like(a[:1]))[0] / diagonal)
    return torch.where(is_smooth(a)[:, None, None], scaling, 1.0)


def _dot(x: Tensor, y: Tensor) -> Tensor:
    return (x * y).flatten(1).sum(1)[:, None, None]


def _stencil(a: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Diagonal, x-face and y-face coefficients, all scaled by 1/h^2."""
    scale = float(a.shape[-1] ** 2)
    west = (2.0 * scale) * a[..., :, 1:] * a[..., :, :-1] / (a[..., :, 1:] + a[..., :, :-1])
    north = (2.0 * scale) * a[..., 1:, :] * a[..., :-1, :] / (a[..., 1:, :] + a[..., :-1, :])
    edges = (2.0 * scale) * a
    all_x = torch.cat([edges[..., :, :1], west, edges[..., :, -1:]], -1)
    all_y = torch.cat([edges[..., :1, :], north, edges[..., -1:, :]], -2)
    diagonal = all_x[..., :, 1:] + all_x[..., :, :-1] + all_y[..., 1:, :] + all_y[..., :-1, :]
    return diagonal, west, north


def _matvec(diagonal: Tensor, west: Tensor, north: Tensor, u: Tensor) -> Tensor:
    out = diagonal * u
    out[..., :, 1:].addcmul_(west, u[..., :, :-1], value=-1.0)
    out[..., :, :-1].addcmul_(west, u[..., :, 1:], value=-1.0)
    out[..., 1:, :].addcmul_(north, u[..., :-1, :], value=-1.0)
    out[..., :-1, :].addcmul_(north, u[..., 1:, :], value=-1.0)
    return out


def _inverse_laplacian(r: Tensor) -> Tensor:
    """Exact solution for a = 1: the discrete sines sin(pi k (i + 1/2) / n) diagonalise the operator."""
    sines, eigenvalues = _sines(r.shape[-1], r.dtype, r.device)
    basis = sines.expand(len(r), -1, -1)
    spectrum = torch.bmm(torch.bmm(basis, r), basis.mT) / eigenvalues
    return torch.bmm(torch.bmm(basis.mT, spectrum), basis)


@lru_cache(maxsize=8)
def _sines(n: int, dtype: torch.dtype, device: torch.device) -> tuple[Tensor, Tensor]:
    """Orthonormal sine matrix `(mode, point)` and the eigenvalues of the five-point operator."""
    k = torch.arange(1, n + 1, dtype=torch.float64)
    matrix = math.sqrt(2.0 / n) * torch.sin(math.pi / n * k[:, None] * (k[None, :] - 0.5))
    matrix[-1] /= math.sqrt(2.0)
    one = 4.0 * n * n * torch.sin(math.pi / (2 * n) * k) ** 2
    return matrix.to(device, dtype), (one[:, None] + one[None, :]).to(device, dtype)
