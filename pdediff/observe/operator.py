"""Observation operators: what the sensors see of a field."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, Protocol

import torch
from torch import Tensor

from pdediff.types import Field


class Operator(Protocol):
    """A map from fields (batch, channel, *space) to readings (batch, m), or to fields when it is composed further.

    `linear` says that its derivative does not depend on the field (an offset is allowed), `differentiable` that it has
    one: `jvp` and `vjp` of a black box raise ConfigError.
    """

    linear: ClassVar[bool]
    differentiable: ClassVar[bool]

    def __call__(self, x: Field) -> Tensor: ...

    def jvp(self, x: Field, v: Field) -> Tensor:
        """Derivative at x applied to v, row by row."""
        ...

    def vjp(self, x: Field, w: Tensor) -> Field:
        """Transposed derivative at x applied to w, row by row; the adjoint of a linear operator."""
        ...


class Differentiable:
    """JVP and VJP of a row-wise torch function by automatic differentiation; a base for operators without their own."""

    linear: ClassVar[bool] = False
    differentiable: ClassVar[bool] = True

    def __call__(self, x: Field) -> Tensor:
        raise TypeError(f"{type(self).__name__} defines no map")

    def jvp(self, x: Field, v: Field) -> Tensor:
        # Dual numbers refuse expanded rows, which share their memory.
        return torch.func.jvp(self.__call__, (x.contiguous(),), (v.contiguous(),))[1]

    def vjp(self, x: Field, w: Tensor) -> Field:
        return torch.func.vjp(self.__call__, x)[1](w)[0]

    def __matmul__(self, inner: Operator) -> Composed:
        return Composed(self, inner)  # type: ignore[arg-type]


class Linear(Differentiable):
    """Base of linear operators without an offset: the derivative is the map itself."""

    linear: ClassVar[bool] = True

    def jvp(self, x: Field, v: Field) -> Tensor:
        return self(v)


@dataclass(frozen=True, eq=False)
class Composed:
    """outer(inner(x))."""

    outer: Operator
    inner: Operator

    @property
    def linear(self) -> bool:  # type: ignore[override]
        return self.outer.linear and self.inner.linear

    @property
    def differentiable(self) -> bool:  # type: ignore[override]
        return self.outer.differentiable and self.inner.differentiable

    def __call__(self, x: Field) -> Tensor:
        return self.outer(self.inner(x))

    def jvp(self, x: Field, v: Field) -> Tensor:
        change = self.inner.jvp(x, v)
        # A linear outer operator does not look at its point: no need to compute it for thousands of directions.
        return self.outer.jvp(change if self.outer.linear else self.inner(x), change)

    def vjp(self, x: Field, w: Tensor) -> Field:
        return self.inner.vjp(x, self.outer.vjp(self.inner(x), w))

    def __matmul__(self, inner: Operator) -> Composed:
        return Composed(self, inner)  # type: ignore[arg-type]


@dataclass(frozen=True, eq=False)
class Scaling(Differentiable):
    """offset + scale * x, pointwise: from the normalised units of a prior to physical ones; both (channel, *space)."""

    offset: Tensor
    scale: Tensor
    linear: ClassVar[bool] = True

    def __call__(self, x: Field) -> Field:
        return self.offset.to(x) + self.scale.to(x) * x

    def jvp(self, x: Field, v: Field) -> Field:
        return self.scale.to(v) * v

    def vjp(self, x: Field, w: Tensor) -> Field:
        return self.scale.to(w) * w
