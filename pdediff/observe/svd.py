"""Matrices of linear operators and their singular values, for methods that work in the sensors' own coordinates."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from pdediff.errors import ConfigError
from pdediff.observe.operator import Operator
from pdediff.types import Field


def rows_of(operator: Operator, like: Tensor) -> Tensor:
    """The matrix of a linear operator as rows (m, channel, *space), for fields like `like` (channel, *space).

    An operator that gives fields has a row for each value, in array order. Costs one VJP of m rows.
    Raises ConfigError for an operator that is not linear.
    """
    if not operator.linear:
        raise ConfigError("rows need a linear operator", hint="linearise it: operator.vjp at the field")
    shape = operator(torch.zeros_like(like)[None]).shape[1:]
    m = shape.numel()
    identity = torch.eye(m, dtype=like.dtype, device=like.device)
    return operator.vjp(like.new_zeros(m, *like.shape), identity.reshape(m, *shape))


@dataclass(frozen=True, eq=False)
class SVD:
    """H = U diag(s) V^T with s > 0 in falling order: u (m, r), s (r,), v (r, channel, *space)."""

    u: Tensor
    s: Tensor
    v: Tensor

    def pseudo_inverse(self, y: Tensor) -> Field:
        """H^+ y of readings (batch, m): the smallest field that reads what H can explain of y."""
        return self._field(((y @ self.u.to(y)) / self.s.to(y)) @ self.v.flatten(1).to(y), y)

    def visible(self, x: Field) -> Field:
        """V V^T x = H^+ H x: what the sensors see of a field; x minus it is invisible."""
        v = self.v.flatten(1).to(x)
        return self._field((x.flatten(1) @ v.T) @ v, x)

    def _field(self, flat: Tensor, like: Tensor) -> Field:
        return flat.reshape(len(like), *self.v.shape[1:])


def svd(operator: Operator, like: Tensor, tolerance: float = 1e-10) -> SVD:
    """Singular values of a linear operator (its offset left out) on fields like `like` (channel, *space).

    Values below `tolerance` times the largest are dropped. Rows that are orthogonal to each other (masks, block
    averages) are their own singular vectors and need no decomposition.
    Good values: float64 fields; up to a few thousand readings.
    Raises ConfigError for an operator that is not linear.
    """
    rows = rows_of(operator, like).flatten(1)
    gram = rows @ rows.T
    norms = gram.diagonal()
    if float((gram - torch.diag(norms)).abs().max()) <= 1e-14 * float(norms.max()):
        s, order = norms.sqrt().sort(descending=True, stable=True)
        u, v = torch.eye(len(rows), dtype=rows.dtype, device=rows.device)[:, order], rows[order]
        v = v / torch.where(s > 0, s, 1.0)[:, None]
    else:
        u, s, v = torch.linalg.svd(rows, full_matrices=False)
    keep = s > tolerance * s.max()
    return SVD(u[:, keep], s[keep], v[keep].reshape(-1, *like.shape))
