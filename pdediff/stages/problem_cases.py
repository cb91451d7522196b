"""Cases of an inverse problem for the reconstruct stage: its own prior, readings and exact posterior."""

from __future__ import annotations

import json
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from pdediff import config as configs
from pdediff.errors import ConfigError, NumericalError
from pdediff.observe import Observation, Operator
from pdediff.posterior import GuidedSampling, Posterior
from pdediff.stages.priors import Prior
from pdediff.stages.problems import Case, InverseProblem, exact_posterior, exact_std, setup_of
from pdediff.stages.readings import Readings
from pdediff.types import Purpose, derive

Node = dict[str, Any]


@dataclass(frozen=True, eq=False)
class ProblemPrior(Prior):
    """The prior of a problem: its unknown z is what the denoiser knows, its fields are what is stored."""

    node: Node

    def physical(self, z: Tensor) -> Tensor:
        """All fields of rows z, physical units, float64."""
        problem = problem_of(self.node)
        shape = (len(problem.variables()), *self.denoiser.shape[1:])
        return _solved(setup_of(problem).fields, z.double(), shape)


@dataclass(frozen=True, eq=False, kw_only=True)
class ProblemReadings(Readings):
    """The readings of one case, whose operator and truth the problem knows."""

    node: Node
    seed: int

    def observation(self, prior: Prior) -> Observation:
        """The observation of the unknown z."""
        return self._case().observation

    def predict_draws(self, prior: Prior, z: Tensor, x: Tensor) -> Tensor:
        """What the sensors would read of rows z, without noise."""
        return _solved(self._case().observation.operator, z.double(), self.value.shape)

    def _case(self) -> Case:
        return problem_of(self.node).case(self.seed)

    def truth(self, prior: Prior, data: Path | None) -> np.ndarray:
        """The fields that were read, (channel, *space)."""
        return self._case().truth.numpy()

    def exact(self) -> dict[str, np.ndarray]:
        """Mean and standard deviation of the exact posterior, (channel, *space) each; nothing where there is none."""
        problem = problem_of(self.node)
        if not problem.linear:
            return {}
        mean = exact_posterior(problem).mean(self._case().observation)
        return {"exact_mean": mean.numpy(), "exact_std": exact_std(problem).numpy()}


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
    }
    zero = torch.zeros((), dtype=torch.float64)
    return ProblemPrior(made.prior, zero, zero + 1.0, meta, node)


def problem_cases(node: Node, cases: int, seed: int) -> list[ProblemReadings]:
    """The first `cases` cases under a root seed; each depends on the root and its own number alone."""
    problem = problem_of(node)
    layout = setup_of(problem).layout
    out = []
    for case in range(cases):
        own = derive(seed, Purpose.PROBLEM, case)
        seen = problem.case(own).observation
        value, std = seen.y.numpy(), seen.noise.std.numpy()
        out.append(ProblemReadings(layout.field, layout.position, value, std, case, node=node, seed=own))
    return out


def require_fit(posterior: Posterior, node: Node) -> None:
    """ConfigError, in one line, for a method that cannot be applied to the problem at all.

    What a method needs of the readings it says itself when its guidance is made, which for these costs little.
    """
    problem = problem_of(node)
    if posterior.linear_only and not problem.linear:
        method = type(posterior.guidance if isinstance(posterior, GuidedSampling) else posterior).__name__
        raise ConfigError(
            f"{method} needs readings that are linear in the unknown; those of problem={problem.name} are not",
            hint="use posterior=calibrated",
        )
    if isinstance(posterior, GuidedSampling):
        posterior.guidance(setup_of(problem).prior, problem.case(0).observation)
