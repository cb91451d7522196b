"""Pilot noises with the exact end of their flow: what every plan is judged by."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from pdediff.diffusion import Denoiser
from pdediff.errors import ConfigError, NumericalError
from pdediff.samplers.ab_pc import PC
from pdediff.samplers.field import Parameterisation
from pdediff.samplers.grids import uniform_lambda
from pdediff.samplers.pilot import Basis, Objective, Survey, modes_of
from pdediff.samplers.plan import Plan, Sampler
from pdediff.samplers.runner import run
from pdediff.samplers.sample import gaussian_start
from pdediff.types import Purpose, Seeds, derive_many

Half = Literal["train", "held-out"]


@dataclass(frozen=True, eq=False)
class Batch:
    """Noises and where the flow takes them: seeds, start and truth (batch, channel, *space)."""

    seeds: Seeds
    start: Tensor
    truth: Tensor


class Pilots:
    """Two sets of `rows` noises between two levels, one to tune on and one to judge the result.

    The truth is a run of PC4 in data prediction over `reference` equal steps of log sigma; the run of the training
    noises also places the pilot grids of all candidates. Errors are root mean squares over rows and modes of the
    difference at the end, relative to the standard deviation of each mode for the objective "spectral". `evaluations`
    counts what was spent so far in calls of the denoiser on `rows` rows, the two reference runs included.

    Good values: the defaults; `reference` at least four times the steps of the plans. `basis` "point" for data whose
    modes are its points. `ConfigError` unless sigma_max > sigma_min > 0, rows >= 2 and reference >= 24.
    """

    def __init__(
        self,
        denoiser: Denoiser,
        sigma_max: float,
        sigma_min: float,
        *,
        objective: Objective = "rms",
        seed: int = 0,
        rows: int = 64,
        reference: int = 320,
        basis: Basis = "fourier",
    ) -> None:
        if not 0.0 < sigma_min < sigma_max < math.inf or rows < 2 or reference < 24:
            raise ConfigError(
                f"pilots need sigma_max > sigma_min > 0, 2 rows and 24 reference steps, "
                f"got {sigma_max=}, {sigma_min=}, {rows=}, {reference=}"
            )
        self.denoiser, self.sigma_max, self.sigma_min = denoiser, float(sigma_max), float(sigma_min)
        self.objective: Objective = objective
        self.basis: Basis = basis
        self.evaluations = 0
        self._surveys: dict[tuple[tuple[Parameterisation, int], ...], Survey] = {}
        self._fine = PC("x0", 4).plan(uniform_lambda(sigma_max, sigma_min, reference))
        seeds = derive_many(seed, Purpose.PILOT, range(2 * rows))
        self._halves: dict[Half, Batch] = {"train": self._batch(seeds[:rows]), "held-out": self._batch(seeds[rows:])}
        modes = modes_of(self.train.truth, basis)
        std = (modes - modes.mean(0)).abs().square().mean(0).sqrt()
        self.s = float(std.double().square().mean().sqrt())
        self._scale = std.clamp(min=1e-12 * float(std.max())) if objective == "spectral" else torch.ones_like(std)

    @property
    def train(self) -> Batch:
        """The noises plans are tuned on."""
        return self._halves["train"]

    @property
    def held_out(self) -> Batch:
        """The noises results are judged on."""
        return self._halves["held-out"]

    def _batch(self, seeds: Sequence[int]) -> Batch:
        start = gaussian_start(self.denoiser, self.sigma_max, seeds)
        self.evaluations += self._fine.nfe
        return Batch(tuple(seeds), start, run(self._fine, self.denoiser, start, seeds))

    def grids(self, samplers: Sequence[Sampler], steps: int) -> list[list[float]]:
        """The pilot grid of each sampler; one more fine run, whatever the number of samplers and of calls."""
        integrators = tuple(sampler.integrator(steps) for sampler in samplers)
        survey = self._surveys.get(integrators)
        if survey is None:
            survey = self._surveys[integrators] = Survey(integrators, max(1, self._fine.nfe // 60), self.basis)
            run(self._fine, self.denoiser, self.train.start, self.train.seeds, observe=survey)
            self.evaluations += self._fine.nfe
        return survey.grids(self.train.truth, steps, self.sigma_max, self.sigma_min, self.objective)

    def residual(self, plan: Plan, half: Half = "train") -> Tensor | None:
        """What the plan misses, in units of the error: its square sum is error^2 times its length. None if it diverges.

        A vector of rows times modes; of twice that length for Fourier modes of real fields.
        """
        if plan.stochastic or plan.inputs != ("x",):
            raise ConfigError("only a plan without noise that starts from a state has an error on the pilot noises")
        self.evaluations += plan.nfe
        batch = self._halves[half]
        try:
            end = run(plan, self.denoiser, batch.start, batch.seeds)
        except NumericalError:
            return None
        missed = modes_of(end - batch.truth, self.basis) / self._scale
        if missed.is_complex():
            # Twice the entries, of which the square sum is the same: the root restores the mean.
            missed = math.sqrt(2.0) * torch.view_as_real(missed)
        return missed.flatten()

    def error(self, plan: Plan, half: Half = "train") -> float:
        """Root mean square of `residual`; infinite if the plan diverges."""
        return size_of(self.residual(plan, half))


def size_of(residual: Tensor | None) -> float:
    """Root mean square; infinite for None."""
    return math.inf if residual is None else float(residual.double().square().mean().sqrt())
