"""Initial plume that may have one of four shapes, carried by a cellular wind: an exact posterior with modes."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, ClassVar

import numpy as np
import torch
from annotated_types import Interval
from torch import Tensor

from pdediff.diffusion import GaussianFieldMixturePrior
from pdediff.pdes import Variable
from pdediff.stages.problems.advection_diffusion2d import AdvectionDiffusion2d, plume_prior
from pdediff.stages.problems.base import Posed, Setup, setup_of
from pdediff.stages.problems.linear import Rows, noise_of
from pdediff.types import Fraction, NonNegative, PositiveInt, Seed

CENTRES = ((0.25, 0.25), (0.25, 0.75), (0.75, 0.25), (0.75, 0.75))
"""Places (y, x) of the four releases, which are equally likely."""

WIDTH = 0.1
"""Standard deviation of a release."""


@dataclass(frozen=True)
class AdvectionMixture2d(Posed):
    """`AdvectionDiffusion2d` with the prior sum_k N(m_k, (1 - release) C) / 4: m_k a Gaussian bump at `CENTRES` k.

    C is the prior of that problem, m_k has the mean square `release` between components, without the modes that C does
    not have: the unknown has unit variance. Linear, not Gaussian: its posterior is a mixture whose weights the readings
    decide, in closed form.
    Good values: as there; few points leave several components possible.
    Raises ConfigError for more points than the grid has.
    """

    name: ClassVar[str] = "advection_mixture2d"
    linear: ClassVar[bool] = True
    periodic: ClassVar[tuple[bool, ...]] = (True, True)

    grid: Annotated[int, Interval(ge=8, le=256)] = 32
    points: PositiveInt = 3
    times: PositiveInt = 3
    noise: NonNegative = 0.1
    release: Fraction = 0.5
    places: Seed = 0

    def __post_init__(self) -> None:
        self.plume  # noqa: B018  # refuses what it cannot be

    @property
    def plume(self) -> AdvectionDiffusion2d:
        """The same sensors of the same equation, with a Gaussian prior."""
        return AdvectionDiffusion2d(self.grid, self.points, self.times, self.noise, places=self.places)

    def variables(self) -> tuple[Variable, ...]:
        """The plume at time 0."""
        return self.plume.variables()

    def coordinates(self) -> dict[str, np.ndarray]:
        """Points of the square."""
        return self.plume.coordinates()

    def setup(self) -> Setup:
        """Prior diagonal in Fourier space but for three directions; rows as those of the plume."""
        like = setup_of(self.plume)
        prior = release_prior(self.grid, self.release)
        rows = Rows(like.readings.rows)  # type: ignore[attr-defined]
        square = (rows.rows * prior.error(float("inf")).matvec(rows.rows)).flatten(1).sum(1)
        square = square + rows(prior.mean[None])[0] ** 2
        return Setup(prior, prior.sample, like.fields, rows, noise_of(square, like.layout, self.noise), like.layout)


def release_prior(grid: int, release: float) -> GaussianFieldMixturePrior:
    """Four releases and what else there is, of unit variance on the average of points and components."""
    spectrum = plume_prior(grid).spectrum
    at = torch.arange(grid, dtype=torch.float64) / grid
    bumps = torch.stack([torch.outer(*(_bump(at - place) for place in centre)) for centre in CENTRES])
    modes = torch.fft.fft2(bumps) * (spectrum > 0)
    means = torch.fft.ifft2(modes).real[:, None]
    between = (means - means.mean(0)).square().mean()
    weights = torch.full((len(means),), 1.0 / len(means), dtype=torch.float64)
    return GaussianFieldMixturePrior(weights, means * (release / between).sqrt(), (1 - release) * spectrum)


def _bump(distance: Tensor) -> Tensor:
    """A Gaussian on the unit ring."""
    return sum(torch.exp(-0.5 * ((distance - turn) / WIDTH) ** 2) for turn in (-1.0, 0.0, 1.0))  # type: ignore[return-value]
