"""What an inverse problem is: a prior law in closed form, fields in physical units, and readings of them."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import ClassVar, NamedTuple, Protocol

import numpy as np
import torch
from torch import Tensor

from pdediff.diffusion import Denoiser
from pdediff.errors import ConfigError
from pdediff.observe import GaussianNoise, Observation, Operator
from pdediff.pdes import Variable
from pdediff.types import Purpose, derive, generator


class Case(NamedTuple):
    """One draw of a problem: the true fields (channel, *space) in physical units, and readings as a law of z."""

    truth: Tensor
    observation: Observation


@dataclass(frozen=True, eq=False)
class Layout:
    """Where readings are taken: `field` (m,) indexes `names`, `position` (m, axis) in physical units along `axes`.

    Axes are those of the fields, and time behind them where readings have one. Names that are no stored field come
    last.
    """

    names: tuple[str, ...]
    field: np.ndarray
    position: np.ndarray
    axes: tuple[str, ...]


@dataclass(frozen=True, eq=False)
class Setup:
    """What a problem computes once, all in float64.

    The unknown is z, of about unit variance: `prior` is its law and `draw` samples it, row i from seed i alone.
    `fields` maps z to all stored fields in physical units, `readings` to what the sensors read, `std` (m,) is the
    noise of the readings.
    """

    prior: Denoiser
    draw: Callable[[Sequence[int]], Tensor]
    fields: Operator
    readings: Operator
    std: Tensor
    layout: Layout


class InverseProblem(Protocol):
    """A prior in closed form and noisy readings of a solution of an equation: what a posterior is measured on.

    Equal problems give equal cases: the sensors are the same in all cases of a problem, the fields and the noise are
    functions of the seed of the case. `linear` says that readings are linear in the unknown z, so that the posterior
    of a Gaussian prior is Gaussian.
    """

    name: ClassVar[str]
    linear: ClassVar[bool]

    def variables(self) -> tuple[Variable, ...]:
        """The stored fields, in the order of the channels."""
        ...

    def coordinates(self) -> dict[str, np.ndarray]:
        """Coordinate of every dim of the fields, physical units."""
        ...

    @property
    def periodic(self) -> tuple[bool, ...]:
        """Which dims wrap around."""
        ...

    def setup(self) -> Setup:
        """Everything that does not depend on the case; `setup_of` keeps it."""
        ...

    def prior(self) -> Denoiser:
        """The law of the unknown z as a denoiser."""
        ...

    def case(self, seed: int) -> Case:
        """Truth and readings, functions of the seed."""
        ...


class Posed:
    """Base of problems: prior and cases from their `setup`."""

    def setup(self) -> Setup:
        """Defined by each problem."""
        raise TypeError(f"{type(self).__name__} defines no setup")

    def prior(self) -> Denoiser:
        """The law of the unknown z as a denoiser."""
        return setup_of(self).prior

    def case(self, seed: int) -> Case:
        """Truth and readings, functions of the seed."""
        made = setup_of(self)
        with torch.no_grad():
            z = made.draw((derive(seed, Purpose.PROBLEM),))
            noise = GaussianNoise(made.std)
            y = noise.draw(made.readings(z), (derive(seed, Purpose.MEASUREMENT),))[0]
            return Case(made.fields(z)[0], Observation(y, made.readings, noise))


@lru_cache(maxsize=4)
def setup_of(problem: InverseProblem | Posed) -> Setup:
    """The setup of a problem, made at first use; problems are compared by their arguments."""
    with torch.no_grad():
        return problem.setup()


def require_room(points: int, grid: int, on_grid: bool = True) -> None:
    """ConfigError for more sensors than a square grid has points to put them on."""
    if on_grid and points > grid**2:
        raise ConfigError(f"points={points} is more than the {grid**2} grid points of grid={grid}")


def sensor_places(count: int, shape: Sequence[int], places: int, *, on_grid: bool, periodic: bool) -> Tensor:
    """Where `count` sensors stand, (count, axis) in steps of the grid, chosen by the seed `places`.

    Distinct grid points, or with `on_grid` false positions drawn evenly from the domain, the same on every grid.
    """
    if on_grid:
        return grid_points(count, shape, places).double()
    share = torch.rand(count, len(shape), generator=generator(places), dtype=torch.float64)
    return share * torch.tensor([n if periodic else n - 1 for n in shape])


def grid_points(count: int, shape: Sequence[int], places: int) -> Tensor:
    """`count` distinct grid points of fields of `shape`, (count, axis) long, chosen by the seed `places`."""
    total = int(np.prod(tuple(shape)))
    chosen = torch.randperm(total, generator=generator(places))[:count]
    return torch.stack(torch.unravel_index(chosen, tuple(shape)), 1)
