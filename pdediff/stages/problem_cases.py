"""Cases of an inverse problem for the reconstruct stage: its own prior, readings and exact posterior."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import lru_cache
from pathlib import Path
from typing import Any, overload

import numpy as np
import torch
from torch import Tensor

from pdediff import config as configs
from pdediff.errors import ConfigError, NumericalError
from pdediff.observe import Observation, Operator
from pdediff.posterior import ExactGaussian, ExactMixture, GuidedSampling, Posterior
from pdediff.stages.priors import Prior
from pdediff.stages.problems import Case, InverseProblem, exact_moments, setup_of
from pdediff.stages.readings import Readings
from pdediff.types import Purpose, derive

Node = dict[str, Any]


@dataclass(frozen=True, eq=False)
class ProblemPrior(Prior):
    """The prior of a problem: its unknown z is what the denoiser knows, its fields are what is stored."""

    node: Node

    def latent(self, x: Tensor) -> Tensor:
        """The unknown z of rows of the denoiser, float64: the rows themselves."""
        return x.double()

    def seen(self, observation: Observation) -> Observation:
        """An observation of z as one of the denoiser's rows."""
        return observation

    def physical(self, z: Tensor) -> Tensor:
        """All fields of rows z of the denoiser, physical units, float64."""
        problem = problem_of(self.node)
        shape = (len(problem.variables()), *self.space)
        return _solved(setup_of(problem).fields, self.latent(z), shape)


@dataclass(frozen=True, eq=False, kw_only=True)
class ProblemReadings(Readings):
    """The readings of one case, whose operator and truth the problem knows."""

    node: Node
    seed: int

    def observation(self, prior: Prior) -> Observation:
        """The observation of rows of the prior's denoiser."""
        assert isinstance(prior, ProblemPrior)
        return prior.seen(self._case().observation)

    def predict_draws(self, prior: Prior, z: Tensor, x: Tensor) -> Tensor:
        """What the sensors would read of rows z of the denoiser, without noise."""
        assert isinstance(prior, ProblemPrior)
        return _solved(self._case().observation.operator, prior.latent(z), self.value.shape)

    def _case(self) -> Case:
        return _case_of(json.dumps(self.node, sort_keys=True), self.seed)

    def truth(self, prior: Prior, data: Path | None) -> np.ndarray:
        """The fields that were read, (channel, *space)."""
        return self._case().truth.numpy()

    def exact(self) -> dict[str, np.ndarray]:
        """Mean and standard deviation of the exact posterior, (channel, *space) each; nothing where there is none."""
        problem = problem_of(self.node)
        if not problem.linear:
            return {}
        mean, std = exact_moments(problem, self._case().observation)
        return {"exact_mean": mean.numpy(), "exact_std": std.numpy()}


def _solved(operator: Operator, z: Tensor, shape: tuple[int, ...]) -> Tensor:
    """operator(z), NaN in the rows that diverged or that the solver refuses: such draws are stored as what they are."""
    out = torch.full((len(z), *shape), torch.nan, dtype=z.dtype)
    finite = torch.isfinite(z).flatten(1).all(1)
    with torch.no_grad():
        try:
            if bool(finite.any()):
                out[finite] = operator(z[finite])
        except NumericalError:
            if len(z) == 1:
                return out
            return torch.cat([_solved(operator, row[None], shape) for row in z])
    return out


def problem_of(node: Node) -> InverseProblem:
    """The problem that a node describes; built once a process, so that what it computes once is kept."""
    return _problem_of(json.dumps(node, sort_keys=True))


@lru_cache(maxsize=4)
def _problem_of(node: str) -> InverseProblem:
    return configs.build("problem", json.loads(node))


@lru_cache(maxsize=1)
def _case_of(node: str, seed: int) -> Case:
    """The case of a problem, kept until the next: it may be a simulation of seconds."""
    return _problem_of(node).case(seed)


def problem_prior(node: Node) -> ProblemPrior:
    """The prior of a problem as stages know priors."""
    problem = problem_of(node)
    made, variables = setup_of(problem), problem.variables()
    names = [v.name for v in variables]
    meta = {
        "fields": names,
        "dims": list(variables[0].dims),
        "coordinates": problem.coordinates(),
        "periodic": problem.periodic,
        "units": {v.name: v.units for v in variables},
        "long_names": {v.name: v.long_name for v in variables},
        "roles": {v.name: v.role for v in variables},
        "pde": None,
        "seen": list(made.layout.names),
        "axes": list(made.layout.axes),
        "exact": ["exact_mean", "exact_std"] if problem.linear else [],
        "exact_law": "posterior under the prior of the draws",
    }
    zero = torch.zeros((), dtype=torch.float64)
    return ProblemPrior(made.prior, zero, zero + 1.0, meta, node)


@dataclass(frozen=True)
class ProblemCases(Sequence[ProblemReadings]):
    """Cases of a problem under a root seed, made when they are asked for: a worker makes its own.

    Each depends on the root and its own number alone.
    """

    node: Node
    seed: int
    numbers: range

    def __len__(self) -> int:
        return len(self.numbers)

    @overload
    def __getitem__(self, index: int) -> ProblemReadings: ...

    @overload
    def __getitem__(self, index: slice) -> ProblemCases: ...

    def __getitem__(self, index: int | slice) -> ProblemReadings | ProblemCases:
        if isinstance(index, slice):
            return replace(self, numbers=self.numbers[index])
        case = self.numbers[index]
        layout, own = setup_of(problem_of(self.node)).layout, derive(self.seed, Purpose.PROBLEM, case)
        seen = _case_of(json.dumps(self.node, sort_keys=True), own).observation
        value, std = seen.y.numpy(), seen.noise.std.numpy()
        return ProblemReadings(layout.field, layout.position, value, std, case, node=self.node, seed=own)


def problem_cases(node: Node, cases: int, seed: int) -> ProblemCases:
    """The first `cases` cases under a root seed."""
    return ProblemCases(node, seed, range(cases))


def require_fit(posterior: Posterior, prior: ProblemPrior) -> None:
    """ConfigError, in one line, for a method that cannot be applied to the problem and this prior of it at all.

    What a method needs of the readings it says itself when its guidance is made, which for these costs little.
    """
    problem = problem_of(prior.node)
    if posterior.linear_only and not problem.linear:
        method = type(posterior.guidance if isinstance(posterior, GuidedSampling) else posterior).__name__
        raise ConfigError(
            f"{method} needs readings that are linear in the unknown; those of problem={problem.name} are not",
            hint="use posterior=calibrated",
        )
    if isinstance(posterior, ExactGaussian | ExactMixture):  # each for its own kind of prior
        posterior(prior.denoiser, prior.seen(problem.case(0).observation), 1, 0)
    if isinstance(posterior, GuidedSampling):
        posterior.guidance(prior.denoiser, prior.seen(problem.case(0).observation))
