"""What a draw costs, counted where it arises: evaluations of the prior and backward passes through it."""

from __future__ import annotations

from dataclasses import dataclass, field

from torch import Tensor

from pdediff.posterior.base import GuidedDenoiser
from pdediff.types import Field, Levels


@dataclass
class Cost:
    """Calls of the denoiser and backward passes through it, for a batch as for one draw of it."""

    calls: int = 0
    vjps: int = 0


@dataclass(frozen=True, eq=False)
class Metered(GuidedDenoiser):
    """The prior itself, counting its calls and the gradients that come back to what it returned."""

    cost: Cost = field(default_factory=Cost)

    def __call__(self, x: Field, sigma: Levels) -> Field:
        self.cost.calls += 1
        out = self.prior(x, sigma)
        if out.requires_grad:
            out.register_hook(self._pulled)
        return out

    def _pulled(self, gradient: Tensor) -> None:
        self.cost.vjps += 1
