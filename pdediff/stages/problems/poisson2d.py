"""Source of the Poisson equation from points of its potential."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Any, ClassVar

import numpy as np
import torch
from annotated_types import Interval
from torch import Tensor

from pdediff.pdes import Poisson, Problem, Variable
from pdediff.stages.problems.base import Posed, Setup, require_room
from pdediff.stages.problems.elliptic import Seen, pose_source, source_prior
from pdediff.types import NonNegative, Positive, PositiveInt, Seed


@dataclass(frozen=True)
class Poisson2d(Posed):
    """Find the source f of laplace u = f, u = 0 on the edge, from `points` grid points of u; f is Gaussian.

    The setting of `pdes.Poisson`, which is that of Huang et al. (2024, DiffusionPDE, section 4), with `noise` relative
    to the root mean square reading; 0 is as good as none. With `seen` "source" the sensors read f and u is wanted
    (the forward problem), with "both" there are `points` of each. `law` is alpha and tau of the prior. `places` is the
    seed of the sensors' places; with `on_grid` false they stand anywhere, at the same places on every grid, and
    readings are interpolated.
    Linear and Gaussian: at grid 64 with 500 points the exact posterior mean of f errs by 5.6 % without noise and by
    11.8 % with 1 %, at grid 128 by 5.3 and 11.5 %.
    Good values: grid 64 or 128, always with 500 points: what counts is their number, not their share.
    Raises ConfigError for more points than the grid has.
    """

    name: ClassVar[str] = "poisson2d"
    linear: ClassVar[bool] = True
    periodic: ClassVar[tuple[bool, ...]] = (False, False)

    grid: Annotated[int, Interval(ge=8, le=256)] = 64
    points: PositiveInt = 500
    noise: NonNegative = 0.01
    seen: Seen = "solution"
    law: tuple[Positive, Positive] = (2.0, 3.0)
    places: Seed = 0
    on_grid: bool = True

    def __post_init__(self) -> None:
        require_room(self.points, self.grid, self.on_grid)

    @property
    def pde(self) -> Poisson:
        """The equation."""
        return Poisson(alpha=self.law[0], tau=self.law[1])

    def variables(self) -> tuple[Variable, ...]:
        """Source and potential."""
        return self.pde.variables()

    def coordinates(self) -> dict[str, np.ndarray]:
        """Nodes of the unit square, edge included."""
        return self.pde.coordinates(self.grid)

    def setup(self) -> Setup:
        """Cosine-diagonal prior; solver by sine transforms, its own adjoint."""
        prior, std = source_prior(self.grid, *self.law)
        scale = torch.full((1, self.grid, self.grid), std, dtype=torch.float64)
        told: dict[str, Any] = dict(seen=self.seen, points=self.points, noise=self.noise)
        told |= dict(places=self.places, on_grid=self.on_grid)
        return pose_source(prior, scale, self._solve, ("source", "potential"), self.coordinates(), **told)

    def _solve(self, source: Tensor) -> Tensor:
        return self.pde.solve(Problem({"source": source[:, 0]}))["potential"][:, None]
