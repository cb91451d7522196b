"""Draws of one case, tile by tile: what diverged is told draw by draw, and solves of an equation are counted."""

from __future__ import annotations

import math
from dataclasses import dataclass, field, replace

import torch
from torch import Tensor

from pdediff.diffusion import Denoiser
from pdediff.errors import NumericalError
from pdediff.observe import Observation, Operator
from pdediff.posterior import Draws, Posterior, together
from pdediff.stages.configs import ReconstructConfig
from pdediff.types import Field, Purpose, derive

BLOWN = 100.0
"""A draw whose root mean square distance from the prior's mean is more prior standard deviations than this diverged."""


@dataclass
class Solves:
    """Rows that went through a nonlinear operator: evaluations, derivatives forwards (`tangent`) and backwards."""

    forward: int = 0
    tangent: int = 0
    adjoint: int = 0

    def told(self) -> dict[str, float]:
        """As diagnostics of a case, all draws together."""
        return {f"{name}_solves": float(count) for name, count in vars(self).items()}


@dataclass(frozen=True, eq=False)
class Counted:
    """An operator that counts its rows; derivatives by autograd through its result count as backwards."""

    operator: Operator
    solves: Solves = field(default_factory=Solves)

    @property
    def linear(self) -> bool:  # type: ignore[override]
        """As the operator."""
        return self.operator.linear

    @property
    def differentiable(self) -> bool:  # type: ignore[override]
        """As the operator."""
        return self.operator.differentiable

    def __call__(self, x: Field) -> Tensor:
        self.solves.forward += len(x)
        out = self.operator(x)
        if out.requires_grad:
            out.register_hook(self._pulled)
        return out

    def jvp(self, x: Field, v: Field) -> Tensor:
        self.solves.tangent += len(v)
        return self.operator.jvp(x, v)

    def vjp(self, x: Field, w: Tensor) -> Field:
        self.solves.adjoint += len(w)
        return self.operator.vjp(x, w)

    def __matmul__(self, inner: Operator) -> Operator:
        return replace(self, operator=self.operator @ inner)  # type: ignore[operator]

    def _pulled(self, gradient: Tensor) -> None:
        self.solves.adjoint += len(gradient)


def draw(
    posterior: Posterior, source: Denoiser, observation: Observation, config: ReconstructConfig, case: int
) -> Draws:
    """The draws of one case, a tile at a time: a tile has its own seed and, for particles, is an island.

    Rows of a tile that could not be drawn are NaN, without weight. Raises NumericalError where all tiles are.
    """
    solves = Solves()
    if not observation.operator.linear:
        observation = replace(observation, operator=Counted(observation.operator, solves))
    parts: list[tuple[Draws, int]] = []
    lost: list[range] = []
    last: NumericalError | None = None
    for tile, first in enumerate(range(0, config.draws, config.tile)):
        n = min(config.tile, config.draws - first)
        try:
            # Always a full tile, so that a draw does not depend on how many are asked for.
            seed = derive(config.seed, Purpose.START, case, tile)
            parts.append((posterior(source, observation, config.tile, seed), n))
        except NumericalError as error:
            last = error
            lost.append(range(first, first + n))
    if not parts:
        assert last is not None  # there is at least one tile
        raise last
    found = together(parts)
    return replace(_with_gaps(found, lost), diagnostics={**found.diagnostics, **solves.told()})


def _with_gaps(draws: Draws, lost: list[range]) -> Draws:
    """The same draws with rows of NaN where tiles are lost."""
    if not lost:
        return draws
    gone = [row for span in lost for row in span]
    total = len(draws.x) + len(gone)
    kept = torch.ones(total, dtype=torch.bool)
    kept[gone] = False
    x = torch.full((total, *draws.x.shape[1:]), torch.nan).to(draws.x)
    weights = torch.full((total,), -torch.inf).to(draws.log_weights)
    x[kept.to(x.device)], weights[kept.to(weights.device)] = draws.x, draws.log_weights
    return Draws(x, weights, draws.diagnostics)


def diverged(z: Tensor, fields: Tensor, source: Denoiser) -> Tensor:
    """Which draws (n,) are no draws: not finite, in z or in their physical fields, or `BLOWN` by a prior's measure."""
    scale = math.sqrt(float(source.error(math.inf).diagonal().mean()))
    off = (z.double() - source.mean.to(z).double()).flatten(1).square().mean(1).sqrt()
    # A comparison with NaN is false.
    return ~((off <= BLOWN * scale) & torch.isfinite(fields).flatten(1).all(1))


def without(rows: Tensor, bad: Tensor) -> Tensor:
    """The rows with NaN for the bad ones."""
    return rows if not bool(bad.any()) else rows.masked_fill(bad.reshape(-1, *[1] * (rows.dim() - 1)), torch.nan)


def reweighted(log_weights: Tensor, bad: Tensor) -> Tensor:
    """Log weights that sum to one over the good rows; as they are where all rows are bad."""
    if not bool(bad.any()) or bool(bad.all()):
        return log_weights
    return log_weights.masked_fill(bad, -torch.inf).log_softmax(0)
