"""Initial vorticity of a driven flow at Reynolds number 200 from a coarse, noisy snapshot of a later one."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Annotated, ClassVar

import numpy as np
import torch
from annotated_types import Interval
from torch import Tensor

from pdediff.diffusion import GaussianFieldPrior
from pdediff.errors import ConfigError
from pdediff.observe import PointSensors, Solution
from pdediff.pdes import Clock, KolmogorovFlow, Problem, Variable
from pdediff.pdes.periodic_gaussian import PeriodicGaussian
from pdediff.stages.problems.base import Layout, Posed, Setup
from pdediff.stages.problems.nonlinear import placed
from pdediff.types import NonNegative, Positive, PositiveInt, Purpose, derive_many

START = PeriodicGaussian(sigma=27.0 * (2.0 * math.pi) ** 3, alpha=4.0, tau=6.0 * math.pi)
"""Vorticity 5 units before the start: covariance 27^2 / (2 pi)^2 (-laplace + 9)^(-4) on (0, 2 pi)^2."""

SPIN_UP = 5.0
STEP = 0.02
EXACT = 0.01
"""Noise that stands for none, about 1 / 500 of the standard deviation of the vorticity."""


@dataclass(frozen=True)
class NavierStokes2dRe200(Posed):
    """Find w(0) of w_t + u . grad w = laplace w / 200 - 4 cos 4 y on (0, 2 pi)^2 from every `every`-th w(`time`).

    The setting of InverseBench (Zheng et al. 2025): `noise` is that of each reading, absolute; the vorticity has
    standard deviation 5. 0 stands for 0.01. True fields are `START` run for 5 units on a `fine` grid, then cut to the
    modes that `grid` holds. Their law has no closed form: the prior is the Gaussian with the mean and the spectrum of
    `fields` such fields, averaged over the symmetries of the force. Cases are fields, not draws of it: the prior is
    wrong, as a fit is. Readings are those of the flow on `grid`, a truncated system below 128. Strongly nonlinear: at
    time 1 modes beyond the second are uncorrelated with those of the start.
    Good values: grid 32, 64 or 128 (theirs), every 2, 4 or 8, noise 0, 1 or 2, time 1; shorter times are easier.
    Raises ConfigError for a grid that is no multiple of 8 (one shift of the force is a whole number of points) or of
    `every`, or finer than `fine`.
    """

    name: ClassVar[str] = "navier_stokes2d_re200"
    linear: ClassVar[bool] = False
    periodic: ClassVar[tuple[bool, ...]] = (True, True)

    grid: Annotated[int, Interval(ge=16, le=256)] = 32
    every: PositiveInt = 2
    noise: NonNegative = 1.0
    time: Positive = 1.0
    fields: PositiveInt = 256
    fine: Annotated[int, Interval(ge=16, le=256)] = 64

    def __post_init__(self) -> None:
        if self.grid % 8:
            raise ConfigError(f"grid={self.grid} must be a multiple of 8")
        if self.grid % self.every:
            raise ConfigError(f"every={self.every} must divide grid={self.grid}: sensors are evenly spaced")
        if self.fine < self.grid:
            raise ConfigError(f"fine={self.fine} must be at least grid={self.grid}")

    @property
    def pde(self) -> KolmogorovFlow:
        """The equation, with the start and the final time as frames."""
        return _flow(self.time)

    def variables(self) -> tuple[Variable, ...]:
        """Vorticity at the start and at the end."""
        return (
            Variable("initial", ("y", "x"), "1", "vorticity at time 0", "input"),
            Variable("final", ("y", "x"), "1", f"vorticity at time {self.time:g}", "output"),
        )

    def coordinates(self) -> dict[str, np.ndarray]:
        """Points of the square."""
        return {d: v for d, v in self.pde.coordinates(self.grid).items() if d != "time"}

    def simulated(self, seeds: Sequence[int]) -> Tensor:
        """True fields `(len(seeds), y, x)`; row i depends on seed i alone."""
        start = START.draw(seeds, self.fine, 2)
        return cut(_flow(SPIN_UP).solve(Problem({"initial": start}))["vorticity"][:, 1], self.grid)

    def setup(self) -> Setup:
        """Prior measured on fields of seeds of its own; the spectral solver with its own discrete adjoint."""
        mean, spectrum = moments(self.simulated(derive_many(0, Purpose.CALIBRATION, range(self.fields))))
        std, pde = float(spectrum.mean()) ** 0.5, self.pde

        def solve(z: Tensor) -> Tensor:
            return pde.solve(Problem({"initial": std * z[:, 0]}))["vorticity"]

        along = torch.arange(0, self.grid, self.every)
        where, shape = torch.cartesian_prod(along, along), (2, self.grid, self.grid)
        layout = Layout(("initial", "final"), np.ones(len(where), int), placed(self.coordinates(), where), ("y", "x"))
        fields = Solution(solve)
        return Setup(
            prior=GaussianFieldPrior(mean[None] / std, spectrum[None] / std**2),
            draw=lambda seeds: self.simulated(seeds)[:, None] / std,
            fields=fields,  # type: ignore[arg-type]
            readings=PointSensors.at([1] * len(where), where.double(), shape, periodic=True) @ fields,  # type: ignore[arg-type]
            std=torch.full((len(where),), self.noise or EXACT, dtype=torch.float64),
            layout=layout,
        )


def _flow(time: float) -> KolmogorovFlow:
    return KolmogorovFlow(viscosity=1 / 200, drag=0.0, forcing=4, clock=Clock(frames=2, interval=time, step=STEP))


def cut(w: Tensor, grid: int) -> Tensor:
    """Fields (batch, y, x) on a coarser grid, their modes |k| < grid / 3 alone."""
    k = torch.fft.fftfreq(grid, 1.0 / grid, dtype=torch.float64)
    live, index = k.abs() <= (grid - 1) // 3, k.long() % w.shape[-1]
    modes = torch.fft.fft2(w)[:, index[:, None], index] * (live[:, None] & live)
    return torch.fft.ifft2(modes).real * (grid / w.shape[-1]) ** 2


def moments(w: Tensor) -> tuple[Tensor, Tensor]:
    """Mean (y, x) and mean spectrum about it of fields (batch, y, x), averaged over the symmetries of -4 cos 4 y.

    The law of w(y, x) is also that of w(y, x + a), w(y + pi / 2, x), w(-y, -x) and -w(y + pi / 4, -x).
    """
    grid = w.shape[-1]
    period = w.mean((0, 2)).reshape(4, grid // 4).mean(0)
    period = 0.5 * (period - period.roll(grid // 8))
    profile = 0.5 * (period + period.flip(0).roll(1))
    mean = profile.repeat(4)[:, None].expand(grid, grid)
    spectrum = torch.fft.fft2(w - mean).abs().square().mean(0) / grid**2
    return mean, 0.5 * (spectrum + spectrum.flip(1).roll(1, 1))
