"""Workloads of two-phase Darcy flow: our conjugate gradients, SuperLU of scipy, and PDEBench's explicit loop.

PDEBench integrates u_t = div(a grad u) + 1 to t = 2 for a of at most 1, with 16 n^2 explicit steps of two stages
(262,144 at n = 128); re-created here in torch. Fields of a larger a are divided by it, which scales u only.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import scipy.sparse
import scipy.sparse.linalg
import torch
from torch import Tensor

from pdediff.pdes import finite_volume

STEPS_OF_A_CELL = 16
"""Explicit steps over the square of the grid: two time units at a step of 1/8 of the square of the cell."""

END = 2.0
"""Time at which PDEBench takes the state for steady."""


def prepare(settings: Mapping[str, Any]) -> Callable[[], Any]:
    """The workload `what`: "iterative", "direct" or "explicit"."""
    torch.set_num_threads(1)
    a = np.load(settings["permeability"])
    return {"iterative": _iterative, "direct": _direct, "explicit": _explicit}[settings["what"]](a, settings)


def matrix(a: np.ndarray) -> scipy.sparse.csc_array:
    """-div(a grad) of one field `(y, x)`: harmonic means on faces, u = 0 half a cell outside; written for the peer."""
    n = len(a)
    face_x = 2.0 * a[:, 1:] * a[:, :-1] / (a[:, 1:] + a[:, :-1])
    face_y = 2.0 * a[1:] * a[:-1] / (a[1:] + a[:-1])
    diagonal = np.zeros_like(a)
    diagonal[:, 1:] += face_x
    diagonal[:, :-1] += face_x
    diagonal[1:] += face_y
    diagonal[:-1] += face_y
    for edge in (np.s_[0], np.s_[-1], np.s_[:, 0], np.s_[:, -1]):
        diagonal[edge] += 2.0 * a[edge]
    beside = np.pad(face_x, ((0, 0), (0, 1))).ravel()[:-1]  # no face from the end of a line to the start of the next
    below = face_y.ravel()
    bands = [diagonal.ravel(), -beside, -beside, -below, -below]
    offsets: Any = [0, 1, -1, n, -n]  # a list, whatever the annotation says
    return (n * n * scipy.sparse.diags_array(bands, offsets=offsets)).tocsc()


def transient(a: np.ndarray, modes: int = 6) -> float:
    """Relative L2 distance to the steady state at t = 2 of PDEBench's problem for one field `(y, x)`.

    Started at zero it is exp(-2 A) u, here by the slowest `modes`, A scaled as above.
    """
    system = matrix(a / a.max())
    n2 = a.size
    steady = np.asarray(scipy.sparse.linalg.spsolve(system, np.ones(n2)))
    rates, vectors = scipy.sparse.linalg.eigsh(system, k=modes, sigma=0.0)
    left = vectors @ (np.exp(-END * rates) * (vectors.T @ steady))
    return float(np.linalg.norm(left) / np.linalg.norm(steady))


def _iterative(a: np.ndarray, settings: Mapping[str, Any]) -> Callable[[], Tensor]:
    fields = torch.from_numpy(a)
    source = torch.ones_like(fields)
    return lambda: finite_volume.solve(fields, source, settings["tolerance"])


def _direct(a: np.ndarray, settings: Mapping[str, Any]) -> Callable[[], np.ndarray]:
    """SuperLU of each row, assembly included; symmetric mode where the ordering is of A + A^T."""
    symmetric = settings["ordering"] == "MMD_AT_PLUS_A"
    options = {"diag_pivot_thresh": 0.0, "options": {"SymmetricMode": True}} if symmetric else {}
    right = np.ones(a[0].size)

    def run() -> np.ndarray:
        solved = [
            scipy.sparse.linalg.splu(matrix(field), permc_spec=settings["ordering"], **options).solve(right)
            for field in a
        ]
        return np.stack(solved).reshape(a.shape)

    return run


def _explicit(a: np.ndarray, settings: Mapping[str, Any]) -> Callable[[], list[Tensor]]:
    """`steps` of the 16 n^2 steps, float32, midpoint rule, in tiles that fit the cache."""
    fields = torch.from_numpy(a / a.max((1, 2), keepdims=True)).float()
    tiles = fields.split(max(1, finite_volume.TILE_POINTS // fields[0].numel()))
    h = END / (STEPS_OF_A_CELL * a.shape[-1] ** 2)
    loops = [_Explicit(tile) for tile in tiles]
    return lambda: [loop(settings["steps"], h) for loop in loops]


class _Explicit:
    """The loop on one tile; all arrays are made once."""

    def __init__(self, a: Tensor) -> None:
        batch, n, _ = a.shape
        faces_x, faces_y = _faces(a), _faces(a.mT).mT
        self.around = [t.contiguous() for t in (faces_x[..., :-1], faces_x[..., 1:], faces_y[:, :-1], faces_y[:, 1:])]
        self.centre = torch.stack(self.around).sum(0)
        framed = torch.zeros(batch, n + 2, n + 2)
        self.inside = framed[:, 1:-1, 1:-1]
        self.beside = [framed[:, 1:-1, :-2], framed[:, 1:-1, 2:], framed[:, :-2, 1:-1], framed[:, 2:, 1:-1]]
        self.one = torch.ones(())

    def __call__(self, steps: int, h: float) -> Tensor:
        u = torch.zeros_like(self.centre)
        for _ in range(steps):
            middle = torch.add(u, self._rate(u), alpha=0.5 * h)
            u = torch.add(u, self._rate(middle), alpha=h)
        return u

    def _rate(self, u: Tensor) -> Tensor:
        """div(a grad u) + 1."""
        self.inside.copy_(u)
        rate = torch.addcmul(self.one, self.centre, u, value=-1.0)
        for face, value in zip(self.around, self.beside, strict=True):
            rate.addcmul_(face, value)
        return rate


def _faces(a: Tensor) -> Tensor:
    """Coefficients of all faces across the last axis, the edges included, over the square of the cell."""
    inner = 2.0 * a[..., 1:] * a[..., :-1] / (a[..., 1:] + a[..., :-1])
    return a.shape[-1] ** 2 * torch.cat([2.0 * a[..., :1], inner, 2.0 * a[..., -1:]], -1)
