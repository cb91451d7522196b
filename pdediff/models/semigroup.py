"""A linear semigroup on a torus: every Fourier mode of a field times a number of its own."""

from __future__ import annotations

import torch
from torch import Tensor, nn


class Semigroup(nn.Module):
    """S u = F^-1 s_k F u, which carries a linear equation with constant coefficients over one step without error.

    s_k is complex for each channel and mode below `modes` / 2 in each dimension; S drops the others. `fit` finds s_k
    from pairs of states, it is no weight. Fresh, S is the identity on the modes that it keeps.
    """

    multiplier: Tensor

    def __init__(self, channels: int, modes: int, spatial: int) -> None:
        super().__init__()
        self.low = (modes + 1) // 2  # modes 0 ... low - 1, and as many negative ones less zero
        kept = (*(2 * self.low - 1,) * (spatial - 1), self.low)
        # pairs of real numbers: half precision and float64 are one cast away
        self.register_buffer("multiplier", torch.view_as_real(torch.ones(channels, *kept, dtype=torch.complex64)))

    def forward(self, u: Tensor) -> Tensor:
        """S u of fields (batch, channel, *space). Raises ValueError for fewer cells than modes."""
        space = u.shape[2:]
        _require_cells(self.low, space)
        axes = tuple(range(2, u.dim()))
        h = torch.fft.rfftn(u, dim=axes) * self._on(space).to(u.device)
        return torch.fft.irfftn(h, s=space, dim=axes)

    @torch.no_grad()
    def fit(self, before: Tensor, after: Tensor) -> None:
        """Least squares mode by mode over rows: s_k = E[after_k conj(before_k)] / E[|before_k|^2].

        0 for modes with less than 1e-10 of the energy of the largest, the rounding of stored single precision. Raises
        ValueError for fewer cells than modes.
        """
        _require_cells(self.low, before.shape[2:])
        axes = tuple(range(2, before.dim()))
        a, b = (torch.fft.rfftn(u.double(), dim=axes) for u in (before, after))
        cross, power = (b * a.conj()).mean(0), a.abs().square().mean(0)
        alive = power > 1e-10 * power.amax(tuple(range(1, power.dim())), keepdim=True)
        whole = torch.where(alive, cross / power.where(alive, torch.ones_like(power)), torch.zeros_like(cross))
        for axis, _ in enumerate(before.shape[2:-1], start=1):
            n = whole.shape[axis]
            whole = torch.cat(
                (whole.narrow(axis, 0, self.low), whole.narrow(axis, n - self.low + 1, self.low - 1)), axis
            )
        self.multiplier.copy_(torch.view_as_real(whole.narrow(-1, 0, self.low)))

    def _on(self, space: torch.Size) -> Tensor:
        """Multipliers on all modes of a grid, (channel, *modes)."""
        found = torch.view_as_complex(self.multiplier)
        for axis, n in enumerate(space[:-1], start=1):
            shape = list(found.shape)
            shape[axis] = n - found.shape[axis]
            positive, negative = found.narrow(axis, 0, self.low), found.narrow(axis, self.low, self.low - 1)
            found = torch.cat((positive, found.new_zeros(shape), negative), axis)
        rest = found.new_zeros(*found.shape[:-1], space[-1] // 2 + 1 - self.low)
        return torch.cat((found, rest), -1)


def _require_cells(low: int, space: torch.Size) -> None:
    if 2 * low - 1 > min(space):
        raise ValueError(f"modes={2 * low - 1} need as many cells in each dimension; the grid is {tuple(space)}")
