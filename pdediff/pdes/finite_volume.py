"""Finite volumes for -div(a grad u) = f on the unit square, u = 0 on its edge: two solvers, all derivatives."""

from __future__ import annotations

from typing import Any

import numpy as np
import scipy.sparse
import scipy.sparse.linalg
import torch
import torch.nn.functional as F
from torch import Tensor

from pdediff.errors import NumericalError
from pdediff.pdes.cell_sines import Preconditioner

TOLERANCE = 1e-10
# Rows whose neighbouring cells differ by at most this factor count as smooth: see `_scaling`.
SMOOTH_RATIO = 2.5
# For other rows the iterations grow with the contrast (25 at 4, 40 at 10, 90 at 100); from about here on, depending on
# the grid, one factorisation is as fast.
ROUGH_CONTRAST = 100.0
MAX_ITERATIONS = 120
# Asking a GPU whether all rows have converged makes it wait; iterations too many change nothing.
ITERATIONS_BETWEEN_QUESTIONS = 8
# Rows per tile are chosen so that the vectors of the iteration stay in the cache.
TILE_POINTS = 65536


def apply(a: Tensor, u: Tensor) -> Tensor:
    """-div(a grad u) at cell centres, `(batch, y, x)`, scaled by 1/h^2.

    Harmonic means of a on inner faces; on the edge u = 0 half a cell away, so the face carries 2 a u / h.
    Second order for smooth a, and fluxes are exact where a jumps on cell faces.
    """
    return _product(*_stencil(a), u)


def outflow(a: Tensor, u: Tensor) -> Tensor:
    """Total flux through the edge, `(batch,)`; equals the sum of f h^2 for a solution."""
    edge = (a * u)[..., 0, :] + (a * u)[..., -1, :] + (a * u)[..., :, 0] + (a * u)[..., :, -1]
    return 2.0 * edge.sum(-1)


def solve(a: Tensor, f: Tensor, tolerance: float = TOLERANCE) -> Tensor:
    """u with -div(a grad u) = f to |residual| <= `tolerance` |f|, `(batch, y, x)`, float64.

    Differentiable in a and f to any order, backwards (adjoint) and forwards (tangent), under `torch.func` too: each
    derivative is one more solve with the same a. Each row takes its solver from its own values, so its bits do not
    depend on its neighbours. Raises NumericalError where a is not positive and finite.
    """
    return _Solve.apply(a, f, tolerance)  # type: ignore[no-any-return]


class _Solve(torch.autograd.Function):
    """u = A(a)^-1 f: forwards A du = df - (dA/da da) u, backwards with A symmetric."""

    @staticmethod
    def forward(a: Tensor, f: Tensor, tolerance: float) -> Tensor:
        bad = ~(torch.isfinite(a) & (a > 0)).flatten(1).all(1)
        if bad.any():
            rows = bad.nonzero().flatten().tolist()
            message = f"permeability must be positive and finite, rows {rows[:5]} are not"
            raise NumericalError(message, hint="check the field or its bounds")
        return _solve_rows(a, f, tolerance)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Tensor, Tensor, float], output: Tensor) -> None:
        ctx.tolerance = inputs[2]
        ctx.save_for_backward(inputs[0], output)
        ctx.save_for_forward(inputs[0], output)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, Tensor, None]:
        a, u = ctx.saved_tensors
        adjoint = solve(a, grad, ctx.tolerance)
        return _sensitivity(a, u, adjoint).neg() if ctx.needs_input_grad[0] else None, adjoint, None

    @staticmethod
    def jvp(ctx: Any, da: Tensor, df: Tensor, _: None) -> Tensor:
        a, u = ctx.saved_tensors
        return solve(a, df - _product(*_stencil_change(a, da), u), ctx.tolerance)

    @staticmethod
    def vmap(info: Any, in_dims: tuple[int | None, ...], a: Tensor, f: Tensor, tolerance: float) -> tuple[Tensor, int]:
        a, f = (
            value.movedim(dim, 0) if dim is not None else value.expand(info.batch_size, *value.shape)
            for value, dim in zip((a, f), in_dims, strict=False)
        )
        return solve(a.flatten(0, 1), f.flatten(0, 1), tolerance).unflatten(0, f.shape[:2]), 0


