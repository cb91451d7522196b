"""L-BFGS for many small problems at once: each row has its own history, step and end."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from pdediff.types import Positive, PositiveInt


@dataclass(frozen=True)
class LBFGS:
    """Minimises f(z) for rows z (k, size) by the two-loop recursion and backtracking, each row by itself.

    Nocedal and Wright 2006, algorithms 7.4, 7.5 and 3.1 (sufficient decrease 1e-4; pairs without positive curvature
    are not kept). A row ends where its gradient is below `tolerance` times that of the start, or no step lowers it.
    Good values: memory 10, tolerance 1e-6; in whitened variables the iterations count the directions that readings
    determine, not the points of the grid.
    """

    iterations: PositiveInt = 100
    memory: PositiveInt = 10
    tolerance: Positive = 1e-6

    def __call__(
        self, f: Callable[[Tensor], tuple[Tensor, Tensor]], z: Tensor, halvings: int = 25
    ) -> tuple[Tensor, Tensor, int]:
        """Minimiser, whether each row has converged, and the number of evaluations; f gives (value, gradient)."""
        value, gradient = f(z)
        target, calls = self.tolerance * gradient.norm(dim=1), 1
        pairs: list[tuple[Tensor, Tensor]] = []
        active = gradient.norm(dim=1) > 0
        for _ in range(self.iterations):
            if not bool(active.any()):
                break
            direction = -_two_loops(gradient, pairs)
            slope = (direction * gradient).sum(1)
            # The first step has no scale yet: one unit of the variable at most.
            step = torch.ones_like(value) if pairs else (1 / gradient.norm(dim=1).clamp(min=1e-300)).clamp(max=1)
            step = step.where(active, torch.zeros_like(step))
            for _ in range(halvings):
                moved = z + step[:, None] * direction
                after, its_gradient = f(moved)
                calls += 1
                enough = after <= value + 1e-4 * step * slope
                if bool((enough | ~active).all()):
                    break
                step = step.where(enough, 0.5 * step)
            kept = (enough & active)[:, None]
            pairs = [*pairs, _pair(kept, moved - z, its_gradient - gradient)][-self.memory :]
            z, gradient = torch.where(kept, moved, z), torch.where(kept, its_gradient, gradient)
            value = torch.where(kept[:, 0], after, value)
            active = kept[:, 0] & (gradient.norm(dim=1) > target)
        # Below the rounding of f no step lowers it: rows that stopped there have converged for all that f can tell.
        return z, gradient.norm(dim=1) <= torch.maximum(target, 1e-6 * (1 + value.abs())), calls


def _pair(kept: Tensor, s: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
    """Step and change of the gradient, zero for rows that did not move or curve."""
    curved = kept & ((s * y).sum(1, keepdim=True) > 1e-12 * y.square().sum(1, keepdim=True))
    return torch.where(curved, s, torch.zeros_like(s)), torch.where(curved, y, torch.zeros_like(y))


def _two_loops(gradient: Tensor, pairs: list[tuple[Tensor, Tensor]]) -> Tensor:
    """Inverse Hessian times gradient, row by row; rows of zeros in a pair leave it as it is."""
    q, alphas, scale = gradient.clone(), [], torch.ones_like(gradient[:, 0])
    for s, y in reversed(pairs):
        curvature = (s * y).sum(1)
        alpha = (s * q).sum(1) / curvature.where(curvature > 0, torch.ones_like(curvature))
        alphas.append(alpha)
        q = q - alpha[:, None] * y
    for s, y in pairs:
        curvature = (s * y).sum(1)
        scale = torch.where(curvature > 0, curvature / y.square().sum(1).clamp(min=1e-300), scale)
    q = scale[:, None] * q
    for (s, y), alpha in zip(pairs, reversed(alphas), strict=True):
        curvature = (s * y).sum(1)
        beta = (y * q).sum(1) / curvature.where(curvature > 0, torch.ones_like(curvature))
        q = q + (alpha - beta)[:, None] * s
    return q
