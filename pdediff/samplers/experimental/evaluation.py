"""What samplers that are no plans share: evaluations, the step of DDIM, inner products, the check at the end."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from pdediff.diffusion import Denoiser
from pdediff.errors import ConfigError, NumericalError


@dataclass(frozen=True, eq=False)
class Evaluation:
    """E[x0 | x] at the levels of one walk, in the dtype of the state; `check` looks at every state it is given."""

    denoiser: Denoiser
    levels: tuple[float, ...]
    check: bool = False

    def __call__(self, x: Tensor, i: int, level: Tensor | None = None, rows: Tensor | None = None) -> Tensor:
        """D at level number i, or at a `level` (batch,) of each row's own; `rows` are the numbers of those in x."""
        if level is None:
            level = torch.full((len(x),), self.levels[i], dtype=torch.float64, device=x.device)
        denoised = self.denoiser(x.to(self.denoiser.dtype), level.to(self.denoiser.dtype))
        if denoised.shape != x.shape:
            raise ConfigError(
                f"{type(self.denoiser).__name__} returned shape {tuple(denoised.shape)} for a state of "
                f"{tuple(x.shape)}",
                hint="a denoiser returns E[x0 | x] in the shape of x",
            )
        if self.check:
            self.look(x, i, "the state", rows)
            self.look(denoised, i, "the denoised state", rows)
        return denoised.to(x.dtype)

    def look(self, value: Tensor, i: int, what: str, rows: Tensor | None = None) -> None:
        """`NumericalError` that names step, level and rows if the value is not finite."""
        broken = (~torch.isfinite(value).flatten(1).all(1)).nonzero()[:, 0]
        bad = (broken if rows is None else rows[broken]).tolist()
        if bad:
            sigma = self.levels[i]
            raise NumericalError(
                f"{what} is not finite at step {i + 1} of {len(self.levels) - 1}, noise level sigma={sigma:g}, "
                f"in {len(bad)} rows",
                hint="take more steps, weaker corrections or float64",
                context={"step": i + 1, "sigma": sigma, "rows": bad[:16]},
            )


Walk = Callable[[Evaluation, Tensor], Tensor]
"""(evaluation, start) -> the state at the last level."""


def finish(walk: Walk, denoiser: Denoiser, x: Tensor, levels: Sequence[float]) -> Tensor:
    """The end of the walk, without gradients; `NumericalError` that names where it stopped being finite."""
    with torch.no_grad():
        out = walk(Evaluation(denoiser, tuple(levels)), x)
        if not bool(torch.isfinite(out).all()):
            # Nothing was checked on the way, so that a GPU is never waited for: walk again and look at each step.
            walk(Evaluation(denoiser, tuple(levels), check=True), x)
            last = Evaluation(denoiser, tuple(levels))
            last.look(out, len(levels) - 2, "the result of the step")
        return out


def ddim(x: Tensor, denoised: Tensor, sigma: float, after: float) -> Tensor:
    """x' = (t / sigma) x + (1 - t / sigma) D, in the operations of `run`: the same bits as the plan of `DDIM`."""
    ratio = after / sigma
    return (x * ratio).add_(denoised, alpha=1.0 - ratio)


def inner(a: Tensor, b: Tensor) -> Tensor:
    """<a, b> of each row, shaped to multiply it; rows never see each other."""
    return (a * b).flatten(1).sum(1).reshape(-1, *[1] * (a.dim() - 1))


def quotient(top: Tensor, bottom: Tensor) -> Tensor:
    """top / bottom, and 0 where the bottom is 0: a projection on nothing."""
    empty = bottom == 0.0
    return torch.where(empty, torch.zeros_like(top), top / torch.where(empty, torch.ones_like(bottom), bottom))