def _solve_rows(a: Tensor, f: Tensor, tolerance: float) -> Tensor:
    u = torch.empty_like(f)
    iterative = is_smooth(a) | ~_exceeds(a, ROUGH_CONTRAST)
    tiles = iterative.nonzero().flatten().split(max(1, TILE_POINTS // a[0].numel())) if iterative.any() else ()
    for tile in tiles:
        u[tile], iterative[tile] = solve_iterative(a[tile], f[tile], tolerance)
    if not iterative.all():
        u[~iterative] = solve_direct(a[~iterative], f[~iterative])
    return u


def is_smooth(a: Tensor) -> Tensor:
    """Whether neighbouring cells of each row differ by at most SMOOTH_RATIO, `(batch,)`."""
    pairs = ((a[..., :, 1:], a[..., :, :-1]), (a[..., 1:, :], a[..., :-1, :]))
    near = [(torch.maximum(x, y) <= SMOOTH_RATIO * torch.minimum(x, y)).flatten(1).all(1) for x, y in pairs]
    return near[0] & near[1]


def _exceeds(a: Tensor, contrast: float) -> Tensor:
    """Whether largest over smallest of each row is above `contrast`, `(batch,)`."""
    return a.flatten(1).amax(1) > contrast * a.flatten(1).amin(1)


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


def solve_iterative(a: Tensor, f: Tensor, tolerance: float = TOLERANCE) -> tuple[Tensor, Tensor]:
    """Preconditioned conjugate gradients: u and, `(batch,)`, whether |f - A u| <= tolerance |f| was reached.

    The preconditioner S T S has the exact inverse for a = 1 and a diagonal S (`_scaling`), so that the iteration count
    does not depend on the grid. It works in float32: r and the residual of the result are those of the float64
    operator. A row that has converged is frozen, so that it does not depend on how long its neighbours take.
    """
    stencil, precondition = _stencil(a), Preconditioner(_scaling(a))
    size = f.abs().amax((-2, -1), keepdim=True)
    size = torch.where(size > 0.0, size, 1.0)  # float32 holds neither 1e-40 nor 1e40
    u, r = 0.0 * f, f / size  # not zeros: what is not finite stays so
    target = tolerance**2 * _dot(r, r)
    active = _dot(r, r) > target
    p = precondition(r)
    rho = _dot(r, p)
    for i in range(MAX_ITERATIONS):
        if (i % ITERATIONS_BETWEEN_QUESTIONS == 0 or not a.is_cuda) and not active.any():
            break
        q = _matvec(*stencil, p)
        step = torch.where(active, rho / _dot(p, q), 0.0)
        u.addcmul_(step, p)
        r.addcmul_(step, q, value=-1.0)
        active = active & (_dot(r, r) > target)
        z = precondition(r)
        rho, before = _dot(r, z), rho
        p = torch.addcmul(z, torch.where(active, rho / before, 0.0), p)
    return u.mul_(size), ~active.flatten()


def _scaling(a: Tensor) -> Tensor:
    """Diagonal S of the preconditioner: the operator's own for smooth rows, 1 elsewhere.

    With v = sqrt(a) u the equation for smooth a is -laplace v + q v = f / sqrt(a), which T inverts up to q: 18
    iterations at contrast 150. Where a jumps q is singular, and the bound sqrt(contrast) of T alone is better.
    """
    diagonal = _stencil(a)[0]
    scaling = torch.sqrt(_stencil(torch.ones_like(a[:1]))[0] / diagonal)
    # two phases of less than SMOOTH_RATIO look smooth, but their contrast is no more
    wanted = is_smooth(a) & _exceeds(a, SMOOTH_RATIO)
    return torch.where(wanted[:, None, None], scaling, 1.0)


def _dot(x: Tensor, y: Tensor) -> Tensor:
    return (x * y).flatten(1).sum(1)[:, None, None]


def _stencil(a: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Diagonal, x-face and y-face coefficients, all scaled by 1/h^2."""
    scale = 2.0 * float(a.shape[-1] ** 2)
    west = scale * a[..., :, 1:] * a[..., :, :-1] / (a[..., :, 1:] + a[..., :, :-1])
    north = scale * a[..., 1:, :] * a[..., :-1, :] / (a[..., 1:, :] + a[..., :-1, :])
    return _diagonal(scale * a, west, north), west, north


def _diagonal(edges: Tensor, west: Tensor, north: Tensor) -> Tensor:
    """Sum of the four faces of every cell; `edges` holds the coefficient of a face on the edge."""
    all_x = torch.cat([edges[..., :, :1], west, edges[..., :, -1:]], -1)
    all_y = torch.cat([edges[..., :1, :], north, edges[..., -1:, :]], -2)
    return all_x[..., :, 1:] + all_x[..., :, :-1] + all_y[..., 1:, :] + all_y[..., :-1, :]


def _shares(a: Tensor) -> tuple[Tensor, Tensor]:
    """Derivatives of the x-face coefficients with respect to a on their left and on their right."""
    scale, total = 2.0 * float(a.shape[-1] ** 2), a[..., :, 1:] + a[..., :, :-1]
    return scale * (a[..., :, 1:] / total) ** 2, scale * (a[..., :, :-1] / total) ** 2


def _stencil_change(a: Tensor, da: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Derivative of `_stencil` in the direction `da`."""
    changes = []
    for value, change in ((a, da), (a.mT, da.mT)):
        left, right = _shares(value)
        changes.append(left * change[..., :, :-1] + right * change[..., :, 1:])
    west, north = changes[0], changes[1].mT
    return _diagonal(2.0 * float(a.shape[-1] ** 2) * da, west, north), west, north


def _sensitivity(a: Tensor, u: Tensor, v: Tensor) -> Tensor:
    """Derivative of v . A(a) u with respect to a.

    The form is the sum over inner faces of coefficient (u_i - u_j) (v_i - v_j), and over the edge of 2 n^2 a u v.
    """
    inner = torch.zeros_like(a)
    for x_last in (True, False):
        left, right = _shares(a if x_last else a.mT)
        drop = (u if x_last else u.mT).diff(dim=-1) * (v if x_last else v.mT).diff(dim=-1)
        part = F.pad(left * drop, (0, 1)) + F.pad(right * drop, (1, 0))
        inner = inner + (part if x_last else part.mT)
    ones = torch.ones_like(a[:1])
    sides = _diagonal(ones, torch.zeros_like(ones[..., 1:]), torch.zeros_like(ones[..., 1:, :]))
    return inner + 2.0 * float(a.shape[-1] ** 2) * sides * u * v


def _product(diagonal: Tensor, west: Tensor, north: Tensor, u: Tensor) -> Tensor:
    """The operator of a stencil times u, for every kind of derivative."""
    across = F.pad(west * u[..., :, :-1], (1, 0)) + F.pad(west * u[..., :, 1:], (0, 1))
    along = F.pad(north * u[..., :-1, :], (0, 0, 1, 0)) + F.pad(north * u[..., 1:, :], (0, 0, 0, 1))
    return diagonal * u - across - along


def _matvec(diagonal: Tensor, west: Tensor, north: Tensor, u: Tensor) -> Tensor:
    """The same in place, half the passes."""
    out = diagonal * u
    out[..., :, 1:].addcmul_(west, u[..., :, :-1], value=-1.0)
    out[..., :, :-1].addcmul_(west, u[..., :, 1:], value=-1.0)
    out[..., 1:, :].addcmul_(north, u[..., :-1, :], value=-1.0)
    out[..., :-1, :].addcmul_(north, u[..., 1:, :], value=-1.0)
    return out
