"""Part `assimilation`: the truth, what is read of it, the solver as a model, and what is called an error."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from pdediff.diffusion import DenseCovariance, isotropic
from pdediff.observe import GaussianNoise, Observation, mask_sensors
from pdediff.pdes.etdrk import ETDRK
from pdediff.pdes.modes import Modes
from pdediff.posterior import StateSpace
from pdediff.stages.benchmarks.forecast_assimilation_setting import AssimilationRun, Series
from pdediff.types import Purpose, derive, derive_many, generator, normal


@dataclass(frozen=True, eq=False)
class World:
    """Truth and readings (case, frame, 1, x), float64, which count where `mask`; `std` is that of their errors."""

    truth: Tensor
    readings: Tensor
    mask: Tensor
    std: float

    def observations(self, case: int) -> tuple[Observation | None, ...]:
        """The readings of one case, frame by frame."""
        return tuple(
            Observation(y[m], mask_sensors(m), GaussianNoise(torch.full((int(m.sum()),), self.std).double()))
            if bool(m.any())
            else None
            for y, m in zip(self.readings[case], self.mask[case], strict=True)
        )


@dataclass(frozen=True, eq=False)
class Climate:
    """Mean (1, x) and covariance of single states, invariant under shifts as the equation is."""

    mean: Tensor
    covariance: DenseCovariance

    @classmethod
    def of(cls, frames: Tensor) -> Climate:
        """From states (n, x)."""
        u = frames.double()
        power = torch.fft.rfft(u - u.mean()).abs().square().mean(0)
        row = torch.fft.irfft(power, n=u.shape[1]) / u.shape[1]
        matrix = torch.stack([row.roll(i) for i in range(len(row))])
        return cls(torch.full((1, u.shape[1]), float(u.mean())).double(), DenseCovariance(matrix, (1, u.shape[1])))


class Solver:
    """One frame to the next by the equation itself, with the kernels of the integrator made once."""

    def __init__(self, series: Series) -> None:
        pde, one = series.pde(2), torch.ones(1, dtype=torch.float64)
        self.modes = Modes(series.grid, 1, series.length * one, {"viscosity": one})
        self.steps = pde.clock.steps
        self.stepper = ETDRK(pde, self.modes, series.interval / self.steps)
        self._sized: dict[int, ETDRK] = {}  # each holds the memory of its number of rows

    @torch.no_grad()
    def __call__(self, x: Tensor) -> Tensor:
        stepper = self._sized.setdefault(len(x), self.stepper.with_kernels(self.stepper.kernels))
        return self.modes.to_space(stepper.advance(self.modes.project(x[:, 0]), self.steps))[:, None]


def world(run: AssimilationRun, cases: int, seed: int, blank: float) -> World:
    """Trajectories on the attractor and the readings of them; truth and errors do not depend on `blank`."""
    pde, sensors = run.series.pde(run.series.total), run.readings
    problem = pde.draw(derive_many(seed, Purpose.PROBLEM, range(cases)), run.series.grid)
    truth = pde.solve(problem)["u"][:, :, None].double()
    std = sensors.noise * float(truth.square().mean().sqrt())
    eps = normal(derive_many(seed, Purpose.MEASUREMENT, range(cases)), truth.shape[1:], dtype=torch.float64)
    draw = generator(derive(seed, Purpose.SENSORS))
    there = torch.rand(truth.shape, generator=draw) >= sensors.missing
    frame = torch.rand((*truth.shape[:2], 1, 1), generator=draw) >= blank
    lattice = torch.arange(truth.shape[-1]) % sensors.spacing == 0
    return World(truth, truth + std * eps, there & frame & lattice, std)


def state_space(at: World, case: int, climate: Climate, step: Solver) -> StateSpace:
    """The series of one case, begun from the climate."""
    return StateSpace(climate.mean, climate.covariance, step, isotropic(climate.mean.shape, 0.0), at.observations(case))


def relative(found: Tensor, truth: Tensor) -> float:
    """Mean over cases and frames of ||found - truth|| / ||truth||; infinite where one is not finite."""
    error = (found.double() - truth).flatten(2).norm(dim=2) / truth.flatten(2).norm(dim=2)
    value = float(error.mean())
    return value if np.isfinite(value) else float("inf")


def ahead(run: AssimilationRun, analyses: Tensor, truth: Tensor, advance: object) -> float:
    """`relative` of forecasts to the lead time from every fifth judged analysis; `advance` (batch, 1, x) a frame."""
    series = run.series
    starts = torch.arange(series.spin_up, series.total - series.lead, 5)
    x = analyses[:, starts].flatten(0, 1)
    for _ in range(series.lead):
        x = advance(x)  # type: ignore[operator]
    return relative(x.reshape(truth[:, starts].shape), truth[:, starts + series.lead])
