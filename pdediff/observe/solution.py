"""Forward models: the solution of an equation as an operator on its inputs, and black boxes."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from pdediff.errors import ConfigError
from pdediff.observe.operator import Composed, Differentiable, Operator
from pdediff.types import Field


@dataclass(frozen=True, eq=False)
class Solution(Differentiable):
    """x -> solve(x), a differentiable map of coefficient or initial fields to solution fields, row by row.

    `solve` closes over everything else, for example
    `lambda x: pde.solve(Problem({"permeability": x[:, 0]}))["pressure"][:, None]`, or is a surrogate. `vjp` runs
    autograd backwards (a solver's own discrete adjoint where it has one), `jvp` forwards through `torch.func`.
    Set `linear` where the solution depends linearly on x (a source, the initial state of a linear equation): guidance
    then needs one set of derivatives for all levels.
    """

    solve: Callable[[Tensor], Tensor]
    linear: bool = False  # type: ignore[assignment]

    def __call__(self, x: Field) -> Tensor:
        return self.solve(x)

    def vjp(self, x: Field, w: Tensor) -> Field:
        # torch.func would trace through the solver's checkpoints and keep every step.
        with torch.enable_grad():
            at = x.detach().requires_grad_()
            (found,) = torch.autograd.grad(self.solve(at), at, w)
        return found


@dataclass(frozen=True, eq=False)
class BlackBox:
    """x -> function(x) without derivatives, for methods that only evaluate; `name` is what errors call it.

    Raises ConfigError where a derivative is asked of it, autograd's included.
    """

    function: Callable[[Tensor], Tensor]
    name: str = "a black box"
    linear: ClassVar[bool] = False
    differentiable: ClassVar[bool] = False

    def __call__(self, x: Field) -> Tensor:
        if torch.is_grad_enabled() and x.requires_grad:
            raise self._refusal()
        with torch.no_grad():
            return self.function(x)

    def jvp(self, x: Field, v: Field) -> Tensor:
        """Refused."""
        raise self._refusal()

    def vjp(self, x: Field, w: Tensor) -> Field:
        """Refused."""
        raise self._refusal()

    def __matmul__(self, inner: Operator) -> Composed:
        return Composed(self, inner)

    def _refusal(self) -> ConfigError:
        hint = "use a method that only evaluates the operator, or give a differentiable one as Solution(solve)"
        return ConfigError(f"the operator {self.name!r} has no derivative, which this method needs", hint=hint)
