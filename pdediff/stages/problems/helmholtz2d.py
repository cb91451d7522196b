"""Source of the Helmholtz equation from points of its wave."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Any, ClassVar

import numpy as np
import torch
import torch.nn.functional as F
from annotated_types import Interval
from torch import Tensor

from pdediff.pdes import Helmholtz, Problem, Variable
from pdediff.stages.problems.base import Posed, Setup, require_room
from pdediff.stages.problems.elliptic import Seen, pose_source, source_prior
from pdediff.types import NonNegative, Positive, PositiveInt, Seed


@dataclass(frozen=True)
class Helmholtz2d(Posed):
    """Find the source f of laplace u + k^2 u = f, u = 0 on the edge, from `points` grid points of u; f is Gaussian.

    The setting of `pdes.Helmholtz` (Huang et al. 2024, DiffusionPDE, section 4): f is 0 on the edge, which the prior
    knows. Arguments as those of `Poisson2d`, k = `wave_number`. Linear and Gaussian: at grid 64 with 500 points the
    exact posterior mean of f errs by 5.1 % without noise and by 11.2 % with 1 %, at grid 128 by 5.1 and 11.2 %.
    Good values: wave_number 1; 18.85 (6 pi) is the hard variant.
    Raises ConfigError for more points than the grid has, and for a wave number close to a resonance.
    """

    name: ClassVar[str] = "helmholtz2d"
    linear: ClassVar[bool] = True
    periodic: ClassVar[tuple[bool, ...]] = (False, False)

    grid: Annotated[int, Interval(ge=8, le=256)] = 64
    points: PositiveInt = 500
    noise: NonNegative = 0.01
    seen: Seen = "solution"
    wave_number: Positive = 1.0
    law: tuple[Positive, Positive] = (2.0, 3.0)
    places: Seed = 0
    on_grid: bool = True

    def __post_init__(self) -> None:
        require_room(self.points, self.grid, self.on_grid)
        self.coordinates()  # a resonance is told before anything is drawn

    @property
    def pde(self) -> Helmholtz:
        """The equation."""
        return Helmholtz(wave_number=self.wave_number, alpha=self.law[0], tau=self.law[1])

    def variables(self) -> tuple[Variable, ...]:
        """Source and wave."""
        return self.pde.variables()

    def coordinates(self) -> dict[str, np.ndarray]:
        """Nodes of the unit square, edge included."""
        return self.pde.coordinates(self.grid)

    def setup(self) -> Setup:
        """Cosine-diagonal prior of the field before its edge is set to 0; solver by sine transforms."""
        prior, std = source_prior(self.grid, *self.law)
        inside = torch.full((1, self.grid - 2, self.grid - 2), std, dtype=torch.float64)
        told: dict[str, Any] = dict(seen=self.seen, points=self.points, noise=self.noise)
        told |= dict(places=self.places, on_grid=self.on_grid)
        scale = F.pad(inside, (1, 1, 1, 1))
        return pose_source(prior, scale, self._solve, ("source", "wave"), self.coordinates(), **told)

    def _solve(self, source: Tensor) -> Tensor:
        return self.pde.solve(Problem({"source": source[:, 0]}))["wave"][:, None]
