"""A trained prior in the place of a problem's own: the readings of the problem as readings of the prior's fields."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from pdediff.errors import ConfigError, MatchError
from pdediff.observe import Composed, Observation, Operator, Scaling, Selection
from pdediff.pdes import Variable
from pdediff.stages.priors import Prior
from pdediff.stages.problem_cases import Node, ProblemPrior, problem_of, problem_prior
from pdediff.stages.problems import InverseProblem, setup_of

ROUNDING = 1e-9
"""Relative error up to which a stored field counts as offset + scale * z."""


@dataclass(frozen=True, eq=False)
class LearnedPrior(ProblemPrior):
    """The rows of the denoiser are fields in the normalised units of its training; `inward` takes them to z."""

    inward: Operator

    def latent(self, x: Tensor) -> Tensor:
        """The unknown z of rows of the denoiser, float64."""
        return self.inward(x.double())

    def seen(self, observation: Observation) -> Observation:
        """An observation of z as one of the denoiser's rows."""
        return replace(observation, operator=Composed(observation.operator, self.inward))


class Unknown(NamedTuple):
    """The stored field that is the unknown itself: offset + scale * z, pointwise; (1, *space) each."""

    variable: Variable
    offset: Tensor
    scale: Tensor


def unknown_of(problem: InverseProblem) -> Unknown:
    """Which field of a problem is its unknown, found by trying: that of z = 0, of z = 1 and of a draw.

    Where a field does not depend on z, as on an edge where it is 0, `scale` is 0. Raises ConfigError where no field is
    the unknown, or more than one number a point is unknown.
    """
    made = setup_of(problem)
    shape = made.prior.shape
    drawn = made.draw((0,))
    with torch.no_grad():
        fields = made.fields(torch.cat([torch.zeros_like(drawn), torch.ones_like(drawn), drawn]))
    if shape[0] == 1 and fields.shape[2:] == shape[1:]:
        for channel, variable in enumerate(problem.variables()):
            low, high, found = fields[:, channel, None]
            off = found - low - (high - low) * drawn[0]
            if bool((high != low).any()) and float(off.abs().max()) <= ROUNDING * float(found.abs().max()):
                return Unknown(variable, low, high - low)
    raise ConfigError(
        f"problem={problem.name} takes no trained prior: none of its fields is its unknown",
        hint="leave prior= out: it has a prior of its own",
    )


def learned_prior(node: Node, name: str, trained: Prior) -> LearnedPrior:
    """The prior of the run `name` for the readings of a problem.

    Its channel of the unknown's name gives z; what else it knows is drawn along and not read. Raises MatchError where
    that channel is missing, or lies on another grid or in other units.
    """
    problem = problem_of(node)
    unknown = unknown_of(problem)
    wanted = unknown.variable
    if wanted.name not in trained.fields:
        raise MatchError(
            f"prior {name} knows ({', '.join(trained.fields)}); the unknown of problem={problem.name} is {wanted.name}",
            hint=f"pdediff train data=NAME fields=[{wanted.name}]",
        )
    _require_grid(problem, name, trained)
    units = trained.meta["units"][wanted.name]
    if units != wanted.units:
        raise MatchError(f"prior {name} was trained on {wanted.name} in {units!r}; problem= has {wanted.units!r}")
    channel = trained.fields.index(wanted.name)
    offset, scale = (t[channel : channel + 1].cpu().double() for t in (trained.offset, trained.scale))
    # Where the field says nothing of z, z is 0: no reading depends on it.
    inverse = torch.where(unknown.scale != 0, 1 / unknown.scale, 0.0)
    inward = Composed(Scaling((offset - unknown.offset) * inverse, scale * inverse), Selection((channel,)))
    own = problem_prior(node)
    meta = own.meta | {"exact_law": "posterior under the problem's own prior, not under that of the draws"}
    return LearnedPrior(trained.denoiser, own.offset, own.scale, meta, node, inward)  # type: ignore[arg-type]


def _require_grid(problem: InverseProblem, name: str, trained: Prior) -> None:
    wanted, found = problem.coordinates(), {dim: trained.coordinates[dim] for dim in trained.dims}
    same = list(wanted) == list(found) and all(len(v) == len(found[d]) for d, v in wanted.items())
    if not same or not all(np.allclose(v, found[d], rtol=0, atol=1e-6) for d, v in wanted.items()):
        shapes = [f"{'x'.join(str(len(v)) for v in c.values())} points of ({', '.join(c)})" for c in (found, wanted)]
        same_size = shapes[0] == shapes[1]
        raise MatchError(
            f"prior {name} was trained on {shapes[0]}; problem={problem.name} has "
            + ("other coordinates there" if same_size else shapes[1]),
            hint=f"problem.grid={trained.denoiser.shape[-1]}, or a prior trained on the problem's grid",
        )
